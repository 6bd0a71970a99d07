"""A WebSocket to an ASGI application that runs in `InProcess`."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any, Self

from starlette.types import Message

from tests.support.in_process import InProcess


class Denied(Exception):
    """The handshake was refused; `status` is the answer's."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with {status}")
        self.status = status


class InProcessSocket:
    """``with InProcessSocket(http, "/path?query", headers) as socket``: say text or bytes, hear answers."""

    def __init__(self, http: InProcess, url: str, headers: dict[str, str] | None = None) -> None:
        self._http = http
        path, _, query = url.partition("?")
        named = {"host": "127.0.0.1:8000", **(headers or {})}
        self._scope = {
            "type": "websocket",
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8000),
            "root_path": "",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }

    def __enter__(self) -> Self:
        self._ended: concurrent.futures.Future[Any] = self._http.portal.call(self._begin)
        first = self._hear()
        if first["type"] == "websocket.http.response.start":
            raise Denied(first["status"])
        assert first["type"] == "websocket.accept", first
        return self

    def __exit__(self, *error: object) -> None:
        self._say({"type": "websocket.disconnect", "code": 1000})
        self._http.portal.call(self._until_ended)

    async def _begin(self) -> Any:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        return asyncio.ensure_future(self._http._app(self._scope, self._inbox.get, self._outbox.put))

    async def _until_ended(self) -> None:
        await asyncio.wait_for(self._ended, 30)  # type: ignore[arg-type]  # the task of the portal's loop

    def _say(self, message: Message) -> None:
        self._http.portal.call(self._inbox.put, message)

    def _hear(self) -> Message:
        async def next_one() -> Message:
            return await asyncio.wait_for(self._outbox.get(), 30)

        return self._http.portal.call(next_one)

    def send_text(self, text: str) -> None:
        self._say({"type": "websocket.receive", "text": text})

    def send_bytes(self, data: bytes) -> None:
        self._say({"type": "websocket.receive", "bytes": data})

    def receive_text(self) -> str:
        message = self._hear()
        return str(message["text"])

    def receive_bytes(self) -> bytes:
        message = self._hear()
        return bytes(message["bytes"])

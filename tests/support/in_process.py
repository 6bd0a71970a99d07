"""An ASGI application and a plain client of it, in this process, with its lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Self

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.types import ASGIApp, Message


class InProcess:
    """``with InProcess(app) as http: http.get("/info/")``. The application runs in an event loop of another thread.

    Args:
        address: where the caller seems to be.
        base_url: what the caller thinks the server is called.
    """

    def __init__(self, app: ASGIApp, *, address: str = "127.0.0.1", base_url: str = "http://127.0.0.1:8000") -> None:
        self._app = app
        self._address = address
        self._base_url = base_url
        self._stack = ExitStack()
        self.portal: BlockingPortal

    def __enter__(self) -> Self:
        self.portal = self._stack.enter_context(start_blocking_portal())
        self._stack.enter_context(self.portal.wrap_async_context_manager(_Lifespan(self._app)))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=(self._address, 50_000))
            async with httpx.AsyncClient(transport=transport, base_url=self._base_url) as client:
                return await client.request(method, url, **options)

        return self.portal.call(ask)

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Any) -> httpx.Response:
        return self.request("HEAD", url, **options)

    def post(self, url: str, **options: Any) -> httpx.Response:
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> httpx.Response:
        return self.request("PUT", url, **options)

    def delete(self, url: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", url, **options)

    def options(self, url: str, **options: Any) -> httpx.Response:
        return self.request("OPTIONS", url, **options)

    def leave_during(self, method: str, path: str, query: str, until: Callable[[], Awaitable[None]]) -> list[Message]:
        """Send a request without body and disconnect once `until` has returned. Returns what was sent back."""

        async def ask() -> list[Message]:
            sent: list[Message] = []
            first = True

            async def receive() -> Message:
                nonlocal first
                if first:
                    first = False
                    return {"type": "http.request", "body": b"", "more_body": False}
                await until()
                return {"type": "http.disconnect"}

            async def send(message: Message) -> None:
                sent.append(message)

            scope = {
                "type": "http",
                "http_version": "1.1",
                "method": method,
                "scheme": "http",
                "path": path,
                "raw_path": path.encode(),
                "query_string": query.encode(),
                "headers": [(b"host", b"127.0.0.1:8000")],
                "client": (self._address, 50_000),
                "server": ("127.0.0.1", 8000),
                "root_path": "",
            }
            await self._app(scope, receive, send)
            return sent

        return self.portal.call(ask)


class _Lifespan:
    """Starts the application on entry and stops it on exit, in one task of the loop it is entered in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __aenter__(self) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._task = asyncio.ensure_future(self._app(scope, self._inbox.get, self._outbox.put))
        await self._say("lifespan.startup")

    async def __aexit__(self, *error: object) -> None:
        await self._say("lifespan.shutdown")
        await self._task

    async def _say(self, kind: str) -> None:
        await self._inbox.put({"type": kind})
        heard = await asyncio.wait_for(self._outbox.get(), 30)
        assert heard["type"] == f"{kind}.complete", heard

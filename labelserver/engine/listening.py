"""The door through which workers come in: a private socket, and one token for each worker that was started.

The socket lies in a fresh folder of mode 0700; who connects must send its token first, and a token opens the door once.
Whoever sends anything else, or nothing for ten seconds, is dropped with a line in the log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import tempfile
from pathlib import Path

from labelserver.engine.frames import FrameStream, MalformedFrame

logger = logging.getLogger(__name__)

#: bytes; sockaddr_un takes 108 on Linux and 104 elsewhere.
MAX_SOCKET_PATH = 100
HELLO_TIMEOUT_S = 10.0


class Listener:
    """An open socket, until `close`."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None
        self._expected: dict[str, asyncio.Future[FrameStream]] = {}

    @property
    def path(self) -> str:
        """Where workers connect."""
        assert self._folder is not None, "open() comes first"
        return str(self._folder / "w")

    async def open(self) -> None:
        self._folder = _private_folder()
        self._server = await asyncio.start_unix_server(self._welcome, self.path)

    async def close(self) -> None:
        """Stop listening; streams that came in stay open. Safe to call twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for future in self._expected.values():
            future.cancel()
        self._expected.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def expect(self) -> tuple[str, asyncio.Future[FrameStream]]:
        """A fresh token, and the stream of whoever brings it."""
        token = secrets.token_hex(32)
        future: asyncio.Future[FrameStream] = asyncio.get_running_loop().create_future()
        self._expected[token] = future
        return token, future

    def forget(self, token: str) -> None:
        """Nobody will come with this token any more."""
        self._expected.pop(token, None)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = FrameStream(reader, writer)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                frame = await stream.read()
        except (MalformedFrame, TimeoutError) as error:
            logger.warning(
                "dropped a connection that did not greet as a worker",
                extra={"error": str(error) or "no greeting in time"},
            )
            stream.close()
            return
        token = frame.header.get("token") if frame is not None and frame.header.get("kind") == "hello" else None
        future = self._expected.pop(token, None) if isinstance(token, str) else None
        if future is None or future.done():
            logger.warning("dropped a connection without a valid token")
            stream.close()
            return
        future.set_result(stream)


def _private_folder() -> Path:
    """A new folder that only this user can enter, with a path short enough for a socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="labelserver-"))
    if len(str(folder / "w").encode()) < MAX_SOCKET_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="labelserver-", dir="/tmp"))

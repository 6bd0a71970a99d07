"""An application that runs in this process behind real ports, for clients that insist on a network."""

from __future__ import annotations

import socket
from types import TracebackType

import uvicorn
from anyio.from_thread import BlockingPortal
from starlette.types import ASGIApp

from tests.support.live_server import wait_until


class Served:
    """``with Served(app, portal) as server: requests.get(server.url)``. Every port serves the same application.

    Args:
        app: its lifespan is somebody else's business.
        portal: into the event loop that it runs in.
        ports: 0: a free one.
    """

    def __init__(self, app: ASGIApp, portal: BlockingPortal, *ports: int) -> None:
        self._portal = portal
        self._sockets = []
        for port in ports or (0,):
            bound = socket.socket()
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("127.0.0.1", port))
            self._sockets.append(bound)
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))

    @property
    def ports(self) -> list[int]:
        return [int(bound.getsockname()[1]) for bound in self._sockets]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def __enter__(self) -> Served:
        self._running = self._portal.start_task_soon(self._server.serve, self._sockets)
        wait_until("the start of the server", lambda: self._server.started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._running.result(30)

"""Run the wired server under uvicorn: the one line for people, signals, and a clean end.

SIGINT and SIGTERM end it in this order: no new connections, running requests finish (up to `GRACE_S`), jobs are asked
to stop at their next step, workers end, locks are released. A second signal does not wait for requests.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer
import uvicorn

from labelserver.api.application import create_app
from labelserver.bootstrap import build_server
from labelserver.cli import logs
from labelserver.cli.failing import CommandFailed
from labelserver.settings import Settings

#: seconds that running requests get to finish once the server is asked to stop
GRACE_S = 15

#: Seconds after which a thread that calculates lets the others go on. An answer asks the index several times and waits
#: for such a thread each time; Python's own 5 ms would make it some hundredths of a second.
_SWITCH_S = 0.0005

SIGNALS = (signal.SIGINT, signal.SIGTERM)


#: bytes of one WebSocket message: the packed mask of a large image.
WS_MAX_BYTES = 64 * 2**20


class _Uvicorn(uvicorn.Server):
    """uvicorn that says where it listens in our words and leaves the process alive after a signal."""

    def __init__(self, config: uvicorn.Config, settings: Settings, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._settings = settings
        self._on_exit = on_exit

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started and self.servers:
            port = int(self.servers[0].sockets[0].getsockname()[1])
            typer.echo(welcome(self._settings, port, tls=bool(self.config.ssl_certfile)))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            typer.echo(farewell(self._settings))
            self._on_exit()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal once more at the end: that would skip our own clean-up."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def welcome(settings: Settings, port: int, *, tls: bool) -> str:
    """The one line: what to open, what to try with curl."""
    name = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host  # noqa: S104 - compared, not bound
    url = f"{'https' if tls else 'http'}://{f'[{name}]' if ':' in name else name}:{port}{settings.api_prefix}"
    return f"Ready for viewers. Open {url}/ to label, or try: curl {url}/info/"


def farewell(settings: Settings) -> str:
    if settings.leave_jobs:
        return "Stopping; jobs run on and are watched again at the next start."
    return "Stopping; jobs stop at their next step with a checkpoint and go on at the next start."


def serve(settings: Settings, options: dict[str, Any], verbose: str | None, log_config: Path | None) -> None:
    """Serve until a signal.

    Raises:
        LabelServerError: the settings make no sense, or another server owns a folder.
        CommandFailed: the port is taken.
    """
    server = build_server(settings)
    sys.setswitchinterval(_SWITCH_S)
    try:
        logs.set_up(
            server.roots.app / "logs",
            level=verbose or "INFO",
            console_level=verbose or "WARNING",
            config_file=log_config,
        )
        config = uvicorn.Config(
            create_app(server),
            host=settings.host,
            port=settings.port,
            root_path=settings.root_path,
            log_config=None,
            proxy_headers=settings.behind_proxy,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            ws="websockets-sansio",
            ws_max_size=WS_MAX_BYTES,
            **options,
        )
        running = _Uvicorn(config, settings, server.events.close)  # streams without end must not be waited for
        try:
            running.run(_sockets(config, settings))
        except SystemExit as error:  # uvicorn's word for an address it cannot have
            raise _taken(settings) from error
        if not running.started:
            raise _taken(settings)
    finally:
        server.close()


def _sockets(config: uvicorn.Config, settings: Settings) -> list[socket.socket] | None:
    """The second port beside the first, if a model is to be found there. Raises `CommandFailed`."""
    if not settings.nni_model:
        return None
    first, second = config.bind_socket(), socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        second.bind((settings.host, settings.nni_port))
    except OSError as error:
        raise CommandFailed(
            f"The port {settings.nni_port} for clients of nnInteractive cannot be had: {error.strerror}. "
            "Choose another with LABELSERVER_NNI_PORT."
        ) from error
    return [first, second]


def _taken(settings: Settings) -> CommandFailed:
    home = settings.app_dir if settings.has_app else settings.state_dir / "app"
    return CommandFailed(
        f"The server could not start on {settings.host}:{settings.port}. If another program has the port, choose one "
        f"with --port; the log in {home / 'logs' / logs.FILE_NAME} says more."
    )

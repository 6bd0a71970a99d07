"""The worker: connects to its server, loads the app, and answers until the stream ends.

Threads:

- *main* loads the app and runs inferences, one after another (torch and signal handlers want the main thread);
- *lead* runs all other calls, one after another, so that a strategy never waits behind an inference;
- *reader* takes frames in. It alone ends the process: once the stream ends there is nobody to work for, whatever the
  other threads are doing. A server that was killed leaves no worker behind.

A cancel sets a flag that the running task sees as ``current_progress().should_stop()``.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from labelserver import settings as settings_module
from labelserver.contracts.progress import Silent, watched_by
from labelserver.domain.errors import (
    AppFailed,
    AppLoadFailed,
    DeviceMemoryFull,
    LabelServerError,
    StorageFailed,
    TaskFailed,
    TooLarge,
)
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.paths import RootedPath, Roots
from labelserver.engine.frames import Frame, FrameSocket, MalformedFrame
from labelserver.engine.workers import INFER_LANE, LEAD_LANE
from labelserver.settings import Settings
from labelserver.worker import calls
from labelserver.worker.failures import as_error, free_memory
from labelserver.worker.hosted import HostedApp, Loader

logger = logging.getLogger(__name__)

#: seconds that the other threads get to end once the stream has ended.
LEAVE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the server says on stdin."""

    worker: str
    socket: str
    token: str
    lead: bool
    settings: Settings
    roots: Roots
    spool: RootedPath

    @classmethod
    def read(cls) -> Greeting:
        """Read the first line of stdin, and leave stdin empty for the app."""
        document = json.loads(sys.stdin.readline())
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        return cls(
            worker=str(document["worker"]),
            socket=str(document["socket"]),
            token=str(document["token"]),
            lead=bool(document["lead"]),
            settings=Settings(**document["settings"]),
            roots=roots_from_json(document["roots"]),
            spool=RootedPath.from_json(document["spool"]),
        )


def roots_from_json(document: JsonObject) -> Roots:
    """The roots as a greeting or a job's ``settings.json`` gives them."""
    return Roots(Path(str(document["app"])), Path(str(document["studies"])), Path(str(document["state"])))


def install_settings(settings: Settings) -> None:
    """Make `settings` those of this process, and of the processes that the app may start."""
    settings_module.install(settings)
    os.environ.update(settings.to_environment())


@dataclass(slots=True)
class _Request:
    """A call in a lane. `cancelled` is what its task sees as `should_stop`."""

    call_id: int
    method: str
    params: JsonObject
    cancelled: threading.Event = field(default_factory=threading.Event)


class _Watched(Silent):
    """The progress of a call: nobody listens, but it may be asked to stop."""

    def __init__(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled

    def should_stop(self) -> bool:
        return self._cancelled.is_set()


class _Lanes:
    """The waiting calls of both lanes, and the ones under way."""

    def __init__(self) -> None:
        self._queues: dict[str, queue.SimpleQueue[_Request | None]] = {
            INFER_LANE: queue.SimpleQueue(),
            LEAD_LANE: queue.SimpleQueue(),
        }
        self._open: dict[int, _Request] = {}

    def put(self, header: JsonObject) -> None:
        """Raises `MalformedFrame`."""
        call_id, lane, params = header.get("id"), header.get("lane"), header.get("params")
        if not isinstance(call_id, int) or lane not in self._queues or not isinstance(params, dict):
            raise MalformedFrame("A request needs an id, a lane and params.")
        request = _Request(call_id, str(header.get("method")), params)
        self._open[call_id] = request
        self._queues[str(lane)].put(request)

    def cancel(self, header: JsonObject) -> None:
        call_id = header.get("id")
        request = self._open.get(call_id) if isinstance(call_id, int) else None
        if request is not None:
            request.cancelled.set()

    def take(self, lane: str) -> _Request | None:
        """The next call; None once the stream has ended."""
        return self._queues[lane].get()

    def done(self, request: _Request) -> None:
        self._open.pop(request.call_id, None)

    def close(self) -> None:
        """Cancel everything and let both threads end."""
        for request in list(self._open.values()):
            request.cancelled.set()
        for waiting in self._queues.values():
            waiting.put(None)


class Serving:
    """One worker's life."""

    def __init__(self, greeting: Greeting, loader: Loader) -> None:
        self._greeting = greeting
        self._loader = loader
        self._socket = FrameSocket.connect(greeting.socket)
        self._lanes = _Lanes()

    def run(self) -> int:
        """Serve until the stream ends. Returns the exit status."""
        self._socket.write(Frame({"kind": "hello", "token": self._greeting.token, "pid": os.getpid()}))
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        self._use_spool()
        install_settings(self._greeting.settings)
        host = self._load()
        if host is None:
            return 1
        lead = threading.Thread(target=self._work, args=(host, LEAD_LANE), name="lead", daemon=True)
        lead.start()
        self._work(host, INFER_LANE)
        return 0

    def _use_spool(self) -> None:
        """Temporary files of tasks lie beside the results, so that handing one over is a rename."""
        spool = self._greeting.roots.resolve(self._greeting.spool)
        shutil.rmtree(spool, ignore_errors=True)
        spool.mkdir(parents=True)
        tempfile.tempdir = str(spool)

    def _load(self) -> calls.Host | None:
        """Load and describe the app; tell the server how that went."""
        greeting = self._greeting
        try:
            app: HostedApp = self._loader.load(greeting.settings, greeting.roots)
            app.server_mode(True)
            description = self._loader.describe(app, greeting.settings, greeting.roots)
        except BaseException as error:  # the user's code, which may even call sys.exit
            logger.exception("the app could not be loaded")
            failure = as_error(error, "The app")
            told = (
                failure
                if isinstance(failure, AppLoadFailed)
                else AppLoadFailed(f"{failure.message} while it was loaded; the worker's log says where.")
            )
            self._send({"kind": "load_failed", "error": told.to_json()})
            return None
        self._send({"kind": "ready", "description": description.to_json()})
        return calls.Host(app, greeting.roots)

    def _work(self, host: calls.Host, lane: str) -> None:
        """Run the calls of one lane until the stream ends."""
        while (request := self._lanes.take(lane)) is not None:
            try:
                self._answer(host, request)
            finally:
                self._lanes.done(request)

    def _answer(self, host: calls.Host, request: _Request) -> None:
        if request.cancelled.is_set():
            self._fail(request, TaskFailed("The request was cancelled before it began."))
            return
        self._send({"kind": "started", "id": request.call_id})
        try:
            with watched_by(_Watched(request.cancelled)):
                result = calls.call(host, request.method, request.params)
        except (Exception, SystemExit) as error:  # the user's code; the traceback is for the log
            failure = as_error(error, calls.speaker(request.method, request.params))
            if isinstance(error, LabelServerError) and not isinstance(error, AppFailed | StorageFailed):
                logger.info("request refused", extra={"method": request.method, "error": failure.message})
            else:
                logger.exception("request failed", extra={"method": request.method})
            memory_full = isinstance(failure, DeviceMemoryFull)
        else:
            self._succeed(request, result)
            return
        if memory_full:  # here, where no traceback holds the tensors any more
            free_memory()
        self._fail(request, failure)

    def _succeed(self, request: _Request, result: JsonValue) -> None:
        try:
            self._send({"kind": "answer", "id": request.call_id, "result": result})
        except TooLarge as error:
            self._fail(request, error)

    def _fail(self, request: _Request, error: LabelServerError) -> None:
        self._send({"kind": "failed", "id": request.call_id, "error": error.to_json()})

    def _send(self, header: JsonObject) -> None:
        try:
            self._socket.write(Frame(header))
        except OSError:  # the server is gone; the reader ends this process
            logger.info("an answer has nobody to go to any more")

    def _read(self) -> None:
        """Take frames in until the stream ends, then end the process."""
        try:
            while (frame := self._socket.read()) is not None:
                if frame.header.get("kind") == "request":
                    self._lanes.put(frame.header)
                elif frame.header.get("kind") == "cancel":
                    self._lanes.cancel(frame.header)
                else:
                    raise MalformedFrame(f"A server does not send messages of the kind {frame.header.get('kind')!r}.")
        except MalformedFrame as error:
            logger.error("the server broke the protocol", extra={"error": error})
        except OSError as error:
            logger.error("the stream failed", extra={"error": error})
        self._lanes.close()
        threading.main_thread().join(LEAVE_TIMEOUT_S)
        if threading.main_thread().is_alive():  # busy with what nobody waits for
            logging.shutdown()
            if os.getpgrp() == os.getpid():  # as started by the server: its children go with it
                os.killpg(os.getpgrp(), signal.SIGKILL)
            os._exit(0)


def serve(loader: Loader) -> int:
    """Read the greeting, serve, return the exit status."""
    return Serving(Greeting.read(), loader).run()

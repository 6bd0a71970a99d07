"""The worker: connects to its server, loads the app, and answers until the stream ends.

Threads:

- *main* loads the app and runs inferences, one after another (torch and signal handlers want the main thread);
- *click* answers prompts of interactive sessions, *ask* inferences with clicks, *open* opens images for sessions: each
  one after another, so that none of them waits behind an inference of half a minute;
- *lead* runs all other calls, one after another, so that a strategy never waits behind an inference either;
- *reader* takes frames in. It alone ends the process: once the stream ends there is nobody to work for, whatever the
  other threads are doing. A server that was killed leaves no worker behind.

A cancel sets a flag that the running task sees as ``current_progress().should_stop()``. There, between two transforms
or windows, a running inference also gives way: it waits while clicks are waiting or running, so that they have the
device and the processors to themselves (at most `GIVE_WAY_S` at a time, so that it gets on, too).
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
from labelserver.domain.interaction import SessionAnswer
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.paths import RootedPath, Roots
from labelserver.engine.frames import Frame, FrameSocket, MalformedFrame
from labelserver.engine.workers import ASK_LANE, CLICK_LANE, INFER_LANE, LANES
from labelserver.settings import Settings
from labelserver.wire.packed_session import Shape, pack_answer, unpack_call
from labelserver.worker import calls
from labelserver.worker.failures import as_error, free_memory
from labelserver.worker.for_people import answering
from labelserver.worker.hosted import HostedApp, Loader
from labelserver.worker.sessions import Sessions

logger = logging.getLogger(__name__)

#: seconds that the other threads get to end once the stream has ended.
LEAVE_TIMEOUT_S = 1.0
#: seconds that an inference waits for clicks at one of its steps.
GIVE_WAY_S = 2.0


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
    lane: str = INFER_LANE
    buffers: tuple[bytes, ...] = ()
    cancelled: threading.Event = field(default_factory=threading.Event)


_CLICKS = (CLICK_LANE, ASK_LANE)


class _Clicks:
    """How many calls of the click lanes wait or run."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self, number: int) -> None:
        with self._changed:
            self._count += number
            if not self._count:
                self._changed.notify_all()

    def give_way(self) -> None:
        """Return once there is none, at the latest after `GIVE_WAY_S`."""
        if not self._count:  # the usual case, asked at every step
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._count, GIVE_WAY_S)


class _Watched(Silent):
    """The progress of a call: nobody listens, but it may be asked to stop, and gives way to clicks."""

    def __init__(self, request: _Request, clicks: _Clicks) -> None:
        self._cancelled = request.cancelled
        self._clicks = clicks if request.lane == INFER_LANE else None

    def should_stop(self) -> bool:
        if self._clicks is not None and not self._cancelled.is_set():
            self._clicks.give_way()
        return self._cancelled.is_set()


class _Lanes:
    """The waiting calls of all lanes, and the ones under way."""

    def __init__(self) -> None:
        self._queues: dict[str, queue.SimpleQueue[_Request | None]] = {lane: queue.SimpleQueue() for lane in LANES}
        self._open: dict[int, _Request] = {}
        self.clicks = _Clicks()

    def put(self, frame: Frame) -> None:
        """Raises `MalformedFrame`."""
        header = frame.header
        call_id, lane, params = header.get("id"), header.get("lane"), header.get("params")
        if not isinstance(call_id, int) or lane not in self._queues or not isinstance(params, dict):
            raise MalformedFrame("A request needs an id, a lane and params.")
        request = _Request(call_id, str(header.get("method")), params, str(lane), frame.buffers)
        self._open[call_id] = request
        if lane in _CLICKS:
            self.clicks.add(1)
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
        if request.lane in _CLICKS:
            self.clicks.add(-1)

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
        for lane in LANES:
            if lane != INFER_LANE:
                threading.Thread(target=self._work, args=(host, lane), name=lane, daemon=True).start()
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
        return calls.Host(app, greeting.roots, Sessions(self._loader.prompted(app), greeting.roots))

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
            roots = self._greeting.roots
            with watched_by(_Watched(request, self._lanes.clicks)), answering(roots, request.lane, request.params):
                if request.method == "session":
                    result, buffers = self._session_answer(host, request)
                else:
                    result, buffers = calls.call(host, request.method, request.params)
        except (Exception, SystemExit) as error:  # the user's code; the traceback is for the log
            failure = as_error(error, calls.speaker(request.method, request.params))
            if isinstance(error, LabelServerError) and not isinstance(error, AppFailed | StorageFailed):
                logger.info("request refused", extra={"method": request.method, "error": failure.message})
            else:
                logger.exception("request failed", extra={"method": request.method})
            memory_full = isinstance(failure, DeviceMemoryFull)
        else:
            self._succeed(request, result, buffers)
            return
        if memory_full:  # here, where no traceback holds the tensors any more
            free_memory()
        self._fail(request, failure)

    def _session_answer(self, host: calls.Host, request: _Request) -> tuple[JsonValue, tuple[bytes, ...]]:
        """Carry out a session's call; what comes before its answer is sent at once."""

        def tell(partial: SessionAnswer, shape: Shape) -> None:
            document, block = pack_answer(partial, shape)
            self._send({"kind": "partial", "id": request.call_id, "result": document}, (block,))

        block = request.buffers[0] if request.buffers else b""
        answer, shape = host.sessions.answer(unpack_call(request.params, block), tell)
        document, packed = pack_answer(answer, shape)
        return document, (packed,)

    def _succeed(self, request: _Request, result: JsonValue, buffers: tuple[bytes, ...]) -> None:
        try:
            self._send({"kind": "answer", "id": request.call_id, "result": result}, buffers)
        except TooLarge as error:
            self._fail(request, error)

    def _fail(self, request: _Request, error: LabelServerError) -> None:
        self._send({"kind": "failed", "id": request.call_id, "error": error.to_json()})

    def _send(self, header: JsonObject, buffers: tuple[bytes, ...] = ()) -> None:
        try:
            self._socket.write(Frame(header, buffers))
        except OSError:  # the server is gone; the reader ends this process
            logger.info("an answer has nobody to go to any more")

    def _read(self) -> None:
        """Take frames in until the stream ends, then end the process."""
        try:
            while (frame := self._socket.read()) is not None:
                if frame.header.get("kind") == "request":
                    self._lanes.put(frame)
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

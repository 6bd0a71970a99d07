"""The server's view of one worker process, from its birth to its death. It never comes back: see `supervision.py`.

    server                                   worker
      spawn, greeting on stdin  ---------->    connects
                               <---------- hello {token}
                               <---------- ready {description} | load_failed {error}
      request {id, lane, method, params} + buffers ->
      cancel {id} ------------------------>
                               <---------- started {id}
                               <---------- partial {id, result} + buffers, any number
                               <---------- answer {id, result} + buffers | failed {id, error}
      end of stream ---------------------->    exits

The greeting goes through stdin, not through arguments or the environment, where others could read the token. Whatever
the worker prints goes to its log. When the process ends, every request it holds fails with `WorkerDied`, whose field
`started` says whether the worker had begun with it. The field `again` says that it may be given to another one: it had
not begun, or the process had to be killed because of another request that did not react.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import AppLoadFailed, LabelServerError, WorkerDied, error_from_json
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.engine.frames import Frame, FrameStream, MalformedFrame
from labelserver.engine.listening import Listener
from labelserver.storage.processes import calculating_environment

logger = logging.getLogger(__name__)

#: seconds; an interpreter start on a loaded machine. Loading the app comes after the greeting and has no limit.
CONNECT_TIMEOUT_S = 60.0
#: seconds that a worker gets to leave by itself once its stream has ended.
LEAVE_TIMEOUT_S = 5.0
#: bytes; a larger log is put aside (one generation) before a worker starts.
MAX_LOG_BYTES = 16 * 2**20

INFER_LANE = "infer"  #: the worker's main thread
LEAD_LANE = "lead"  #: calls of the app; never behind an inference
CLICK_LANE = "click"  #: prompts of interactive sessions
ASK_LANE = "ask"  #: inferences with clicks
OPEN_LANE = "open"  #: opening images for sessions
LANES = (INFER_LANE, LEAD_LANE, CLICK_LANE, ASK_LANE, OPEN_LANE)


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How to start a worker: the command, and what it is told on stdin beside socket and token."""

    name: str
    command: tuple[str, ...]
    greeting: JsonObject
    log_file: Path


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for a request: a JSON value, and raw bytes that it describes."""

    result: JsonValue
    buffers: tuple[bytes, ...] = ()


class Call:
    """A request that a worker holds: `answer` is its reply or its error."""

    def __init__(self, call_id: int, on_partial: Callable[[Reply], None] | None = None) -> None:
        self.call_id = call_id
        self.started = False
        self.on_partial = on_partial
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.answer.add_done_callback(_look_at)


class WorkerProcess:
    """One process. `start`, then `send`; `gone` is set once it has ended."""

    def __init__(self, plan: WorkerPlan, listener: Listener) -> None:
        self.name = plan.name
        self.gone = asyncio.Event()
        self._plan = plan
        self._listener = listener
        self._process: asyncio.subprocess.Process | None = None
        self._stream: FrameStream | None = None
        self._calls: dict[int, Call] = {}
        self._next_id = 1
        self._sacrificed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loaded: asyncio.Future[AppDescription] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> AppDescription:
        """Spawn the process and wait until it has loaded the app.

        Raises:
            AppLoadFailed: the app cannot be loaded; the process has ended or is about to.
            WorkerDied: the process ended, or did not connect in time.
        """
        token, arrival = self._listener.expect()
        try:
            await self._spawn(token)
            exit_seen = self._background(self._watch_exit())
            either: list[asyncio.Future[Any]] = [arrival, exit_seen]  # Any: their results differ and are not read
            await asyncio.wait(either, timeout=CONNECT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not arrival.done():
                raise WorkerDied(f"The worker process did not connect: {self._how_it_ended()}; its log says more.")
            self._stream = arrival.result()
        except BaseException:
            await self.kill()
            raise
        finally:
            self._listener.forget(token)
        self._background(self._read_frames(self._stream))
        try:
            return await self._loaded
        except BaseException:
            await self.end()
            raise

    async def send(
        self,
        method: str,
        params: JsonObject,
        *,
        lane: str,
        buffers: tuple[bytes, ...] = (),
        on_partial: Callable[[Reply], None] | None = None,
    ) -> Call:
        """Hand a request over; await the answer of the returned call. `on_partial` is told what comes before it.

        Raises:
            WorkerDied: the process is gone.
        """
        if self._stream is None or self.gone.is_set():
            raise WorkerDied(
                "The worker process is being started again. Send the request again.", started=False, again=True
            )
        call = Call(self._next_id, on_partial)
        self._next_id += 1
        self._calls[call.call_id] = call
        header: JsonObject = {
            "kind": "request",
            "id": call.call_id,
            "lane": lane,
            "method": method,
            "params": params,
        }
        try:
            await self._stream.write(Frame(header, buffers))
        except ConnectionError:  # the reader sees the end too, and fails this call with what is known about it
            logger.info("worker closed its stream", extra={"worker": self.name})
        except BaseException:
            self._calls.pop(call.call_id, None)
            raise
        return call

    async def cancel(self, call: Call) -> None:
        """Ask the worker to give up `call`; it answers when it has, or never."""
        if self._stream is None or self.gone.is_set() or call.answer.done():
            return
        try:
            await self._stream.write(Frame({"kind": "cancel", "id": call.call_id}))
        except ConnectionError:
            logger.info("worker closed its stream", extra={"worker": self.name})

    async def end(self) -> None:
        """End the stream, wait a little for the process to leave, then kill what is left."""
        if self._stream is not None:
            self._stream.close()
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                if self._process is not None:
                    await self._process.wait()
        except TimeoutError:
            logger.warning("worker did not leave in time and is killed", extra={"worker": self.name, "pid": self.pid})
        await self.kill()

    async def sacrifice(self) -> None:
        """Kill the process because one call does not react: the others it holds may be made again elsewhere."""
        self._sacrificed = True
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL to the process and its children, at once."""
        if self._process is not None:
            if self._process.returncode is None:
                self._kill_group()
            await self._process.wait()
        if self._stream is not None:
            self._stream.close()
        self._fail_all()
        for task in self._tasks:
            task.cancel()

    async def _spawn(self, token: str) -> None:
        log = self._open_log()
        try:
            # A session of its own: Ctrl-C in the server's terminal is the server's to answer.
            self._process = await asyncio.create_subprocess_exec(
                *self._plan.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=calculating_environment(),
            )
        except OSError as error:
            raise WorkerDied(f"The worker process could not be started: {error.strerror or error}.") from error
        finally:
            os.close(log)
        logger.info("worker started", extra={"worker": self.name, "pid": self._process.pid})
        greeting = {**self._plan.greeting, "worker": self.name, "socket": self._listener.path, "token": token}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(greeting).encode() + b"\n")
        self._process.stdin.close()

    def _open_log(self) -> int:
        path = self._plan.log_file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(path.name + ".1"))
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def _watch_exit(self) -> None:
        assert self._process is not None
        await self._process.wait()
        self._kill_group()  # children that it left behind; right now its number cannot belong to anybody else
        logger.info("worker ended", extra={"worker": self.name, "how": self._how_it_ended()})
        if self._stream is None:
            self._fail_all()
        # With a stream, its reader drains what the worker still sent and then fails the rest.

    async def _read_frames(self, stream: FrameStream) -> None:
        try:
            while (frame := await stream.read()) is not None:
                self._take(frame)
        except MalformedFrame as error:
            logger.error("dropped the worker, which broke the protocol", extra={"worker": self.name, "error": error})
        stream.close()
        if self._process is not None and self._process.returncode is None:
            # A worker without a stream is of no use; give a crashing one the time to leave its own exit status.
            try:
                async with asyncio.timeout(LEAVE_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                self._kill_group()
                await self._process.wait()
        self._fail_all()

    def _take(self, frame: Frame) -> None:
        """Act on one message of the worker."""
        header = frame.header
        kind = header.get("kind")
        if kind == "ready" and not self._loaded.done():
            description = header.get("description")
            self._loaded.set_result(AppDescription.from_json(description if isinstance(description, dict) else {}))
        elif kind == "load_failed" and not self._loaded.done():
            error = _error_of(header)
            self._loaded.set_exception(
                error if isinstance(error, AppLoadFailed) else AppLoadFailed(error.message, **error.fields)
            )
        elif kind == "started":
            call_id = header.get("id")
            if isinstance(call_id, int) and call_id in self._calls:
                self._calls[call_id].started = True
        elif kind == "partial":
            call_id = header.get("id")
            known = self._calls.get(call_id) if isinstance(call_id, int) else None
            if known is not None and known.on_partial is not None and not known.answer.done():
                known.on_partial(Reply(header.get("result"), frame.buffers))
        elif kind in ("answer", "failed"):
            call_id = header.get("id")
            call = self._calls.pop(call_id, None) if isinstance(call_id, int) else None
            if call is None or call.answer.done():
                return
            if kind == "answer":
                call.answer.set_result(Reply(header.get("result"), frame.buffers))
            else:
                call.answer.set_exception(_error_of(header))
        else:
            raise MalformedFrame(f"A worker does not send messages of the kind {kind!r}.")

    def _fail_all(self) -> None:
        """Nobody will answer any more."""
        how = self._how_it_ended()
        if not self._loaded.done():
            self._loaded.set_exception(WorkerDied(f"The worker process ended ({how}) while it loaded the app."))
            self._loaded.exception()  # read once, so that a start that was cancelled leaves no warning
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.answer.done():
                call.answer.set_exception(
                    WorkerDied(
                        f"The worker process ended ({how}) while it worked on this request. "
                        "It is being started again; send the request again in a few seconds.",
                        started=call.started,
                        again=not call.started or self._sacrificed,
                    )
                )
        self.gone.set()

    def _kill_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _how_it_ended(self) -> str:
        code = self._process.returncode if self._process is not None else None
        if code is None:
            return "it still runs"
        return f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _background(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _look_at(answer: asyncio.Future[Reply]) -> None:
    """The caller may have left; an error that nobody awaits is no defect."""
    if not answer.cancelled():
        answer.exception()


def _error_of(header: JsonObject) -> LabelServerError:
    document = header.get("error")
    return error_from_json(document if isinstance(document, dict) else {})

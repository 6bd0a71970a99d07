"""Keeps one worker alive: starts it, starts it again when it dies, and tells why it is not ready.

A worker that died is started again after a pause that doubles up to `MAX_PAUSE_S`; a minute of health resets the pause.
An app that cannot be loaded is not tried again and again: the next try comes when a file of the app changes, or by
`restart`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any, Protocol

from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import AppLoadFailed, LabelServerError, TaskFailed, WorkerDied
from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.interaction import SessionAnswer, SessionCall
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.paths import RootedPath, Roots
from labelserver.engine.listening import Listener
from labelserver.engine.scheduling import OnPartial, Request, lane_of
from labelserver.engine.workers import CLICK_LANE, LEAD_LANE, Call, Reply, WorkerPlan, WorkerProcess
from labelserver.wire.packed_session import pack_call, unpack_answer

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 30.0
HEALTHY_AFTER_S = 60.0
#: seconds between looks at the app's files while it cannot be loaded.
LOOK_EVERY_S = 1.0
#: seconds that a task gets to notice a cancel before its worker is killed; tasks look between transforms and windows.
CANCEL_GRACE_S = 10.0
#: bytes of a packed change, and voxels of a prompt's mask, from which a thread does the packing.
LARGE_BYTES = 32 * 2**10
LARGE_VOXELS = 2**20


class Owner(Protocol):
    """Who wants to know what becomes of a worker. Called from the event loop."""

    def worker_ready(self, worker: Worker, description: AppDescription) -> None: ...

    def worker_gone(self, worker: Worker) -> asyncio.Event:
        """The event is set once nothing runs on it."""

    def app_failed(self, worker: Worker, error: AppLoadFailed) -> None: ...


class Worker:
    """A worker that comes back. It runs inferences for the scheduler and calls for the lead's app."""

    def __init__(
        self,
        plan: WorkerPlan,
        listener: Listener,
        roots: Roots,
        owner: Owner,
        *,
        lead: bool,
        infer_timeout_s: float,
        click_timeout_s: float,
    ) -> None:
        self.name = plan.name
        self.lead = lead
        self._plan = plan
        self._listener = listener
        self._roots = roots
        self._owner = owner
        self._infer_timeout_s = infer_timeout_s
        self._click_timeout_s = click_timeout_s
        self._process: WorkerProcess | None = None
        self._ready = False
        self._error: AppLoadFailed | None = None
        self._last_death = ""
        self._starting_since = time.monotonic()
        self._restart_asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """False from the moment of its death, before anybody was told."""
        return self._ready and self._process is not None and not self._process.gone.is_set()

    @property
    def error(self) -> AppLoadFailed | None:
        """Why the app cannot be loaded, as long as that is so."""
        return self._error

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def reason(self) -> str:
        """Why it is not ready; empty if it is."""
        if self.ready:
            return ""
        if self._error is not None:
            return self._error.message
        since = f"The app is loading ({time.monotonic() - self._starting_since:.0f} s so far)."
        return f"{since} {self._last_death}".strip()

    def begin(self) -> None:
        """Start to keep the process alive; returns at once."""
        self._task = asyncio.get_running_loop().create_task(self._keep_alive())

    async def end(self) -> None:
        """End the process for good."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._leave_service()
        if self._process is not None:
            await self._process.end()

    def restart(self) -> None:
        """Load the app anew, in a new process. What runs is finished first."""
        self._restart_asked.set()

    async def _keep_alive(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._restart_asked.clear()
            self._leave_service()
            self._starting_since = time.monotonic()
            stamp = await asyncio.to_thread(code_stamp, self._roots.app)
            process = self._process = WorkerProcess(self._plan, self._listener)
            try:
                description = await process.start()
            except AppLoadFailed as error:
                self._error = error
                logger.error("the app could not be loaded", extra={"worker": self.name, "error": error.message})
                self._owner.app_failed(self, error)
                await self._until_worth_a_try(stamp)
                self._error = None
                continue
            except WorkerDied as error:
                self._last_death = f"{error.message} It is tried again."
                logger.error("the worker died while it started", extra={"worker": self.name, "error": error.message})
            else:
                born = time.monotonic()
                self._ready, self._last_death = True, ""
                logger.info(
                    "worker is ready", extra={"worker": self.name, "after_s": round(born - self._starting_since, 1)}
                )
                self._owner.worker_ready(self, description)
                died = await self._until_gone_or_restart(process)
                if not died:
                    continue
                self._last_death = "The worker process ended unexpectedly and is started again."
                if time.monotonic() - born > HEALTHY_AFTER_S:
                    pause_s = FIRST_PAUSE_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._restart_asked.wait(), pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _until_gone_or_restart(self, process: WorkerProcess) -> bool:
        """True if the process died, False if a restart was asked for and it has been ended."""
        gone = asyncio.ensure_future(process.gone.wait())
        asked = asyncio.ensure_future(self._restart_asked.wait())
        try:
            await asyncio.wait([gone, asked], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            asked.cancel()
        died = process.gone.is_set()
        idle = self._leave_service()
        if not died:
            logger.info("worker is restarted", extra={"worker": self.name})
            with contextlib.suppress(TimeoutError):  # what runs may finish
                await asyncio.wait_for(idle.wait(), self._infer_timeout_s)
            await process.end()
        return died

    def _leave_service(self) -> asyncio.Event:
        self._ready = False
        return self._owner.worker_gone(self)

    async def _until_worth_a_try(self, stamp: object) -> None:
        """Wait for a change of the app's files, or for `restart`."""
        while not self._restart_asked.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._restart_asked.wait(), LOOK_EVERY_S)
            if await asyncio.to_thread(code_stamp, self._roots.app) != stamp:
                logger.info("the app's files changed; it is loaded again", extra={"worker": self.name})
                return

    async def run(
        self, request: Request, cancelled: asyncio.Event, on_partial: OnPartial = None
    ) -> InferAnswer | SessionAnswer:
        """Run an inference or a session's call (see `scheduling.Runner`).

        Raises:
            TaskFailed: also if it took too long; a task that does not notice the cancel costs the worker.
            WorkerDied: the process ended meanwhile.
        """
        process = self._running()
        if isinstance(request, SessionCall):
            reply = await self._result(process, request, await self._send(process, request, on_partial), cancelled)
            return await unpacked(reply)
        call = await process.send("infer", request.to_json(), lane=lane_of(request))
        reply = await self._result(process, request, call, cancelled)
        box = reply.buffers[0] if reply.buffers else None
        return InferAnswer.from_json(_table(reply.result) or {"params": {}}, box)

    async def _send(self, process: WorkerProcess, call: SessionCall, on_partial: OnPartial) -> Call:
        large = call.history or any(p.mask is not None and p.mask.voxels.size > LARGE_VOXELS for p in call.prompts)
        document, block = await asyncio.to_thread(pack_call, call) if large else pack_call(call)

        def tell(reply: Reply) -> None:
            if on_partial is not None:
                on_partial(unpack_answer(_table(reply.result), _block(reply)))

        return await process.send("session", document, lane=lane_of(call), buffers=(block,), on_partial=tell)

    async def _result(self, process: WorkerProcess, request: Request, call: Call, cancelled: asyncio.Event) -> Reply:
        """The reply of `call`, within the time that its kind may take."""
        limit_s = self._click_timeout_s if lane_of(request) == CLICK_LANE else self._infer_timeout_s
        left = asyncio.ensure_future(cancelled.wait())
        deadline = time.monotonic() + limit_s
        try:
            either: list[asyncio.Future[Any]] = [call.answer, left]  # Any: their results differ and are not read here
            await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
        if not call.answer.done() and cancelled.is_set():
            # The lane stays taken until the task notices, at most as long as the request might have lasted anyway.
            await process.cancel(call)
            await asyncio.wait([call.answer], timeout=max(0.0, deadline - time.monotonic()))
        if not call.answer.done():
            await self._give_up(process, call)
            model = request.model if isinstance(request, InferRequest) else request.task
            setting = "CLICK" if lane_of(request) == CLICK_LANE else "INFER"
            raise TaskFailed(
                f"The model {model} took longer than {limit_s:g} s and was stopped. "
                f"Raise LABELSERVER_{setting}_TIMEOUT if it needs more time.",
                model=model,
            )
        return call.answer.result()

    async def call(self, method: str, params: JsonObject, timeout_s: float) -> JsonValue:
        """Call the app beside inference. Raises `TaskFailed` on a timeout, else as the app."""
        process = self._running()
        call = await process.send(method, params, lane=LEAD_LANE)
        try:
            await asyncio.wait([call.answer], timeout=timeout_s)
        except asyncio.CancelledError:
            await process.cancel(call)
            raise
        if call.answer.done():
            return call.answer.result().result
        await process.cancel(call)
        raise TaskFailed(f"The app did not answer {method!r} within {timeout_s:g} s.", method=method)

    def discard(self, answer: InferAnswer | SessionAnswer) -> None:
        """Remove the file of an answer that nobody wants."""
        if answer.file is not None:
            self._roots.resolve(answer.file).unlink(missing_ok=True)

    async def _give_up(self, process: WorkerProcess, call: Call) -> None:
        """Cancel, wait a little, then kill the worker that does not react."""
        await process.cancel(call)
        await asyncio.wait([call.answer], timeout=CANCEL_GRACE_S)
        if not call.answer.done():
            logger.error(
                "worker does not react to a cancel and is killed", extra={"worker": self.name, "pid": process.pid}
            )
            await process.sacrifice()
            return
        with contextlib.suppress(LabelServerError):
            file = _table(call.answer.result().result).get("file")
            if file:
                self._roots.resolve(RootedPath.from_json(file)).unlink(missing_ok=True)

    def _running(self) -> WorkerProcess:
        if self._process is None:
            raise WorkerDied(
                "The worker process is not running yet. Send the request again.", started=False, again=True
            )
        return self._process


async def unpacked(reply: Reply) -> SessionAnswer:
    """A session's answer; a large change is unpacked in a thread, so that nobody else waits for it."""
    document, block = _table(reply.result), _block(reply)
    if len(block) > LARGE_BYTES:
        return await asyncio.to_thread(unpack_answer, document, block)
    return unpack_answer(document, block)


def _table(value: JsonValue) -> JsonObject:
    return dict(value) if isinstance(value, dict) else {}


def _block(reply: Reply) -> bytes:
    return reply.buffers[0] if reply.buffers else b""


def code_stamp(app_dir: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of the app's source files: another stamp, another try to load it."""
    found = []
    for folder, folders, names in os.walk(app_dir):
        inside = Path(folder) != app_dir
        folders[:] = sorted(f for f in folders if inside or f == "lib")
        for name in sorted(names):
            if name.endswith((".py", ".json", ".yaml", ".yml")):
                with contextlib.suppress(FileNotFoundError):
                    state = (Path(folder) / name).stat()
                    found.append((f"{folder}/{name}", state.st_mtime_ns, state.st_size))
    return tuple(found)

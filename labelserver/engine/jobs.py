"""Jobs on this machine: one folder and, but for batch inference, one process each.

One job of a kind runs at a time; others wait in the order of their submission. The server starts a small runner, says
"go" once the runner's identity stands in the folder, and from then on only reads the folder: what happened is what the
files say, whichever server reads them.

- A job outlives its server. The next server follows it again, or marks it lost once its runner is proven dead (host,
  pid, start time, boot) and has left no ``exit.json``.
- Stop: a line in ``control.jsonl``, then SIGTERM, then SIGKILL to the job's process group after the grace time.
- A server that goes down suspends its jobs the same way, and the next one takes them up again.
- A job that was stopped or failed can be resumed: it goes on from its last checkpoint under the same id.
- A warm process may wait for the next job (`warm_jobs`).

All methods belong to the event loop's thread. Files are read and written in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path

from labelserver.domain.errors import IllegalTransition, JobNotFound, QueueFull, StorageFailed
from labelserver.domain.ids import JobId
from labelserver.domain.jobs import JobKind, JobRecord, JobSpec, JobState, Signal, next_state
from labelserver.domain.json_types import JsonObject
from labelserver.engine import job_steps
from labelserver.engine.batch import Batch, BatchTools
from labelserver.engine.job_folder import JobFolder, JobView, OnEvent
from labelserver.engine.warm_jobs import WarmJobs
from labelserver.storage.processes import is_proven_dead, reap, send_signal

logger = logging.getLogger(__name__)

#: seconds between two looks into the folder of a running job; a person does not notice it.
LOOK_EVERY_S = 0.2
#: jobs of one kind that may wait.
MAX_QUEUED = 100


class _Job:
    """A job as this server holds it."""

    def __init__(self, view: JobView) -> None:
        self.view = view
        self.final = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.batch: Batch | None = None
        self.child_pid: int | None = None  #: if this server started the runner
        self.kill_at: float | None = None  #: on the monotonic clock; set once it was asked to end
        self.nudge = asyncio.Event()  #: it was asked to end
        self.broken = False  #: its folder cannot be written; left alone until the next start
        self.undecidable: set[tuple[str, int]] = set()

    @property
    def record(self) -> JobRecord:
        return self.view.record

    @property
    def folder(self) -> JobFolder:
        return self.view.folder

    @property
    def job_id(self) -> JobId:
        return self.view.job_id


class LocalJobs:
    """See `contracts.engine.Jobs`; `begin` and `end` belong to the engine."""

    def __init__(
        self,
        root: Path,
        command: list[str],
        settings: JsonObject,
        *,
        tools: BatchTools,
        on_version: Callable[[str, int], None],
        grace_s: float,
        on_event: OnEvent | None = None,
        warm: WarmJobs | None = None,
    ) -> None:
        self._root = root
        self._command = tuple(command)
        self._settings = settings
        self._tools = tools
        self._on_version = on_version
        self._grace_s = grace_s
        self._on_event = on_event
        self._warm = warm
        self._jobs: dict[JobId, _Job] = {}
        self._adopted = asyncio.Event()
        self._adoption: asyncio.Task[None] | None = None
        self._submitting = asyncio.Lock()
        self._closing = False

    def begin(self) -> None:
        """Read the folders of earlier servers and take up their jobs; returns at once."""
        self._closing = False
        self._adoption = asyncio.get_running_loop().create_task(self._adopt_all())

    async def end(self, *, leave_jobs: bool) -> None:
        """Stop following. Running jobs are suspended first, or left running."""
        self._closing = True
        if self._adoption is not None:
            self._adoption.cancel()
            await asyncio.wait([self._adoption])
        if self._warm is not None:
            await self._warm.end()
        running = [job for job in self._jobs.values() if job.task is not None]
        for job in running:
            if leave_jobs and job.batch is None:
                logger.info("job is left running", extra={"job_id": job.job_id, "task": job.record.spec.task})
                job.task.cancel()  # type: ignore[union-attr]  # filtered above
            else:
                logger.info(
                    "job is suspended at its next step and resumed at the next start",
                    extra={"job_id": job.job_id, "task": job.record.spec.task},
                )
                await self._ask_to_end(job, Signal.SUSPEND_ASKED)
        tasks = [job.task for job in running if job.task is not None]
        if tasks:
            await asyncio.wait(tasks)
        self._jobs.clear()
        self._adopted.clear()

    async def submit(
        self, kind: JobKind, task: str, params: JsonObject, person: str, *, enqueue: bool = False
    ) -> JobRecord:
        """See the contract. Raises also `StorageFailed`."""
        await self._adopted.wait()
        async with self._submitting:
            # One that is done and whose process is on its way out keeps nobody from asking: the next one waits for it.
            unfinished = [job for job in self._of(kind) if not job.record.state.is_final]
            if unfinished and not enqueue:
                raise QueueFull(
                    f"A {kind.value} job is {unfinished[0].record.state.value} already. "
                    "Wait for it, stop it, or ask to queue this one behind it.",
                    job_id=unfinished[0].job_id,
                )
            if len(unfinished) > MAX_QUEUED:
                raise QueueFull(f"{len(unfinished)} {kind.value} jobs are waiting already. Try again later.")
            spec = JobSpec(JobId(str(uuid.uuid4())), kind, task, params, person, time.time())
            view = JobView(JobFolder(self._root / spec.job_id), spec, self._on_event)
            await asyncio.to_thread(job_steps.create, view)
            job = self._jobs[spec.job_id] = _Job(view)
        logger.info("job submitted", extra={"job_id": job.job_id, "kind": kind.value, "task": task})
        self._pump(kind)
        return job.record

    def list(self, kind: JobKind | None = None) -> list[JobRecord]:
        return [job.record for job in (self._jobs.values() if kind is None else self._of(kind))]

    def get(self, job_id: JobId) -> JobRecord:
        return self._job(job_id).record

    def file(self, job_id: JobId, name: str) -> Path:
        """See the contract."""
        path = self._job(job_id).folder.path / name
        if not path.is_file():
            raise JobNotFound(f"The job {job_id} has no {name}: it made none, or it was removed since.")
        return path

    async def stop(self, job_id: JobId) -> JobRecord:
        """See the contract."""
        await self._adopted.wait()
        job = self._job(job_id)
        if job.record.state.is_final:
            raise IllegalTransition(f"The job {job_id} has ended already: it is {job.record.state.value}.")
        await self._ask_to_end(job, Signal.STOP_ASKED)
        self._settle(job)
        return job.record

    async def resume(self, job_id: JobId) -> JobRecord:
        """See the contract. Raises also `StorageFailed`."""
        await self._adopted.wait()
        job = self._job(job_id)
        next_state(job.record.state, Signal.RESUME_ASKED)
        await job.final.wait()  # its process is on its way out
        async with self._submitting:
            next_state(job.record.state, Signal.RESUME_ASKED)
            await asyncio.to_thread(job_steps.resume, job.view)
            job.final.clear()
            job.broken = False
        logger.info("job is resumed", extra={"job_id": job_id, "task": job.record.spec.task})
        self._pump(job.record.spec.kind)
        return job.record

    async def expect(self) -> None:
        """See the contract."""
        if self._warm is not None and not self._closing:
            await self._warm.keep()

    async def wait(self, job_id: JobId) -> JobRecord:
        """See the contract."""
        job = self._job(job_id)
        await job.final.wait()
        return job.record

    # --- the order of jobs -------------------------------------------------------------------------------------------

    def _of(self, kind: JobKind) -> tuple[_Job, ...]:
        return tuple(job for job in self._jobs.values() if job.record.spec.kind is kind)

    def _job(self, job_id: JobId) -> _Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFound(f"There is no job {job_id}.") from None

    def _pump(self, kind: JobKind) -> None:
        """Start the next job of this kind if none runs: suspended ones first, then the queue in order."""
        jobs = self._of(kind)
        if self._closing or any(job.task is not None for job in jobs):
            return
        for state in (JobState.SUSPENDED, JobState.QUEUED):
            for job in jobs:
                if job.record.state is state and not job.broken:
                    self._launch(job, self._run(job))
                    return

    def _launch(self, job: _Job, work: Coroutine[object, object, None]) -> None:
        job.task = asyncio.get_running_loop().create_task(work)
        job.task.add_done_callback(lambda task: self._ended(job, task))

    def _ended(self, job: _Job, task: asyncio.Task[None]) -> None:
        job.task, job.batch, job.child_pid, job.kill_at = None, None, None, None
        job.nudge.clear()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            job.broken = True
            logger.error("job cannot be followed", extra={"job_id": job.job_id, "error": error}, exc_info=error)
        self._settle(job)
        self._pump(job.record.spec.kind)

    def _settle(self, job: _Job) -> None:
        if job.record.state.is_final and job.task is None and not job.final.is_set():
            job.final.set()
            record = job.record
            told = {"job_id": job.job_id, "task": record.spec.task, "state": record.state.value}
            if record.reason is None:
                logger.info("job ended", extra=told)
            else:
                why = {"reason": record.reason.value, "error": record.message, "advice": record.advice}
                logger.warning("job failed", extra={**told, **why})

    async def _ask_to_end(self, job: _Job, wish: Signal) -> None:
        """Write the wish down, then wake `_follow`, which signals and, after the grace time, kills."""
        await asyncio.to_thread(job.view.refresh)
        try:
            next_state(job.record.state, wish)
        except IllegalTransition:
            if job.record.state.is_final or job.task is None:
                return  # it ended a moment ago, or nothing runs that could be asked
        else:
            try:
                await asyncio.to_thread(job_steps.say, job.view, wish, {})
            except StorageFailed as error:
                if job.task is None:
                    raise
                # A full disk must not keep a job from being stopped: the signal does without the line.
                logger.error("wish is not written down", extra={"job_id": job.job_id, "error": error.message})
        if job.task is None:
            return
        job.kill_at = job.kill_at or time.monotonic() + self._grace_s
        job.nudge.set()
        if job.batch is not None:
            job.batch.ask_to_stop()

    # --- one job -----------------------------------------------------------------------------------------------------

    async def _run(self, job: _Job) -> None:
        """Start a job, for the first time or again, and follow it to its end."""
        await self._until_predecessor_ended(job)
        if self._closing or job.record.state.is_final:
            return
        if job.record.spec.kind is JobKind.BATCH_INFER:
            await asyncio.to_thread(job.folder.prepare_start, self._settings)
            await asyncio.to_thread(job_steps.say, job.view, Signal.STARTED, {})
            if job.record.state is JobState.STARTING:
                await self._follow_batch(job)
            return
        # An export watches how the app is built; a process that has loaded it already saw nothing of that.
        warm = self._warm if job.record.spec.kind is not JobKind.EXPORT else None
        prepared = await warm.take() if warm is not None else None
        try:
            job.child_pid = await asyncio.to_thread(
                job_steps.start_runner, job.view, self._command, self._settings, prepared
            )
        except (OSError, StorageFailed) as error:
            await asyncio.to_thread(job_steps.say, job.view, Signal.STARTED, {})
            message = f"The job's process could not be started: {error}."
            await asyncio.to_thread(job_steps.say, job.view, Signal.LOST, {"message": message})
            return
        if job.child_pid is not None:
            logger.info("job started", extra={"job_id": job.job_id, "pid": job.child_pid})
            await self._follow(job)

    async def _until_predecessor_ended(self, job: _Job) -> None:
        """A suspended job may still be on its way out, if its server did not live to see it."""
        owner = await asyncio.to_thread(job.folder.owner)
        if owner is None or is_proven_dead(owner):
            return
        send_signal(owner, signal.SIGTERM)
        kill_at = time.monotonic() + self._grace_s
        while not is_proven_dead(owner):
            if time.monotonic() > kill_at:
                await asyncio.to_thread(job_steps.kill, job.folder)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _follow(self, job: _Job) -> None:
        """Read the folder until the job's process has ended; pass on the wish that it should."""
        owner = await asyncio.to_thread(job.folder.owner)
        signalled = False
        while True:
            if job.child_pid is not None:
                reap(job.child_pid)
            dead = owner is None or is_proven_dead(owner)  # before reading: what a dead runner wrote, it wrote before
            ended = await asyncio.to_thread(job.view.refresh)
            await self._decide_versions(job)
            if ended is not None:
                return
            if owner is None or dead:
                await asyncio.to_thread(job_steps.mark_lost, job.view)
                return
            if job.kill_at is not None and not signalled:
                signalled = send_signal(owner, signal.SIGTERM)
            if job.kill_at is not None and time.monotonic() > job.kill_at:
                logger.warning("job did not end in time and is killed", extra={"job_id": job.job_id})
                await asyncio.to_thread(job_steps.kill, job.folder)
                job.kill_at = time.monotonic() + self._grace_s
            if signalled:
                await asyncio.sleep(LOOK_EVERY_S)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(job.nudge.wait(), LOOK_EVERY_S)

    async def _follow_batch(self, job: _Job) -> None:
        """Run a batch in this process, and read its folder like any other's."""
        job.batch = Batch(job.folder, job.record.spec, self._tools)
        if job.kill_at is not None:
            job.batch.ask_to_stop()
        work = asyncio.ensure_future(job.batch.run())
        try:
            while not work.done():
                await asyncio.wait([work], timeout=LOOK_EVERY_S)
                await asyncio.to_thread(job.view.refresh)
            work.result()
        finally:
            work.cancel()
        await asyncio.to_thread(job.folder.write_exit, 0)
        await asyncio.to_thread(job.view.refresh)

    async def _decide_versions(self, job: _Job) -> None:
        """Hand every candidate to `on_version` that no server has handed over yet."""
        if not job.record.versions:
            return
        done = await asyncio.to_thread(job.folder.decided)
        for model, version in dict.fromkeys(job.record.versions):
            if (model, version) in done or (model, version) in job.undecidable:
                continue
            deciding = asyncio.ensure_future(asyncio.to_thread(self._hand_over, job.folder, model, version))
            await asyncio.wait([deciding])  # whatever it raises, the job must be followed to its end
            error = deciding.exception()
            if error is not None:
                job.undecidable.add((model, version))  # tried again at the next start
                logger.error(
                    "version is not decided",
                    extra={"job_id": job.job_id, "model": model, "version": version, "error": error},
                    exc_info=error,
                )

    def _hand_over(self, folder: JobFolder, model: str, version: int) -> None:
        self._on_version(model, version)
        folder.write_decided(model, version)

    # --- jobs of earlier servers -------------------------------------------------------------------------------------

    async def _adopt_all(self) -> None:
        try:
            for view in await asyncio.to_thread(job_steps.read_all, self._root, self._on_event):
                self._jobs[view.job_id] = _Job(view)
            for job in list(self._jobs.values()):
                await self._adopt(job)
        except StorageFailed as error:
            logger.error("the jobs of earlier servers could not be taken up", extra={"error": error.message})
        finally:
            self._adopted.set()
        for kind in JobKind:
            self._pump(kind)

    async def _adopt(self, job: _Job) -> None:
        """Follow a job that may still run; make the others' state the one that is true now."""
        await self._decide_versions(job)
        self._settle(job)
        if not job.record.state.is_active:
            return
        if job.record.spec.kind is JobKind.BATCH_INFER:
            stopping = job.record.state is JobState.STOPPING
            wish = Signal.LOST if stopping else Signal.SUSPEND_ASKED  # it ran in a server that is gone
            await asyncio.to_thread(job_steps.say, job.view, wish, {"message": "The server ended."})
            self._settle(job)
            return
        owner = await asyncio.to_thread(job.folder.owner)
        if owner is None and job.record.state is JobState.STARTING:
            # Its runner was never let go, so nothing ran: it starts again like a suspended one.
            await asyncio.to_thread(job_steps.say, job.view, Signal.SUSPEND_ASKED, {})
            return
        if job.record.state is JobState.STOPPING:  # asked by a server that may not have lived to send the signal
            job.kill_at = time.monotonic() + self._grace_s
        logger.info("job of an earlier server", extra={"job_id": job.job_id, "state": job.record.state.value})
        self._launch(job, self._follow(job))

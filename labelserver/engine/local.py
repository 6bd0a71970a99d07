"""The engine on this machine: worker processes and job processes behind `contracts.engine.Engine`.

Everything here runs in the server's event loop and waits for nothing that a worker or a job does, except on behalf of
the one caller who asked. The last description of the app is kept in ``APP/description.json`` with the hash of the code
it came from, so that the next start with the same code can show the app before a worker has loaded it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

from labelserver.contracts.engine import Jobs, Readiness
from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import AppLoadFailed, LabelServerError, QueueFull, WorkerDied, WorkerNotReady
from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.interaction import SessionAnswer, SessionCall
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.paths import Root, Roots
from labelserver.engine.batch import BatchTools
from labelserver.engine.job_folder import OnEvent
from labelserver.engine.jobs import LocalJobs
from labelserver.engine.listening import Listener
from labelserver.engine.scheduling import Answer, Scheduler, Ticket
from labelserver.engine.supervision import Worker
from labelserver.engine.warm_jobs import WarmJobs
from labelserver.engine.workers import WorkerPlan
from labelserver.settings import Settings
from labelserver.storage import atomic

logger = logging.getLogger(__name__)

#: seconds a request waits for a worker that still loads the app (DESIGN, "Processes").
READY_WAIT_S = 60.0
#: calls of the lead that may be under way; each is short, and they run one after another.
MAX_LEAD_CALLS = 64
#: seconds for what an app does once at its start, such as fetching weights.
ON_INIT_TIMEOUT_S = 3600.0


class LocalEngine:
    """See `contracts.engine.Engine`.

    Args:
        settings: What workers and jobs run under, too.
        roots: Absolute folders.
        worker_command: Starts a worker, which is greeted on stdin (see `workers`).
        job_command: Starts the runner of a job; the job's folder is appended.
        code_hash: Of the app as it is now; a kept description of another hash is not shown.
        on_version: Called in a thread with (model, version) for each candidate a job wrote, once, or again after a
            crash in between: it must be idempotent.
        job_grace_s: Seconds between asking a job to stop and killing it.
        warm_command: Starts the runner of a job that is not known yet (see `warm_jobs`); without it none is kept.
        on_job_event: Called with each event of a job and the record after it, by any thread.
    """

    def __init__(
        self,
        settings: Settings,
        roots: Roots,
        worker_command: list[str],
        job_command: list[str],
        code_hash: str,
        on_version: Callable[[str, int], None],
        *,
        job_grace_s: float = 30.0,
        warm_command: list[str] | None = None,
        on_job_event: OnEvent | None = None,
    ) -> None:
        studies = settings.studies if "://" in settings.studies else str(roots.studies)
        self._settings = settings.model_copy(update={"app_dir": roots.app, "studies": studies})
        self._roots = roots
        self._worker_command = tuple(worker_command)
        self._code_hash = code_hash
        self._description = self._kept_description()
        self._listener = Listener()
        self._scheduler = Scheduler()
        self._workers: list[Worker] = []
        self._settled = asyncio.Event()  # the lead is ready, or the app cannot be loaded
        self._lead_calls = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs = LocalJobs(
            roots.app / "jobs",
            job_command,
            child_settings(self._settings, roots),
            tools=BatchTools(self.infer, self.call_lead, self._discard),
            on_version=on_version,
            grace_s=job_grace_s,
            on_event=on_job_event,
            warm=WarmJobs(
                warm_command,
                child_settings(self._settings, roots),
                roots.app,
                float(settings.warm_job_s),
            )
            if warm_command
            else None,
        )

    @property
    def jobs(self) -> Jobs:
        return self._jobs

    async def start(self) -> None:
        """See the contract."""
        spool = self._roots.state / "spool"
        await asyncio.to_thread(
            shutil.rmtree, spool, ignore_errors=True
        )  # answers that an earlier server never fetched
        await asyncio.to_thread(spool.mkdir, parents=True, exist_ok=True)
        await self._listener.open()
        for number in range(self._settings.workers_per_device):
            worker = self._worker(number)
            self._workers.append(worker)
            worker.begin()
        self._jobs.begin()

    async def stop(self, *, leave_jobs: bool = False) -> None:
        """See the contract."""
        for task in list(self._tasks):
            task.cancel()
        self._scheduler.fail_waiting(WorkerNotReady("The server is stopping. Try again once it is back."))
        await self._jobs.end(leave_jobs=leave_jobs)
        await asyncio.gather(*(worker.end() for worker in self._workers))
        self._workers.clear()
        self._settled.clear()
        await self._listener.close()

    def restart_workers(self) -> None:
        """Load the app anew in every worker, each as soon as it is idle."""
        for worker in self._workers:
            worker.restart()

    @property
    def worker_pids(self) -> list[int]:
        """For operators and tests."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def readiness(self) -> Readiness:
        if not self._workers:
            return Readiness(False, "The engine is not running.")
        lead = self._workers[0]
        return Readiness(lead.ready, lead.reason)

    def description(self) -> AppDescription | None:
        return self._description

    async def infer(self, request: InferRequest) -> InferAnswer:
        """See the contract."""
        answer = await self._answer(self._scheduler.submit(request))
        assert isinstance(answer, InferAnswer)
        return answer

    async def interact(
        self, call: SessionCall, on_partial: Callable[[SessionAnswer], None] | None = None
    ) -> SessionAnswer:
        """See the contract."""
        ticket = self._scheduler.submit(call, on_partial)
        answer = await self._answer(ticket)
        assert isinstance(answer, SessionAnswer)
        return replace(answer, seconds={**answer.seconds, "queue": round(ticket.waited_s, 6)})

    async def _answer(self, ticket: Ticket) -> Answer:
        """What a worker answers; a caller who is cancelled leaves the queue."""
        try:
            if not any(worker.ready for worker in self._workers):
                await self._wait_ready()
            return await asyncio.shield(ticket.answer)
        except BaseException:
            self._scheduler.leave(ticket)
            raise

    async def call_lead(self, method: str, params: JsonObject, *, timeout_s: float = 60.0) -> JsonValue:
        """See the contract."""
        if self._lead_calls >= MAX_LEAD_CALLS:
            raise QueueFull(f"{self._lead_calls} calls of the app are under way already. Try again in some seconds.")
        self._lead_calls += 1
        try:
            try:
                return await (await self._ready_lead()).call(method, params, timeout_s)
            except WorkerDied as error:
                if error.fields.get("started") is not False:
                    raise
            # It died before it began, so that the call may be made again.
            self._settled.clear()
            return await (await self._ready_lead()).call(method, params, timeout_s)
        finally:
            self._lead_calls -= 1

    def worker_ready(self, worker: Worker, description: AppDescription) -> None:
        """See `supervision.Owner`."""
        if worker.lead:
            self._description = description
            self._settled.set()
            self._background(self._complete_start(worker, description))
        self._scheduler.add(worker)

    def worker_gone(self, worker: Worker) -> asyncio.Event:
        """See `supervision.Owner`."""
        if worker.lead:
            self._settled.clear()
        return self._scheduler.remove(worker)

    def app_failed(self, worker: Worker, error: AppLoadFailed) -> None:
        """See `supervision.Owner`."""
        if worker.lead:
            self._settled.set()
        if not any(other.ready for other in self._workers):
            self._scheduler.fail_waiting(error)

    def _worker(self, number: int) -> Worker:
        name = f"worker-{number}"
        spool = self._roots.state / "spool" / name
        greeting: JsonObject = {
            "lead": number == 0,
            "settings": self._settings.model_dump(mode="json"),
            "roots": {
                "app": str(self._roots.app),
                "studies": str(self._roots.studies),
                "state": str(self._roots.state),
            },
            "spool": self._roots.relative(spool, Root.STATE).to_json(),
        }
        plan = WorkerPlan(name, self._worker_command, greeting, self._roots.app / "logs" / "worker.log")
        return Worker(
            plan,
            self._listener,
            self._roots,
            self,
            lead=number == 0,
            infer_timeout_s=float(self._settings.infer_timeout),
            click_timeout_s=float(self._settings.click_timeout),
        )

    async def _wait_ready(self) -> None:
        """Wait until the lead is ready.

        Raises:
            AppLoadFailed: the app cannot be loaded.
            WorkerNotReady: not within `READY_WAIT_S`, or the engine is not running.
        """
        if not self._workers:
            raise WorkerNotReady("The server is stopping. Try again once it is back.")
        try:
            async with asyncio.timeout(READY_WAIT_S):
                await self._settled.wait()
        except TimeoutError as error:
            raise WorkerNotReady(f"{self.readiness().reason} Try again later.") from error
        failure = self._workers[0].error if self._workers else None
        if failure is not None:
            raise AppLoadFailed(failure.message, **failure.fields)

    async def _ready_lead(self) -> Worker:
        lead = self._workers[0] if self._workers else None
        if lead is None or not lead.ready:
            await self._wait_ready()
        return self._workers[0]

    async def _complete_start(self, lead: Worker, description: AppDescription) -> None:
        """Keep the description, then run the app's `on_init_complete`: once in the life of each lead process."""
        await asyncio.to_thread(self._keep, description)
        try:
            await lead.call("on_init_complete", {}, ON_INIT_TIMEOUT_S)
        except LabelServerError as error:
            logger.error("the app's on_init_complete failed", extra={"error": error.message})

    def _discard(self, answer: InferAnswer) -> None:
        if answer.file is not None:
            self._roots.resolve(answer.file).unlink(missing_ok=True)

    def _kept_description(self) -> AppDescription | None:
        try:
            document = json.loads(self._description_file.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(document, dict):
            return None
        kept = AppDescription.from_json(document)
        return kept if kept.code_hash == self._code_hash else None

    def _keep(self, description: AppDescription) -> None:
        kept = description if description.code_hash else replace(description, code_hash=self._code_hash)
        try:
            atomic.write_json(self._description_file, kept.to_json())
        except LabelServerError as error:
            logger.warning("the app's description is not kept for the next start", extra={"error": error.message})

    @property
    def _description_file(self) -> Path:
        return self._roots.app / "description.json"

    def _background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _empty(spool: Path) -> None:
    """Remove what an earlier server and its workers left: answers never fetched, half-written results."""
    spool.mkdir(parents=True, exist_ok=True)
    for path in spool.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def child_settings(settings: Settings, roots: Roots) -> JsonObject:
    """The settings that a worker or a job runs under, and where the roots are on this machine."""
    return {
        "settings": settings.model_dump(mode="json"),
        "roots": {"app": str(roots.app), "studies": str(roots.studies), "state": str(roots.state)},
    }

"""Work outside the server process. Two implementations are planned: processes on this machine, and Ray.

Everything above this contract speaks of requests, jobs and the app's description; nothing knows which engine runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from labelserver.domain.app_description import AppDescription
from labelserver.domain.ids import JobId
from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.jobs import JobKind, JobRecord
from labelserver.domain.json_types import JsonObject, JsonValue


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the lead worker has loaded the app, and if not, why."""

    ready: bool
    reason: str = ""


class Jobs(Protocol):
    """Long work, one process and one folder each. Safe to call from the event loop: no method waits for a job."""

    async def submit(
        self, kind: JobKind, task: str, params: JsonObject, person: str, *, enqueue: bool = False
    ) -> JobRecord:
        """Start a job, or queue it behind a running one of its kind.

        Raises:
            QueueFull: one of this kind is queued or running and `enqueue` is false.
        """

    def list(self, kind: JobKind | None = None) -> list[JobRecord]:
        """All known jobs, oldest first."""

    def get(self, job_id: JobId) -> JobRecord:
        """Raises `JobNotFound`."""

    async def stop(self, job_id: JobId) -> JobRecord:
        """Ask a job to end at its next step. Raises `JobNotFound`, `IllegalTransition` if it has ended."""

    async def wait(self, job_id: JobId) -> JobRecord:
        """Return once the job is in a final state."""


class Engine(Protocol):
    """Workers and jobs."""

    @property
    def jobs(self) -> Jobs: ...

    async def start(self) -> None:
        """Begin to start the workers and adopt or resume the jobs of an earlier server; returns at once."""

    async def stop(self, *, leave_jobs: bool = False) -> None:
        """End the workers; suspend the jobs at their next step unless `leave_jobs`."""

    def readiness(self) -> Readiness: ...

    def description(self) -> AppDescription | None:
        """The app as the lead last told it, also from an earlier start with the same code; None before the first."""

    def restart_workers(self) -> None:
        """Load the app anew in every worker, each as soon as it is idle."""

    async def infer(self, request: InferRequest) -> InferAnswer:
        """Run an infer task. Waits its turn, and up to 60 s for the worker to be ready.

        Raises: `TaskNotFound`, `ImageNotFound`, `Refused`, `TaskFailed`, `WorkerDied`, `WorkerNotReady`,
        `DeviceMemoryFull`, `QueueFull`. Cancelling the awaiting task cancels the inference.
        """

    async def call_lead(self, method: str, params: JsonObject, *, timeout_s: float = 60.0) -> JsonValue:
        """Call the lead worker's app: next_sample, on_save_label, datastore.<method>, model_file, ...

        Runs beside inference, never behind it. Raises as `infer`.
        """

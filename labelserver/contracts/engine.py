"""Work outside the server process. Two implementations are planned: processes on this machine, and Ray.

Everything above this contract speaks of requests, jobs and the app's description; nothing knows which engine runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labelserver.domain.app_description import AppDescription
from labelserver.domain.ids import JobId
from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.interaction import SessionAnswer, SessionCall
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

    def file(self, job_id: JobId, name: str) -> Path:
        """Where a job that is done left the file `name`, which is never a word of a caller's.

        Raises: `JobNotFound`; also where there is no such file (any more).
        """

    async def stop(self, job_id: JobId) -> JobRecord:
        """Ask a job to end at its next step. Raises `JobNotFound`, `IllegalTransition` if it has ended."""

    async def resume(self, job_id: JobId) -> JobRecord:
        """Let a stopped or failed job go on from its last checkpoint, behind what runs.

        Raises: `JobNotFound`, `IllegalTransition` if it is neither stopped nor failed.
        """

    async def expect(self) -> None:
        """A job may be asked for soon: prepare for it, if the settings say so. Returns at once."""

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

    async def interact(
        self, call: SessionCall, on_partial: Callable[[SessionAnswer], None] | None = None
    ) -> SessionAnswer:
        """Ask the worker that holds an interactive session, past inferences that run.

        `on_partial` gets coarse answers in the event loop, before the final one is returned; they change nothing.

        Raises: `SessionNotHeld` if no worker holds the session as it is at `call.at` (OPEN with the history helps),
        `RequestCancelled`; else as `infer`. After any error the mask in the worker is as before, or not held any more.
        """

    async def call_lead(self, method: str, params: JsonObject, *, timeout_s: float = 60.0) -> JsonValue:
        """Call the lead worker's app: next_sample, on_save_label, datastore.<method>, model_file, ...

        Runs beside inference, never behind it. Raises as `infer`.
        """

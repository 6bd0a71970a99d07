"""The engine of a server without an app: no worker, no job, no model; it says so and is always ready."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path

from labelserver.contracts.engine import Jobs, Readiness
from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import JobNotFound, TaskNotFound
from labelserver.domain.ids import JobId
from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.interaction import SessionAnswer, SessionCall
from labelserver.domain.jobs import JobKind, JobRecord
from labelserver.domain.json_types import JsonObject, JsonValue

NO_APP = "This server runs without an app: it keeps images and labels, and has no models. Start it with --app FOLDER."


class NoJobs:
    """Implements `contracts.engine.Jobs`."""

    async def submit(
        self, kind: JobKind, task: str, params: JsonObject, person: str, *, enqueue: bool = False
    ) -> JobRecord:
        raise TaskNotFound(NO_APP)

    def list(self, kind: JobKind | None = None) -> builtins.list[JobRecord]:
        return []

    def get(self, job_id: JobId) -> JobRecord:
        raise JobNotFound(f"There is no job {job_id}. {NO_APP}")

    def file(self, job_id: JobId, name: str) -> Path:
        raise JobNotFound(f"There is no job {job_id}. {NO_APP}")

    async def stop(self, job_id: JobId) -> JobRecord:
        return self.get(job_id)

    async def resume(self, job_id: JobId) -> JobRecord:
        return self.get(job_id)

    async def expect(self) -> None:
        """No job will come."""

    async def wait(self, job_id: JobId) -> JobRecord:
        return self.get(job_id)


class NoAppEngine:
    """Implements `contracts.engine.Engine`. `strategies`: those that need no app, registered name to what they do."""

    def __init__(self, strategies: dict[str, tuple[str, str]]) -> None:
        """`strategies`: name -> (class name, description)."""
        self._jobs = NoJobs()
        info: JsonObject = {
            "name": "labelserver",
            "description": NO_APP,
            "version": "",
            "labels": [],
            "models": {},
            "trainers": {},
            "strategies": {name: {"description": said} for name, (_, said) in strategies.items()},
            "scoring": {},
            "no_app": NO_APP,
        }
        ready_made = {name: class_name for name, (class_name, _) in strategies.items()}
        self._description = AppDescription(info=info, code_hash="", ready_made_strategies=ready_made)

    @property
    def jobs(self) -> Jobs:
        return self._jobs

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self, *, leave_jobs: bool = False) -> None:
        """Nothing to stop."""

    def readiness(self) -> Readiness:
        return Readiness(True)

    def description(self) -> AppDescription:
        return self._description

    def restart_workers(self) -> None:
        """There are none."""

    async def infer(self, request: InferRequest) -> InferAnswer:
        raise TaskNotFound(NO_APP)

    async def interact(
        self, call: SessionCall, on_partial: Callable[[SessionAnswer], None] | None = None
    ) -> SessionAnswer:
        raise TaskNotFound(NO_APP)

    async def call_lead(self, method: str, params: JsonObject, *, timeout_s: float = 60.0) -> JsonValue:
        raise TaskNotFound(NO_APP)

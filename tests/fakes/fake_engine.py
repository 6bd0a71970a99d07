"""An engine without processes: inferences are a function, jobs move when a test moves them."""

from __future__ import annotations

import asyncio
import builtins
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from labelserver.contracts.engine import Readiness
from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import IllegalTransition, JobNotFound, QueueFull, TaskNotFound
from labelserver.domain.ids import JobId
from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.interaction import SessionAnswer, SessionCall
from labelserver.domain.jobs import JobEvent, JobKind, JobRecord, JobSpec, Signal, fold, next_state
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.paths import Root, Roots
from tests.fakes.fake_sessions import FakeSessions

Infer = Callable[[InferRequest], Awaitable[InferAnswer]]


def described(info: JsonObject | None = None, **fields: object) -> AppDescription:
    """An app with one model, one trainer, two strategies and one scoring method."""
    base: JsonObject = {
        "name": "Fake app",
        "description": "For tests",
        "version": "1.0",
        "labels": ["liver"],
        "models": {
            "segmentation": {
                "type": "segmentation",
                "labels": {"liver": 1, "spleen": 2},
                "dimension": 3,
                "description": "Finds organs",
                "config": {"device": ["cpu"], "model_filename": ["model.pt"]},
            },
            "deepedit": {
                "type": "deepedit",
                "labels": {"liver": 1},
                "dimension": 3,
                "description": "",
                "config": {},
                "interactive": {
                    "prompt_kinds": ["point", "scribble", "box"],
                    "conversions": {"box": "its centre"},
                    "dimensions": [3],
                    "label_values": {"liver": 1},
                },
            },
        },
        "trainers": {"segmentation": {"description": "Trains", "config": {"max_epochs": 5, "name": "train_01"}}},
        "strategies": {"random": {"description": "Random"}, "first": {"description": "First"}, "own": {}},
        "scoring": {"dice": {"description": "Dice"}},
    }
    description = AppDescription(
        info={**base, **(info or {})},
        code_hash="abc",
        ready_made_strategies={"random": "Random", "first": "First"},
        trainer_models={"segmentation": "segmentation"},
    )
    return replace(description, **fields)  # type: ignore[arg-type]


class FakeJobs:
    """`contracts.engine.Jobs` in memory. A test drives a job with `happen`."""

    def __init__(self) -> None:
        self.clock = itertools.count(1_700_000_000)
        self._events: dict[JobId, tuple[JobSpec, list[JobEvent]]] = {}
        self.expected = 0
        self.files: dict[tuple[JobId, str], Path] = {}
        self.on_submit: Callable[[JobRecord], None] = lambda record: None

    async def submit(
        self, kind: JobKind, task: str, params: JsonObject, person: str, *, enqueue: bool = False
    ) -> JobRecord:
        if not enqueue and any(not r.state.is_final for r in self.list(kind)):
            raise QueueFull("Stop it, or queue behind it with enqueue=true.")
        job_id = JobId(f"00000000-0000-4000-8000-{len(self._events):012x}")
        self._events[job_id] = (JobSpec(job_id, kind, task, params, person, float(next(self.clock))), [])
        self.on_submit(self.get(job_id))
        return self.get(job_id)

    def happen(self, job_id: str, *signals: Signal, **data: JsonValue) -> JobRecord:
        """Let `signals` happen to the job; `data` goes with the last."""
        events = self._events[JobId(job_id)][1]
        for number, signal in enumerate(signals):
            last = number == len(signals) - 1
            events.append(JobEvent(float(next(self.clock)), signal, dict(data) if last else {}))
        return self.get(JobId(job_id))

    def list(self, kind: JobKind | None = None) -> builtins.list[JobRecord]:
        return [fold(spec, events) for spec, events in self._events.values() if kind is None or spec.kind is kind]

    def get(self, job_id: JobId) -> JobRecord:
        if job_id not in self._events:
            raise JobNotFound(f"There is no job {job_id}.")
        return fold(*self._events[job_id])

    def file(self, job_id: JobId, name: str) -> Path:
        self.get(job_id)
        if (job_id, name) not in self.files:
            raise JobNotFound(f"The job {job_id} has no {name}.")
        return self.files[job_id, name]

    async def stop(self, job_id: JobId) -> JobRecord:
        if self.get(job_id).state.is_final:
            raise IllegalTransition("The job has ended.")
        return self.happen(job_id, Signal.STOP_ASKED)

    async def resume(self, job_id: JobId) -> JobRecord:
        next_state(self.get(job_id).state, Signal.RESUME_ASKED)
        return self.happen(job_id, Signal.RESUME_ASKED)

    async def expect(self) -> None:
        self.expected += 1

    async def wait(self, job_id: JobId) -> JobRecord:
        while not self.get(job_id).state.is_final:
            await asyncio.sleep(0.001)
        return self.get(job_id)


class FakeEngine:
    """`contracts.engine.Engine` whose answers a test sets."""

    def __init__(self, roots: Roots, description: AppDescription | None = None) -> None:
        self.roots = roots
        self.jobs = FakeJobs()
        self.app = description
        self.ready = Readiness(ready=True)
        self.requests: list[InferRequest] = []
        self.calls: list[tuple[str, JsonObject]] = []
        self.lead: dict[str, Callable[[JsonObject], JsonValue]] = {}
        self.answer: Infer = self.mask
        self.started = self.stopped = False
        self.restarts = 0
        self._numbers = itertools.count(1)
        self.sessions = FakeSessions(self._session_image, roots)

    def _session_image(self, call: SessionCall) -> Path:
        if call.image_file is not None:
            return self.roots.resolve(call.image_file)
        return self.roots.studies / f"{call.image_id}.nii.gz"

    async def interact(
        self, call: SessionCall, on_partial: Callable[[SessionAnswer], None] | None = None
    ) -> SessionAnswer:
        await asyncio.sleep(0)
        return self.sessions.answer(call, on_partial)

    async def start(self) -> None:
        self.started = True

    async def stop(self, *, leave_jobs: bool = False) -> None:
        self.stopped = True

    def restart_workers(self) -> None:
        self.restarts += 1

    def readiness(self) -> Readiness:
        return self.ready

    def description(self) -> AppDescription | None:
        return self.app

    async def infer(self, request: InferRequest) -> InferAnswer:
        self.requests.append(request)
        return await self.answer(request)

    async def mask(self, request: InferRequest) -> InferAnswer:
        """A small file in the spool, as a worker leaves it."""
        return self.spooled(b"NRRD0004\nmask\r\n--x", ".nrrd", {"label_names": {"liver": 1, "spleen": 2}})

    def spooled(self, data: bytes, ext: str, params: JsonObject) -> InferAnswer:
        path = self.spool / f"result-{next(self._numbers)}{ext}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return InferAnswer(params=params, file=self.roots.relative(path, Root.STATE), ext=ext)

    @property
    def spool(self) -> Path:
        return self.roots.state / "spool"

    async def call_lead(self, method: str, params: JsonObject, *, timeout_s: float = 60.0) -> JsonValue:
        self.calls.append((method, params))
        if method not in self.lead:
            raise TaskNotFound(f"The fake lead knows no {method}.")
        return self.lead[method](params)

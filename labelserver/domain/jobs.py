"""The life of a job: what it is asked to do, what happened, and the state that follows from it.

A job's folder holds ``spec.json`` (written once, before anything starts), ``control.jsonl`` (one writer: the server),
``events.jsonl`` (one writer: the job) and ``exit.json`` (one writer: the runner that waits for the job). Nothing stores
the state: `fold` computes it from these through `TRANSITIONS`, so it is the same before and after any crash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from labelserver.domain.errors import IllegalTransition
from labelserver.domain.ids import JobId
from labelserver.domain.json_types import JsonObject, JsonValue

SPEC_FORMAT = 1
#: what an export job leaves in its folder
EXPORT_ARCHIVE = "export.zip"
#: as the task of a scoring job: every scoring method of the app, in one process
ALL_METHODS = "*"
#: lines of output kept for people who ask for the status; the peer keeps 20.
DETAIL_LINES = 20


class JobKind(StrEnum):
    """What a job runs. The peer's routes are ``/train``, ``/scoring`` and ``/batch/infer``."""

    TRAIN = "train"
    SCORING = "scoring"
    BATCH_INFER = "batch_infer"
    EXPORT = "export"  #: takes a version of a model out (`domain.exports`)


class JobState(StrEnum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUSPENDED = "suspended"  #: stopped by a server that went down; taken up again at the next start
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (JobState.DONE, JobState.STOPPED, JobState.FAILED)

    @property
    def is_active(self) -> bool:
        """A process exists, or is about to."""
        return self in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)


class JobReason(StrEnum):
    """Why a job failed. `ADVICE` says what a person does then."""

    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"
    NAN_LOSS = "nan_loss"
    BAD_DATA = "bad_data"
    NO_DATA = "no_data"
    DISK_FULL = "disk_full"
    APP_ERROR = "app_error"
    LOST = "lost"  #: its process is proven gone and left no exit record


#: What to do about a failure, for people.
ADVICE: dict[JobReason, str] = {
    JobReason.OUT_OF_MEMORY: (
        "Lower train_batch_size or the patch size, choose the device 'cpu' or the dataset 'Dataset', or close other "
        "programs; then resume the job or start it again."
    ),
    JobReason.KILLED: (
        "Its process was ended from outside, often because the machine ran short of memory. Resume the job: it goes "
        "on from its last checkpoint."
    ),
    JobReason.NAN_LOSS: (
        "Lower the learning rate and look for images or labels with broken values; then start a new training."
    ),
    JobReason.BAD_DATA: "Correct or remove the cases that the job's result and log name; then start it again.",
    JobReason.NO_DATA: "Submit at least one label; then start it again.",
    JobReason.DISK_FULL: (
        "Free some space (labelserver prune shows what can go), then resume the job. What is published is as it was."
    ),
    JobReason.APP_ERROR: "The job's worker.log holds the traceback. Correct the app or request; then start it again.",
    JobReason.LOST: "Its processes are gone, perhaps by a restart of the machine. Resume it from its last checkpoint.",
}

#: Exit status of a job's process -> why it failed, for a disk so full that not even the event could be written.
EXIT_REASONS: dict[int, JobReason] = {81 + number: reason for number, reason in enumerate(JobReason)}


class Signal(StrEnum):
    """What can happen to a job. The first six are written by the server, the rest by the job or its runner."""

    SUBMITTED = "submitted"
    STARTED = "started"  #: a process was started (also: started again after a suspension)
    STOP_ASKED = "stop_asked"  #: a person wants it to end
    SUSPEND_ASKED = "suspend_asked"  #: the server goes down
    RESUME_ASKED = "resume_asked"  #: a person wants a stopped or failed job to go on from its checkpoint
    LOST = "lost"
    RUNNING = "running"  #: the task was found and has begun
    PROGRESS = "progress"  #: data: see JobProgress
    EPOCH = "epoch"  #: data: a point of the curve, see JobRecord
    LOG = "log"  #: data: {"line": text}
    VERSION = "version"  #: data: {"model": name, "version": n}: a candidate lies ready
    RESULT = "result"  #: data: what the task returned
    FAILED = "failed"  #: data: {"reason", "message"}
    EXITED = "exited"  #: data: {"returncode": int, "out_of_memory": bool}; written by the runner


S, J = Signal, JobState
#: (state, signal) -> next state. A pair that is missing is illegal for the writer and ignored by the reader.
TRANSITIONS: dict[tuple[JobState, Signal], JobState] = {
    (J.QUEUED, S.STARTED): J.STARTING,
    (J.QUEUED, S.STOP_ASKED): J.STOPPED,
    (J.STARTING, S.RUNNING): J.RUNNING,
    (J.STARTING, S.STOP_ASKED): J.STOPPING,
    (J.STARTING, S.SUSPEND_ASKED): J.SUSPENDED,
    (J.STARTING, S.FAILED): J.FAILED,
    (J.STARTING, S.LOST): J.FAILED,
    (J.RUNNING, S.STOP_ASKED): J.STOPPING,
    (J.RUNNING, S.SUSPEND_ASKED): J.SUSPENDED,
    (J.RUNNING, S.RESULT): J.DONE,
    (J.RUNNING, S.FAILED): J.FAILED,
    (J.RUNNING, S.LOST): J.FAILED,
    (J.STOPPING, S.RESULT): J.STOPPED,
    (J.STOPPING, S.FAILED): J.FAILED,
    (J.STOPPING, S.LOST): J.STOPPED,
    (J.SUSPENDED, S.STARTED): J.STARTING,
    (J.SUSPENDED, S.STOP_ASKED): J.STOPPED,
    (J.SUSPENDED, S.RESULT): J.DONE,
    (J.STOPPED, S.RESUME_ASKED): J.QUEUED,
    (J.FAILED, S.RESUME_ASKED): J.QUEUED,
}


def next_state(state: JobState, signal: Signal) -> JobState:
    """The state after `signal`. Raises `IllegalTransition` if the table has no such row."""
    try:
        return TRANSITIONS[state, signal]
    except KeyError:
        raise IllegalTransition(f"A job that is {state.value} cannot take '{signal.value}'.") from None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job is asked to do. `task` names a trainer, a scoring method or an infer model of the app."""

    job_id: JobId
    kind: JobKind
    task: str
    params: JsonObject
    person: str
    created_ts: float  #: Unix seconds
    format: int = SPEC_FORMAT

    def to_json(self) -> JsonObject:
        return {
            "format": self.format,
            "job_id": self.job_id,
            "kind": self.kind.value,
            "task": self.task,
            "params": self.params,
            "person": self.person,
            "created_ts": self.created_ts,
        }

    @classmethod
    def from_json(cls, document: JsonObject) -> JobSpec:
        """Raises KeyError, ValueError or TypeError on a document that is not a spec; callers translate."""
        params = document["params"]
        if not isinstance(params, dict):
            raise TypeError("params of a job spec is an object")
        return cls(
            job_id=JobId(str(document["job_id"])),
            kind=JobKind(str(document["kind"])),
            task=str(document["task"]),
            params=params,
            person=str(document["person"]),
            created_ts=float(str(document["created_ts"])),
            format=int(str(document["format"])),
        )


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of ``events.jsonl``, ``control.jsonl`` or ``exit.json``."""

    ts: float  #: Unix seconds
    signal: Signal
    data: JsonObject = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        return {"ts": self.ts, "signal": self.signal.value, "data": self.data}

    @classmethod
    def from_json(cls, document: JsonObject) -> JobEvent:
        data = document.get("data")
        return cls(
            ts=float(str(document["ts"])),
            signal=Signal(str(document["signal"])),
            data=data if isinstance(data, dict) else {},
        )


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as people see it: the fold of its folder."""

    spec: JobSpec
    state: JobState = JobState.QUEUED
    reason: JobReason | None = None
    message: str = ""
    started_ts: float | None = None
    ended_ts: float | None = None
    progress: JsonObject = field(default_factory=dict)  #: last PROGRESS: epoch, total_epochs, step, loss, metrics, ...
    details: tuple[str, ...] = ()
    versions: tuple[tuple[str, int], ...] = ()  #: (model, version) candidates that it wrote
    result: JsonObject | None = None
    curve: tuple[JsonObject, ...] = ()  #: one point an epoch: epoch, loss, learning_rate, metrics, ...

    @property
    def advice(self) -> str:
        """What to do about the failure; empty if it did not fail."""
        return ADVICE[self.reason] if self.reason is not None else ""


def fold(spec: JobSpec, events: Iterable[JobEvent]) -> JobRecord:
    """The job's record after all `events`, given in the order of their time stamps."""
    return advance(JobRecord(spec=spec), events)


def advance(record: JobRecord, events: Iterable[JobEvent]) -> JobRecord:
    """`record` after further `events`: folding in parts gives the same as folding at once."""
    for event in events:
        record = _apply(record, event)
    return record


def _apply(record: JobRecord, event: JobEvent) -> JobRecord:
    match event.signal:
        case Signal.PROGRESS:
            return replace(record, progress={**record.progress, **event.data})
        case Signal.EPOCH:
            known = tuple(p for p in record.curve if _as_int(p.get("epoch")) < _as_int(event.data.get("epoch")))
            return replace(record, progress={**record.progress, **event.data}, curve=(*known, event.data))
        case Signal.LOG:
            line = str(event.data.get("line", ""))
            return replace(record, details=(*record.details, line)[-DETAIL_LINES:])
        case Signal.VERSION:
            pair = (str(event.data.get("model", "")), _as_int(event.data.get("version")))
            return replace(record, versions=(*record.versions, pair))
        case Signal.EXITED:
            return _after_exit(record, event)
        case _:
            pass
    following = TRANSITIONS.get((record.state, event.signal))
    if following is None:
        return record
    changed = replace(record, state=following)
    if event.signal is Signal.RESUME_ASKED:
        return replace(changed, reason=None, message="", ended_ts=None, result=None)
    if event.signal is Signal.STARTED:
        changed = replace(changed, started_ts=record.started_ts or event.ts)
    if event.signal is Signal.RESULT:
        changed = replace(changed, result=event.data)
    if event.signal in (Signal.FAILED, Signal.LOST) and following is JobState.FAILED:
        changed = replace(changed, reason=_reason(event), message=str(event.data.get("message", "")))
    if following.is_final:
        changed = replace(changed, ended_ts=event.ts)
    return changed


def _after_exit(record: JobRecord, event: JobEvent) -> JobRecord:
    """A process that ended without saying why: stopped if that was asked for, else killed."""
    if not record.state.is_active:
        return record
    if record.state is JobState.STOPPING:
        return replace(record, state=JobState.STOPPED, ended_ts=event.ts)
    code = _as_int(event.data.get("returncode"))
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    reason = EXIT_REASONS.get(code, JobReason.KILLED)
    message = f"The job's process ended with {how} before it finished; its log says more."
    if code in EXIT_REASONS:
        message = f"The job failed ({reason.value.replace('_', ' ')}), and could not write down more; its log may."
    if event.data.get("out_of_memory"):
        reason = JobReason.OUT_OF_MEMORY
        message = f"The machine had no memory left, and the system ended the job's process ({how})."
    return replace(record, state=JobState.FAILED, reason=reason, message=message, ended_ts=event.ts)


def _reason(event: JobEvent) -> JobReason:
    if event.signal is Signal.LOST:
        return JobReason.LOST
    try:
        return JobReason(str(event.data.get("reason", "")))
    except ValueError:
        return JobReason.APP_ERROR


def _as_int(value: JsonValue) -> int:
    return int(value) if isinstance(value, int | float) else 0

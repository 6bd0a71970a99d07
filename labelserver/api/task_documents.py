"""A job in the words of the peer's task routes, and training progress in the words of its ``train_stats``.

Status texts are SUBMITTED, RUNNING, DONE, ERROR and STOPPED. Starting and stopping jobs are RUNNING, because clients
stop watching at any other text (R-32); a suspended job waits to be taken up again, so it is SUBMITTED.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from labelserver.api.answers import finite
from labelserver.domain.jobs import JobKind, JobRecord, JobState
from labelserver.domain.json_types import JsonObject, JsonValue

STATUS_TEXT = {
    JobState.QUEUED: "SUBMITTED",
    JobState.SUSPENDED: "SUBMITTED",
    JobState.STARTING: "RUNNING",
    JobState.RUNNING: "RUNNING",
    JobState.STOPPING: "RUNNING",
    JobState.DONE: "DONE",
    JobState.FAILED: "ERROR",
    JobState.STOPPED: "STOPPED",
}

#: what the job's task is called in the request of each kind.
TASK_KEY = {JobKind.TRAIN: "model", JobKind.SCORING: "method", JobKind.BATCH_INFER: "model"}

#: keys of the stats document that clients read as numbers; a missing or non-finite one becomes its default.
_NUMBERS: dict[str, float] = {"epoch": 0, "total_epochs": 0, "best_metric": 0.0}


def task_document(record: JobRecord) -> JsonObject:
    """The peer's task object. `details` has at least one line once the job has left the queue (R-33)."""
    spec = record.spec
    document: JsonObject = {
        "id": spec.job_id,
        "status": STATUS_TEXT[record.state],
        "request": {TASK_KEY[spec.kind]: spec.task, **spec.params},
        "start_ts": _local_time(spec.created_ts),
        "state": record.state.value,
    }
    if record.reason is not None:
        document["reason"] = record.reason.value
    if record.ended_ts is not None:
        document["end_ts"] = _local_time(record.ended_ts)
    if record.state is not JobState.QUEUED:
        lines = [*record.details, *([record.message] if record.message else [])]
        document["details"] = lines or [f"{spec.kind.value} {spec.task}: {record.state.value}"]
    if record.progress:
        document["progress"] = finite(record.progress)
    if record.result is not None:
        document["result"] = finite(record.result)
    return document


def preferred(records: Sequence[JobRecord]) -> JobRecord | None:
    """The running job, else the one submitted last (R-32)."""
    active = [r for r in records if r.state.is_active]
    chosen = active or records
    return chosen[-1] if chosen else None


def train_stats(trainers: Sequence[str], records: Sequence[JobRecord]) -> JsonObject:
    """One stats document per trainer, {} where it never ran; first the one that people watch.

    Clients show the first entry alone, so a running trainer comes first, then the one that ran last.
    """
    latest = {name: preferred([r for r in records if r.spec.task == name]) for name in trainers}

    def rank(name: str) -> tuple[int, float]:
        record = latest[name]
        if record is None:
            return (2, 0.0)
        return (0 if record.state.is_active else 1, -record.spec.created_ts)

    return {name: _stats(latest[name]) for name in sorted(trainers, key=rank)}


def _stats(record: JobRecord | None) -> JsonObject:
    if record is None or (not record.progress and not record.result):
        return {}
    source = record.result if record.result and "total_epochs" in record.result else record.progress
    document: JsonObject = {key: value for key, value in finite(source).items() if value is not None}
    if "epoch" in document:
        document.setdefault("current_epoch", document["epoch"])
    for key, default in _NUMBERS.items():
        value = document.get(key)
        document[key] = value if isinstance(value, int | float) and not isinstance(value, bool) else default
    begun = record.started_ts or record.spec.created_ts
    document.setdefault("start_ts", int(begun))
    document.setdefault("train", {"metrics": {}})
    document.setdefault("eval", {"metrics": _table(document.get("metrics"))})
    if record.state.is_final:
        document.pop("current_time", None)
        document.setdefault("total_time", _duration((record.ended_ts or begun) - begun))
    else:
        document.pop("total_time", None)
        document["current_time"] = _duration(time.time() - begun)
    return document


def _table(value: JsonValue) -> JsonObject:
    return dict(value) if isinstance(value, dict) else {}


def _local_time(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ts))


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"

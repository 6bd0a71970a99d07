"""What a job's folder tells becomes events for people.

A folder is read from its beginning by each server, so what an earlier server has published is passed over: it lies
before the newest event of that job in the hub.
"""

from __future__ import annotations

from labelserver.domain.jobs import JobEvent, JobRecord, JobState, Signal
from labelserver.domain.json_types import JsonObject
from labelserver.domain.models import Decision
from labelserver.engine.event_hub import EventHub, Wanted

#: characters of a log line or message that an event carries.
MAX_TEXT = 2000

_KINDS = {
    Signal.PROGRESS: "job.progress",
    Signal.EPOCH: "job.epoch",
    Signal.LOG: "job.log",
    Signal.VERSION: "version.candidate",
}


class JobEvents:
    """Publishes the news of all jobs. Threads may share it: one job's news come from one thread at a time."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        newest = hub.newest()
        self._since_ts = newest.ts if newest is not None else hub.now()
        self._states: dict[str, JobState] = {}
        self._told_ts: dict[str, float] = {}

    def __call__(self, record: JobRecord, event: JobEvent) -> None:
        """Publish `event`, after which the job is as `record` says."""
        job_id = str(record.spec.job_id)
        changed = self._states.get(job_id) is not record.state
        self._states[job_id] = record.state
        if event.ts <= self._told(job_id):
            return
        kind = _KINDS.get(event.signal)
        if kind is not None:
            self._hub.publish(kind, {**_about(record), **_shortened(event.data)}, job_id=job_id, ts=event.ts)
        if changed:
            self._hub.publish("job.state", {**_about(record), **_state(record)}, job_id=job_id, ts=event.ts)

    def _told(self, job_id: str) -> float:
        """Up to when the job's news were published by an earlier server."""
        if job_id not in self._told_ts:
            newest = self._hub.newest(Wanted(job_id=job_id))
            self._told_ts[job_id] = newest.ts if newest is not None else self._since_ts
        return self._told_ts[job_id]


def _about(record: JobRecord) -> JsonObject:
    return {"job_kind": record.spec.kind.value, "task": record.spec.task}


def _state(record: JobRecord) -> JsonObject:
    found: JsonObject = {"state": record.state.value, "person": record.spec.person}
    if record.reason is not None:
        found |= {"reason": record.reason.value, "message": record.message[:MAX_TEXT], "advice": record.advice}
    return found


def _shortened(data: JsonObject) -> JsonObject:
    return {key: value[:MAX_TEXT] if isinstance(value, str) else value for key, value in data.items()}


def version_event(model: str, number: int, decision: Decision) -> tuple[str, JsonObject]:
    """Kind and data of what was decided about a version: ``version.published``, ``.unchecked`` or ``.rejected``."""
    data: JsonObject = {"model": model, "version": number, "verdict": decision.verdict.value}
    return f"version.{decision.verdict.value}", {**data, "reason": decision.reason[:MAX_TEXT]}

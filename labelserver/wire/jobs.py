"""Jobs on the new routes."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from labelserver.domain.jobs import JobKind, JobReason, JobRecord, JobState


class Job(BaseModel):
    """One job as people and clients see it. Times are Unix seconds."""

    model_config = ConfigDict(extra="ignore")

    id: str
    kind: JobKind
    task: str
    state: JobState
    person: str
    params: dict[str, Any]
    created_ts: float
    started_ts: float | None = None
    ended_ts: float | None = None
    reason: JobReason | None = None
    message: str = ""
    progress: dict[str, Any] = {}
    details: list[str] = []
    versions: list[tuple[str, int]] = []
    result: Any = None  # whatever the app's task returned

    @classmethod
    def from_domain(cls, record: JobRecord) -> Self:
        spec = record.spec
        return cls(
            id=spec.job_id,
            kind=spec.kind,
            task=spec.task,
            state=record.state,
            person=spec.person,
            params=dict(spec.params),
            created_ts=spec.created_ts,
            started_ts=record.started_ts,
            ended_ts=record.ended_ts,
            reason=record.reason,
            message=record.message,
            progress=dict(record.progress),
            details=list(record.details),
            versions=list(record.versions),
            result=record.result,
        )


class JobList(BaseModel):
    """Oldest first."""

    jobs: list[Job]

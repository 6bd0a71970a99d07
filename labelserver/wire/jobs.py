"""Jobs on the new routes."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

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
    advice: str = Field(default="", description="What to do about a failure.")
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
            advice=record.advice,
            progress=dict(record.progress),
            details=list(record.details),
            versions=list(record.versions),
            result=record.result,
        )


class JobList(BaseModel):
    """Oldest first."""

    jobs: list[Job]


class Curve(BaseModel):
    """How a training went, one point an epoch, the first first. A resumed job goes on with its curve."""

    model_config = ConfigDict(extra="ignore")

    job: str
    task: str
    state: JobState
    points: list[dict[str, Any]] = Field(
        description="epoch, total_epochs, loss, learning_rate, metrics (name -> value, Dice per label), seconds, ..."
    )

    @classmethod
    def from_domain(cls, record: JobRecord) -> Self:
        points = [dict(point) for point in record.curve]
        return cls(job=record.spec.job_id, task=record.spec.task, state=record.state, points=points)

"""Models and their versions on the new routes."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.models import Decision, ModelVersion, Verdict


class Version(BaseModel):
    """One version and what was decided about it."""

    model_config = ConfigDict(extra="ignore")

    model: str
    number: int
    current: bool
    created_ts: float
    verdict: Verdict
    reason: str
    decided_ts: float
    weights: str
    sha256: str
    job_id: str = ""
    key_metric: str = ""
    metrics: dict[str, float] = {}
    baseline_version: int | None = None
    baseline: dict[str, float] = {}
    held_out: list[str] = []
    extra: dict[str, Any] = {}

    @classmethod
    def from_domain(cls, version: ModelVersion, decision: Decision, *, current: bool) -> Self:
        return cls(
            model=version.model,
            number=version.number,
            current=current,
            created_ts=version.created_ts,
            verdict=decision.verdict,
            reason=decision.reason,
            decided_ts=decision.ts,
            weights=version.weights,
            sha256=version.sha256,
            job_id=version.job_id,
            key_metric=version.key_metric,
            metrics=version.metrics,
            baseline_version=version.baseline_version,
            baseline=version.baseline,
            held_out=list(version.held_out),
            extra=dict(version.extra),
        )


class VersionList(BaseModel):
    """Oldest first."""

    versions: list[Version]


class Model(BaseModel):
    """A model and its current version; `current` is None before the first was published."""

    model: str
    current: int | None
    versions: int = Field(description="How many there are.")


class ModelList(BaseModel):
    models: list[Model]


class PublishRequest(BaseModel):
    """Why somebody makes a version current."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=1000)

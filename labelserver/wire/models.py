"""Models and their versions on the new routes."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.models import Decision, GateRule, ModelVersion, Verdict


class Export(BaseModel):
    """How a version shall be taken out."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["torchscript", "bundle", "app", "map", "all"] = "all"
    verify: bool = Field(False, description="Run each format in a process of its own and compare with the server.")
    modality: str = Field("", max_length=16, description="DICOM's, for example CT; empty: as the model says.")


class Numbers(BaseModel):
    """What the gate compared."""

    model_config = ConfigDict(extra="ignore")

    rule: GateRule
    margin: float
    against: int | None = Field(None, description="The version that was in use.")
    before: float | None = Field(None, description="Its mean over the shared held-out cases.")
    after: float | None = None
    cases: dict[str, tuple[float, float]] = Field({}, description="Image -> key metric before and after.")


class Output(BaseModel):
    """What an output channel of the network stands for."""

    model_config = ConfigDict(extra="ignore")

    channel: int
    name: str
    schema_id: str = ""


class Version(BaseModel):
    """One version and what was decided about it."""

    model_config = ConfigDict(extra="ignore")

    model: str
    number: int
    current: bool
    pinned: bool = False
    created_ts: float
    verdict: Verdict
    reason: str
    decided_ts: float
    decided_by: str = Field("", description="A person; empty for the gate.")
    numbers: Numbers | None = None
    weights: str
    sha256: str
    network_hash: str = Field("", description="Of the network's code and shape.")
    outputs: list[Output] = []
    job_id: str = ""
    key_metric: str = ""
    metrics: dict[str, float] = {}
    cases: dict[str, dict[str, float]] = Field({}, description="Held-out image -> metric -> value.")
    baseline_version: int | None = Field(None, description="The version that was in use when the training began.")
    baseline: dict[str, float] = {}
    baseline_cases: dict[str, dict[str, float]] = {}
    held_out: list[str] = []
    held_out_labels: dict[str, Any] = Field({}, description="Image -> SHA-256 of the label it was measured on.")
    labels: dict[str, Any] = Field({}, description="Image -> SHA-256 of the label it was trained on.")
    revisions: dict[str, Any] = Field({}, description="Image -> number of that label's revision.")
    extra: dict[str, Any] = {}

    @classmethod
    def from_domain(cls, version: ModelVersion, decision: Decision, *, current: bool, pinned: bool = False) -> Self:
        numbers = decision.numbers
        return cls(
            model=version.model,
            number=version.number,
            current=current,
            pinned=pinned,
            created_ts=version.created_ts,
            verdict=decision.verdict,
            reason=decision.reason,
            decided_ts=decision.ts,
            decided_by=decision.person,
            numbers=None
            if numbers is None
            else Numbers(
                rule=numbers.rule,
                margin=numbers.margin,
                against=numbers.against,
                before=numbers.before,
                after=numbers.after,
                cases=numbers.cases,
            ),
            weights=version.weights,
            sha256=version.sha256,
            network_hash=version.network_hash,
            outputs=[Output(channel=o.channel, name=o.name, schema_id=o.schema_id) for o in version.outputs],
            job_id=version.job_id,
            key_metric=version.key_metric,
            metrics=version.metrics,
            cases=version.cases,
            baseline_version=version.baseline_version,
            baseline=version.baseline,
            baseline_cases=version.baseline_cases,
            held_out=list(version.held_out),
            held_out_labels=dict(version.held_out_labels),
            labels=dict(version.labels),
            revisions=dict(version.revisions),
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


class Values(BaseModel):
    """One metric of two versions."""

    first: float
    second: float
    difference: float = Field(description="The second minus the first.")

    @classmethod
    def of(cls, pair: tuple[float, float]) -> Self:
        return cls(first=pair[0], second=pair[1], difference=pair[1] - pair[0])


class VersionComparison(BaseModel):
    """Two versions on the held-out cases that both were measured on, with the same labels."""

    model_config = ConfigDict(extra="ignore")

    model: str
    first: int
    second: int
    metrics: dict[str, Values] = Field({}, description="Metric, such as the Dice of a label -> means over the cases.")
    cases: dict[str, dict[str, Values]] = Field({}, description="Image -> metric -> values.")


class Reason(BaseModel):
    """Why somebody does something to a version; kept with the decision."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=1000)

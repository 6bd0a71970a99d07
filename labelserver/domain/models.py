"""Versions of trained networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from labelserver.domain.json_types import JsonObject


class Verdict(StrEnum):
    """What became of a candidate."""

    CANDIDATE = "candidate"  #: not decided yet
    PUBLISHED = "published"  #: not worse than the version it replaced on the same held-out cases
    UNCHECKED = "unchecked"  #: published without a held-out case to compare on
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable set of weights, as ``versions/<model>/<n>/manifest.json`` tells it.

    `metrics` were measured by the training job on its held-out cases, `baseline` on the same cases with the version
    that was current then (empty if there was none, or no held-out case). Both hold at least `key_metric` when known.
    """

    model: str
    number: int
    created_ts: float  #: Unix seconds
    weights: str  #: file name in the version's folder
    sha256: str  #: of the weights file
    job_id: str = ""
    publish_path: str = ""  #: below APP; the file that infer tasks read; empty: none
    key_metric: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    baseline_version: int | None = None
    baseline: dict[str, float] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()  #: image ids
    labels: JsonObject = field(default_factory=dict)  #: image id -> SHA-256 of the label it was trained on
    extra: JsonObject = field(default_factory=dict)  #: configuration, code hash, device, duration_s


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a candidate was published or not; kept beside its manifest as ``decision.json``."""

    verdict: Verdict
    reason: str
    ts: float  #: Unix seconds

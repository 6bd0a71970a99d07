"""Versions of trained networks, and how it is decided which of them is in use."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from labelserver.domain.json_types import JsonObject

#: image id -> name of a metric -> value; larger is better.
CaseMetrics: TypeAlias = dict[str, dict[str, float]]

#: The number under which weights that lay in the app before any training are kept.
ADOPTED = 0


class Verdict(StrEnum):
    """What became of a candidate."""

    CANDIDATE = "candidate"  #: not decided yet
    PUBLISHED = "published"  #: not worse than the version it replaced on the same held-out cases, or put there by hand
    UNCHECKED = "unchecked"  #: published without a held-out case to compare on
    REJECTED = "rejected"


class GateRule(StrEnum):
    """What must not be worse than before, each by more than the margin."""

    MEAN = "mean"  #: the mean of the key metric over the shared held-out cases
    EVERY_LABEL = "every_label"  #: also the mean of each further metric, such as the Dice of each label
    EVERY_CASE = "every_case"  #: the key metric of each shared case


@dataclass(frozen=True, slots=True)
class OutputLabel:
    """What one output channel of a network stands for. `schema_id` outlives a new name; "" without a schema."""

    channel: int
    name: str
    schema_id: str = ""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable set of weights, as ``versions/<model>/<n>/manifest.json`` tells it.

    `metrics` and `cases` were measured by the training job on its held-out cases, `baseline` and `baseline_cases` on
    the same cases with the version that was current then (empty if there was none, or no held-out case). All hold at
    least `key_metric` when known. Cases that the version of the baseline had learned from are not in `baseline_cases`.
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
    cases: CaseMetrics = field(default_factory=dict)
    baseline_version: int | None = None
    baseline: dict[str, float] = field(default_factory=dict)
    baseline_cases: CaseMetrics = field(default_factory=dict)
    held_out: tuple[str, ...] = ()  #: image ids
    held_out_labels: JsonObject = field(default_factory=dict)  #: image id -> SHA-256 of the label it was measured on
    labels: JsonObject = field(default_factory=dict)  #: image id -> SHA-256 of the label it was trained on
    revisions: JsonObject = field(default_factory=dict)  #: image id -> number of that label's revision
    network_hash: str = ""  #: of the network's code and shape
    outputs: tuple[OutputLabel, ...] = ()
    extra: JsonObject = field(default_factory=dict)  #: configuration, curves, device, duration_s


@dataclass(frozen=True, slots=True)
class GateNumbers:
    """What the gate compared. `cases`: image id -> key metric (before, after)."""

    rule: GateRule
    margin: float
    against: int | None = None  #: the version that was in use
    before: float | None = None  #: mean of the key metric over the shared cases
    after: float | None = None
    cases: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a version was published or not; kept beside its manifest as ``decision.json``."""

    verdict: Verdict
    reason: str
    ts: float  #: Unix seconds
    person: str = ""  #: who decided; "" for the gate
    numbers: GateNumbers | None = None


class ModelAct(StrEnum):
    """What was done to a version by somebody, or by the gate."""

    PUBLISH = "publish"
    ROLL_BACK = "roll_back"
    REJECT = "reject"
    PIN = "pin"
    UNPIN = "unpin"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """A line of ``versions/<model>/history.jsonl``."""

    act: ModelAct
    number: int
    ts: float  #: Unix seconds
    person: str = ""
    reason: str = ""


def published_before(history: list[ModelEvent], current: int | None, existing: set[int]) -> int | None:
    """The version to go back to: the one that was in use before `current` came into use; None if there is none.

    A roll back takes the newest publication back, so that going back twice leads two publications back.
    """
    stack: list[int] = []
    for event in history:
        if event.act is ModelAct.PUBLISH and (not stack or stack[-1] != event.number):
            stack.append(event.number)
        elif event.act is ModelAct.ROLL_BACK:
            while stack and stack[-1] != event.number:
                stack.pop()
            stack = stack or [event.number]
    candidates = [number for number in stack if number in existing and number != current]
    return candidates[-1] if candidates else None

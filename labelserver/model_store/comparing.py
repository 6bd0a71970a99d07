"""Two versions side by side: for each metric, such as the Dice of each label, and for each held-out case.

Only numbers that were measured on the same labels are set against each other: where the training of one of them
measured the other, its numbers; else those of the cases whose label was the same for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from labelserver.domain.models import CaseMetrics, ModelVersion

#: Values of the first and of the second version.
Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both tables know the shared cases alone: `metrics` as means over them, `cases` one by one."""

    first: int
    second: int
    metrics: dict[str, Pair]
    cases: dict[str, dict[str, Pair]]  #: image id -> metric -> values


def compared(first: ModelVersion, second: ModelVersion) -> Comparison:
    """What both are known to reach on the same cases; empty tables if there is no such case."""
    before, after = _measured_alike(first, second)
    cases: dict[str, dict[str, Pair]] = {}
    for case in sorted(before.keys() & after.keys()):
        names = sorted(before[case].keys() & after[case].keys())
        if names:
            cases[case] = {name: (before[case][name], after[case][name]) for name in names}
    metrics = {}
    for name in sorted({name for values in cases.values() for name in values}):
        pairs = [values[name] for values in cases.values() if name in values]
        metrics[name] = (fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs))
    return Comparison(first.number, second.number, metrics, cases)


def _measured_alike(first: ModelVersion, second: ModelVersion) -> tuple[CaseMetrics, CaseMetrics]:
    if second.baseline_version == first.number and second.baseline_cases:
        return second.baseline_cases, second.cases
    if first.baseline_version == second.number and first.baseline_cases:
        return first.cases, first.baseline_cases
    labels = first.held_out_labels
    same = {case for case, label in second.held_out_labels.items() if case in labels and labels[case] == label}
    return (
        {case: values for case, values in first.cases.items() if case in same},
        {case: values for case, values in second.cases.items() if case in same},
    )

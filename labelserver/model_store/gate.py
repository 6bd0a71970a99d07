"""May a candidate replace the version in use? Only if it is not worse on the same held-out cases.

Both were measured by the training job, on the same labels. A case that either of the two has learned from says nothing
about them and does not count. A version that was never measured on a held-out case loses its place to the first
measured candidate that is not worse on any shared case, whatever the rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

from labelserver.domain.models import CaseMetrics, Decision, GateNumbers, GateRule, ModelVersion, Verdict

#: How much lower the key metric (Dice, larger is better) may be: repeated measurements of equal networks differ by
#: resampling and device arithmetic by some thousandths.
MARGIN = 0.005

#: Equal numbers may differ in their last bits.
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Gate:
    """How strict the gate is."""

    rule: GateRule = GateRule.MEAN
    margin: float = MARGIN

    def judge(
        self, candidate: ModelVersion, current: ModelVersion | None, *, pinned: bool = False, now_ts: float
    ) -> Decision:
        """Compare `candidate` with `current`, which it would replace; None if there is nothing to replace.

        Args:
            candidate: with the measures of its job.
            current: the version in use.
            pinned: somebody wants `current` to stay.
            now_ts: Unix seconds.
        """
        numbers = GateNumbers(self.rule, self.margin, current.number if current is not None else None)
        if current is not None and pinned:
            reason = f"Version {current.number} is pinned; unpin it, or publish this version by hand."
            return Decision(Verdict.REJECTED, reason, now_ts, numbers=numbers)
        if not _is_measured(candidate):
            return self._of_unmeasured(current, numbers, now_ts)
        where = f"{_where(candidate)} on {len(candidate.held_out)} held-out case(s)"
        if current is None:
            return Decision(Verdict.PUBLISHED, f"{where}; nothing was in use before.", now_ts, numbers=numbers)
        shared = _shared(candidate, current)
        if shared:
            return self._of_cases(candidate, current, shared, numbers, now_ts)
        before = _mean_before(candidate, current)
        after = candidate.metrics.get(candidate.key_metric)
        if before is not None and after is not None:
            numbers = replace(numbers, before=before, after=after)
            if after >= before - self.margin - _TINY:
                return Decision(Verdict.PUBLISHED, f"{where}, before {before:.4f}.", now_ts, numbers=numbers)
            reason = f"{where} is worse than {before:.4f} of the version in use (margin {self.margin:g})."
            return Decision(Verdict.REJECTED, reason, now_ts, numbers=numbers)
        if candidate.baseline_version != current.number:
            reason = (
                f"Version {current.number} came into use while this one was trained, so the training did not measure "
                "it. Train again, or publish this version by hand."
            )
            return Decision(Verdict.REJECTED, reason, now_ts, numbers=numbers)
        return Decision(Verdict.PUBLISHED, f"{where}; nothing comparable was in use.", now_ts, numbers=numbers)

    def _of_unmeasured(self, current: ModelVersion | None, numbers: GateNumbers, now_ts: float) -> Decision:
        if current is not None and _is_measured(current):
            reason = (
                f"It was not measured on any held-out case, and version {current.number} was. Train with held-out "
                "cases, or publish it by hand."
            )
            return Decision(Verdict.REJECTED, reason, now_ts, numbers=numbers)
        reason = "Published without a check: no held-out label to measure on yet."
        return Decision(Verdict.UNCHECKED, reason, now_ts, numbers=numbers)

    def _of_cases(
        self,
        candidate: ModelVersion,
        current: ModelVersion,
        shared: list[tuple[str, dict[str, float], dict[str, float]]],
        numbers: GateNumbers,
        now_ts: float,
    ) -> Decision:
        key = candidate.key_metric
        pairs = {case: (before[key], after[key]) for case, before, after in shared}
        before, after = fmean(p[0] for p in pairs.values()), fmean(p[1] for p in pairs.values())
        rule = self.rule if _is_measured(current) else GateRule.EVERY_CASE
        numbers = replace(numbers, rule=rule, before=before, after=after, cases=pairs)
        worse = self._worse(rule, shared, pairs, key)
        told = f"{key} {after:.4f} on {len(pairs)} held-out case(s)"
        if not worse:
            return Decision(Verdict.PUBLISHED, f"{told}, before {before:.4f}.", now_ts, numbers=numbers)
        of = "the version in use" if _is_measured(current) else "the unchecked version in use"
        name, was, now = worse
        what = f"{told} is" if name == key else f"{told}, before {before:.4f}; {name} with {now:.4f} is"
        reason = f"{what} worse than {was:.4f} of {of} (rule {rule.value}, margin {self.margin:g})."
        return Decision(Verdict.REJECTED, reason, now_ts, numbers=numbers)

    def _worse(
        self,
        rule: GateRule,
        shared: list[tuple[str, dict[str, float], dict[str, float]]],
        pairs: dict[str, tuple[float, float]],
        key: str,
    ) -> tuple[str, float, float] | None:
        """What got worse: its name, before and after; of several, the worst. None if nothing did."""
        if rule is GateRule.EVERY_CASE:
            looked_at = [(f"the case {case}", *pair) for case, pair in pairs.items()]
        else:
            names = {key}
            if rule is GateRule.EVERY_LABEL:
                names = {name for _, before, after in shared for name in before.keys() & after.keys()}
            looked_at = [(name, *_means(shared, name)) for name in sorted(names)]
        worse = [entry for entry in looked_at if entry[2] < entry[1] - self.margin - _TINY]
        return max(worse, key=lambda entry: entry[1] - entry[2]) if worse else None


def _is_measured(version: ModelVersion) -> bool:
    return bool(version.held_out) and version.key_metric in version.metrics


def _where(version: ModelVersion) -> str:
    return f"{version.key_metric} {version.metrics[version.key_metric]:.4f}"


def _shared(candidate: ModelVersion, current: ModelVersion) -> list[tuple[str, dict[str, float], dict[str, float]]]:
    """(case, before, after) of the cases on which both have the key metric and from which neither learned."""
    key = candidate.key_metric
    if candidate.baseline_version == current.number:
        before: CaseMetrics = candidate.baseline_cases
    else:
        before = {
            case: values
            for case, values in current.cases.items()
            if case in current.held_out_labels and current.held_out_labels[case] == candidate.held_out_labels.get(case)
        }
    return [
        (case, before[case], after)
        for case, after in sorted(candidate.cases.items())
        if key in after and key in before.get(case, {}) and case not in current.labels and case not in candidate.labels
    ]


def _mean_before(candidate: ModelVersion, current: ModelVersion) -> float | None:
    """Where no case is known by itself: the mean that the job measured, or the current version's own on those cases."""
    key = candidate.key_metric
    if current.number != candidate.baseline_version:
        return current.metrics.get(key) if current.held_out == candidate.held_out else None
    return None if candidate.cases else candidate.baseline.get(key)  # with cases, none of them was fair to both


def _means(shared: list[tuple[str, dict[str, float], dict[str, float]]], name: str) -> tuple[float, float]:
    """Mean of a metric before and after, over the cases where both have it."""
    pairs = [(before[name], after[name]) for _, before, after in shared if name in before and name in after]
    return fmean(p[0] for p in pairs), fmean(p[1] for p in pairs)

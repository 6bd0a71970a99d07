"""May a candidate replace the current version? Only if it is not worse on the same held-out cases."""

from __future__ import annotations

from labelserver.domain.models import Decision, ModelVersion, Verdict

#: How much lower the key metric (Dice, larger is better) may be: repeated measurements of equal networks differ by
#: resampling and device arithmetic by some thousandths.
MARGIN = 0.005


def judge(candidate: ModelVersion, current: ModelVersion | None, *, margin: float, now_ts: float) -> Decision:
    """Compare `candidate` with what it would replace; `current` is None if there is no other version.

    The job measured its baseline on its own held-out cases when it began. If another version was published since, and
    that one was measured on the same cases, its own number counts.
    """
    key = candidate.key_metric
    measured = candidate.metrics.get(key) if candidate.held_out else None
    if measured is None:
        return Decision(Verdict.UNCHECKED, "Published without a check: no held-out label to measure on yet.", now_ts)
    where = f"{key} {measured:.4f} on {len(candidate.held_out)} held-out case(s)"
    before = candidate.baseline.get(key)
    if current is not None and current.number != candidate.baseline_version and current.held_out == candidate.held_out:
        before = current.metrics.get(key, before)
    if before is None:
        return Decision(Verdict.PUBLISHED, f"{where}; nothing comparable was published before.", now_ts)
    if measured >= before - margin:
        return Decision(Verdict.PUBLISHED, f"{where}, before {before:.4f}.", now_ts)
    return Decision(
        Verdict.REJECTED, f"{where} is worse than {before:.4f} of the version in use (margin {margin:g}).", now_ts
    )

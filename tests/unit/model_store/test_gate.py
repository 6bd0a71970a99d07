"""A candidate is published if it is not worse than the version in use on the same held-out cases."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from labelserver.domain.models import CaseMetrics, Decision, GateRule, ModelVersion, Verdict
from labelserver.model_store.gate import Gate

KEY = "val_mean_dice"
LIVER = "val_liver_mean_dice"


def version(number: int, cases: dict[str, float], before: dict[str, float] | None = None) -> ModelVersion:
    """A version measured on `cases`; `before`: what version 1 reached on them."""
    return ModelVersion(
        model="m",
        number=number,
        created_ts=0.0,
        weights="w",
        sha256="0",
        key_metric=KEY,
        metrics=mean(cases),
        cases=by_case(cases),
        baseline_version=None if before is None else 1,
        baseline=mean(before or {}),
        baseline_cases=by_case(before or {}),
        held_out=tuple(cases),
        held_out_labels=dict.fromkeys(cases, "cd" * 32),
    )


def mean(cases: dict[str, float]) -> dict[str, float]:
    return {KEY: sum(cases.values()) / len(cases)} if cases else {}


def by_case(cases: dict[str, float]) -> CaseMetrics:
    return {case: {KEY: value} for case, value in cases.items()}


def judged(candidate: ModelVersion, current: ModelVersion | None, rule: GateRule = GateRule.MEAN) -> Decision:
    return Gate(rule, margin=0.005).judge(candidate, current, now_ts=1)


IN_USE = version(1, {"a": 0.8, "b": 0.6})


def test_the_margin_forgives_measurement_noise_alone() -> None:
    assert judged(version(2, {"a": 0.796}, {"a": 0.8}), IN_USE).verdict is Verdict.PUBLISHED
    assert judged(version(2, {"a": 0.79}, {"a": 0.8}), IN_USE).verdict is Verdict.REJECTED


def test_only_cases_that_both_were_measured_on_count() -> None:
    candidate = version(2, {"a": 0.8, "new": 0.1}, {"a": 0.79})
    decision = judged(candidate, IN_USE)
    assert decision.verdict is Verdict.PUBLISHED
    assert decision.numbers is not None
    assert decision.numbers.cases == {"a": (0.79, 0.8)}


def test_what_the_job_measured_on_todays_labels_counts_and_not_what_stands_in_the_old_manifest() -> None:
    assert judged(version(2, {"a": 0.7}, {"a": 0.65}), IN_USE).verdict is Verdict.PUBLISHED


def test_a_case_that_one_of_them_learned_from_does_not_count() -> None:
    candidate = version(2, {"a": 0.7, "b": 0.7}, {"a": 0.99, "b": 0.6})
    assert judged(candidate, IN_USE).verdict is Verdict.REJECTED
    assert judged(candidate, replace(IN_USE, labels={"a": "00" * 32})).verdict is Verdict.PUBLISHED
    nothing_fair = replace(IN_USE, labels={"a": "00" * 32, "b": "11" * 32})
    decision = judged(candidate, nothing_fair)
    assert decision.verdict is Verdict.PUBLISHED
    assert "nothing comparable" in decision.reason


def test_a_better_mean_does_not_excuse_a_worse_case_under_the_rule_for_cases() -> None:
    candidate = version(2, {"a": 0.7, "b": 0.9}, {"a": 0.8, "b": 0.6})
    assert judged(candidate, IN_USE).verdict is Verdict.PUBLISHED
    decision = judged(candidate, IN_USE, GateRule.EVERY_CASE)
    assert decision.verdict is Verdict.REJECTED
    assert "the case a" in decision.reason


def test_a_better_mean_does_not_excuse_a_worse_label_under_the_rule_for_labels() -> None:
    candidate = version(2, {"a": 0.9}, {"a": 0.8})
    candidate = replace(candidate, cases={"a": {KEY: 0.9, LIVER: 0.5}}, baseline_cases={"a": {KEY: 0.8, LIVER: 0.7}})
    assert judged(candidate, IN_USE).verdict is Verdict.PUBLISHED
    decision = judged(candidate, IN_USE, GateRule.EVERY_LABEL)
    assert decision.verdict is Verdict.REJECTED
    assert LIVER in decision.reason


def test_an_unchecked_version_loses_its_place_to_the_first_checked_candidate_not_worse_on_any_shared_case() -> None:
    unchecked = version(1, {})
    worse_on_one = version(2, {"a": 0.99, "b": 0.5}, {"a": 0.2, "b": 0.6})
    decision = judged(worse_on_one, unchecked)
    assert decision.verdict is Verdict.REJECTED
    assert "unchecked" in decision.reason
    assert judged(version(2, {"a": 0.2, "b": 0.6}, {"a": 0.2, "b": 0.6}), unchecked).verdict is Verdict.PUBLISHED


def test_without_a_held_out_label_a_version_is_published_unchecked() -> None:
    assert judged(version(1, {}), None).verdict is Verdict.UNCHECKED
    assert judged(version(2, {}), version(1, {})).verdict is Verdict.UNCHECKED


def test_a_version_that_was_not_measured_does_not_replace_one_that_was() -> None:
    decision = judged(version(2, {}), IN_USE)
    assert decision.verdict is Verdict.REJECTED
    assert "not measured" in decision.reason


def test_a_version_published_meanwhile_is_the_one_to_beat() -> None:
    mine = version(3, {"a": 0.85}, {"a": 0.8})
    assert judged(mine, version(2, {"a": 0.9})).verdict is Verdict.REJECTED
    assert judged(mine, version(2, {"a": 0.7})).verdict is Verdict.PUBLISHED


def test_a_version_published_meanwhile_that_nobody_measured_is_not_replaced() -> None:
    decision = judged(version(3, {"a": 0.85}, {"a": 0.8}), version(2, {"b": 0.1}))
    assert decision.verdict is Verdict.REJECTED
    assert "came into use while" in decision.reason


def test_weights_that_the_job_could_not_measure_do_not_block_the_next_ones() -> None:
    decision = judged(replace(version(2, {"a": 0.85}), baseline_version=1), IN_USE)
    assert decision.verdict is Verdict.PUBLISHED
    assert "nothing comparable" in decision.reason


def test_a_metric_without_values_by_case_is_compared_by_its_mean() -> None:
    candidate = replace(version(2, {"a": 0.7}, {"a": 0.8}), cases={}, baseline_cases={})
    assert judged(candidate, IN_USE).verdict is Verdict.REJECTED
    assert judged(replace(candidate, metrics={KEY: 0.9}), IN_USE).verdict is Verdict.PUBLISHED


@given(
    values=st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1),
    rule=st.sampled_from(GateRule),
)
def test_never_published_where_the_mean_fell_by_more_than_the_margin(
    values: dict[str, tuple[float, float]], rule: GateRule
) -> None:
    before, after = ({case: pair[side] for case, pair in values.items()} for side in (0, 1))
    decision = judged(version(2, after, before), IN_USE, rule)
    fell = mean(before)[KEY] - mean(after)[KEY]
    if fell > 0.0051:
        assert decision.verdict is Verdict.REJECTED
    if all(after[case] >= before[case] for case in values):
        assert decision.verdict is Verdict.PUBLISHED

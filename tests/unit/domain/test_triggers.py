"""When a training starts by itself, with a clock that only moves when told."""

from __future__ import annotations

from datetime import datetime

import pytest

from labelserver.domain.errors import InvalidParams
from labelserver.domain.triggers import Situation, Triggers, why_due

NOON = datetime(2026, 3, 2, 12, 0).timestamp()


def situation(**changes) -> Situation:
    values = {
        "now_ts": NOON,
        "began_ts": NOON - 7200,
        "acted_ts": NOON - 3600,
        "label_times": [NOON - 3000, NOON - 2000],
        "training": False,
        **changes,
    }
    return Situation(**values)


def test_without_rules_trainings_start_by_hand_alone():
    assert not Triggers().are_on
    assert why_due(Triggers(), situation()) == ""


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (Triggers(every_labels=2), "2 labels"),
        (Triggers(interval_minutes=120), "120 minutes"),
        (Triggers(daily_at="11:30"), "11:30"),
        (Triggers(idle_minutes=30), "nobody has worked"),
    ],
)
def test_each_rule_starts_a_training_once_there_is_something_new(rules, says):
    assert rules.are_on
    assert says in why_due(rules, situation())
    assert why_due(rules, situation(label_times=[])) == "", "nothing new to learn from"
    assert why_due(rules, situation(training=True)) == "", "never two at once"
    assert why_due(rules, situation(label_times=[NOON - 2000, NOON - 10])) == "", "more labels may come"


@pytest.mark.parametrize(
    ("rules", "changes"),
    [
        (Triggers(every_labels=3), {}),
        (Triggers(interval_minutes=121), {}),
        (Triggers(daily_at="11:30"), {"began_ts": NOON - 1500}),
        (Triggers(daily_at="12:01"), {"began_ts": NOON - 3600}),
        (Triggers(idle_minutes=40), {}),
        (Triggers(idle_minutes=30), {"acted_ts": NOON - 60}),
    ],
)
def test_no_rule_starts_too_early(rules, changes):
    assert why_due(rules, situation(**changes)) == ""


def test_a_time_of_day_that_was_missed_is_made_up_for():
    night = Triggers(daily_at="23:00")
    assert why_due(night, situation(began_ts=NOON - 86400)) != ""
    assert why_due(night, situation(began_ts=NOON - 3600)) == ""


@pytest.mark.parametrize(
    "wrong", [{"every_labels": -1}, {"interval_minutes": -5.0}, {"daily_at": "25:00"}, {"idle_minutes": float("nan")}]
)
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidParams):
        Triggers(**wrong)

"""What the rules count survives the server; a label is counted for one training alone."""

from __future__ import annotations

import pytest

from labelserver.domain.errors import InvalidParams
from labelserver.domain.triggers import Triggers
from labelserver.engine.trigger_book import TriggerBook, triggers_of


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path, clock) -> TriggerBook:
    return TriggerBook(tmp_path / "triggers.json", clock=clock)


def test_rules_and_counts_survive(tmp_path, clock, book):
    rules = Triggers(every_labels=2, daily_at="02:30", trainers=("liver",))
    book.set(rules)
    book.count([1001.0, 1002.0], place=7)
    again = TriggerBook(tmp_path / "triggers.json", clock=clock)
    assert (again.triggers, again.labels_waiting, again.place) == (rules, 2, 7)
    clock.now = 1100.0
    assert again.why_due(0.0, training=False) == "2 labels were accepted"


def test_a_training_takes_its_labels_with_it(clock, book):
    book.set(Triggers(every_labels=2, settle_s=0))
    book.count([1001.0, 1002.0, 1010.0], place=3)
    clock.now = 1020.0
    assert book.why_due(1005.0, training=True) == ""
    assert book.labels_waiting == 1
    assert book.why_due(1005.0, training=False) == ""
    book.count([1021.0], place=4)
    clock.now = 1022.0
    assert book.why_due(1005.0, training=False) == "2 labels were accepted"


def test_an_interval_begins_when_it_is_set(clock, book):
    book.set(Triggers(interval_minutes=1))
    book.count([1000.5], place=1)
    clock.now = 1059.0
    assert book.why_due(0.0, training=False) == ""
    clock.now = 1061.0
    assert book.why_due(0.0, training=False) == "1 minutes have passed"


def test_an_action_puts_idleness_off(clock, book):
    book.set(Triggers(idle_minutes=1))
    book.count([1000.5], place=1)
    clock.now = 1055.0
    book.note_action()
    clock.now = 1100.0
    assert book.why_due(0.0, training=False) == ""
    clock.now = 1116.0
    assert "nobody" in book.why_due(0.0, training=False)


@pytest.mark.parametrize("text", ["{", "[]", '{"triggers": {"every_labels": "x"}}', '{"triggers": {}}'])
def test_a_damaged_file_switches_the_rules_off(tmp_path, text, caplog):
    (tmp_path / "triggers.json").write_text(text)
    assert not TriggerBook(tmp_path / "triggers.json").triggers.are_on
    assert "cannot be read" in caplog.text


def test_a_document_that_makes_no_sense_is_refused():
    with pytest.raises(InvalidParams):
        triggers_of({"idle_minutes": "soon"})

"""Work that nobody waits for leaves most of the time to work that somebody waits for."""

from __future__ import annotations

import pytest

from labelserver.datastore import pacing
from labelserver.datastore.pacing import gently


class Clock:
    """Time as the test tells it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


def test_after_a_stretch_of_work_comes_a_pause_four_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    seen = []
    for item in gently(range(8)):
        seen.append(item)
        clock.now_s += 0.0025
    assert seen == list(range(8))
    assert clock.slept_s == pytest.approx([0.02] * 4)


def test_an_item_that_takes_long_is_followed_by_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    for _ in gently("ab"):
        clock.now_s += 0.5
    assert clock.slept_s == pytest.approx([2.0, 2.0])
    assert list(gently([])) == []


def test_who_is_waited_for_makes_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    for _ in gently("ab", hurry=True):
        clock.now_s += 0.5
    assert clock.slept_s == []

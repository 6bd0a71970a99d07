"""Work that nobody waits for leaves most of the time to work that somebody waits for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from labelserver.datastore import pacing
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.pacing import LeftUndone, Pace
from tests.support.study_folder import put_image


class Clock:
    """Time, and an event that is awaited, as the test tells it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.paused_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, timeout: float) -> bool:
        self.paused_s.append(timeout)
        self.now_s += timeout
        return False


def timed(monkeypatch: pytest.MonkeyPatch, pace: Pace) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    monkeypatch.setattr(pace, "_broken_off", clock)
    return clock


def test_after_a_stretch_of_work_comes_a_pause_four_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    clock = timed(monkeypatch, pace)
    seen = []
    for item in pace.through(range(8)):
        seen.append(item)
        clock.now_s += 0.0025
    assert seen == list(range(8))
    assert clock.paused_s == pytest.approx([0.02] * 4)


def test_an_item_that_takes_long_is_followed_by_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    clock = timed(monkeypatch, pace)
    for _ in pace.through("ab"):
        clock.now_s += 0.5
    assert clock.paused_s == pytest.approx([2.0, 2.0])
    assert list(pace.through([])) == []


def test_who_is_waited_for_makes_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(pauses=0)
    clock = timed(monkeypatch, pace)
    for _ in pace.through("ab"):
        clock.now_s += 0.5
    assert clock.paused_s == [0, 0]


def test_what_is_broken_off_ends_in_its_pause_and_can_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(pauses=1e6)
    monkeypatch.setattr(pacing, "_STRETCH_S", 0.0)
    seen: list[int] = []
    ended = threading.Event()

    def work() -> None:
        with pytest.raises(LeftUndone):
            seen.extend(pace.through(range(3)))
        ended.set()

    worker = threading.Thread(target=work)
    worker.start()
    pace.break_off()
    worker.join(30)
    assert ended.is_set()
    pace.begin()
    monkeypatch.setattr(pacing, "_STRETCH_S", 1e6)
    assert list(pace.through(range(3))) == [0, 1, 2]


def test_a_store_that_is_left_keeps_what_an_earlier_look_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        put_image(tmp_path, f"{name}.nii.gz")
    store = LocalDatastore(tmp_path)
    (tmp_path / ".labelserver" / "sides.jsonl").write_bytes(b"noise")
    assert len(store.upkeep.look_after()) == 1
    before = store.problems()
    assert before
    (tmp_path / ".labelserver" / "sides.jsonl").write_bytes(b"more noise")
    monkeypatch.setattr(pacing, "_STRETCH_S", 0.0)
    monkeypatch.setattr(Pace, "begin", Pace.break_off)
    assert store.upkeep.look_after() == []
    assert store.upkeep.check_imports(60) in (True, False)
    store.upkeep.compare_some(60)
    assert store.problems() == before
    monkeypatch.undo()
    assert len(store.upkeep.look_after()) == 1

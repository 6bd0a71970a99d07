"""Curves, forecasts, advice and savings against data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from labelserver.learning.progress import (
    Point,
    Saving,
    Timed,
    band,
    benefits,
    fit,
    forecast,
    stop_advice,
)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.6, 0.98), st.floats(0.2, 1.0), st.floats(0.2, 1.8))
def test_a_power_law_is_found_again(a: float, b: float, c: float) -> None:
    points = [Point(n, a - b * n**-c, 0.01) for n in (4, 8, 12, 16, 24, 32, 48)]
    law = fit(points)
    assert law is not None
    assert max(abs(law.at(p.x) - p.y) for p in points) < 0.005
    assert law.at(58) - law.at(48) == pytest.approx(b * (48**-c - 58**-c), abs=0.003)


def test_the_fit_is_about_as_good_as_scipys() -> None:
    rng = np.random.default_rng(4)
    x = np.asarray([4.0, 8, 12, 20, 30, 40])
    y = 0.9 - 0.8 * x**-0.7 + rng.normal(0, 0.01, 6)
    bounds = ([0, 0, 0.05], [1, 5, 2.5])
    theirs, _ = curve_fit(lambda x, a, b, c: a - b * x**-c, x, y, (0.9, 0.5, 0.5), bounds=bounds)
    law = fit([Point(*pair, 0.01) for pair in zip(x, y, strict=True)])
    assert law is not None
    ours = sum((law.at(p) - q) ** 2 for p, q in zip(x, y, strict=True))
    best = float(((theirs[0] - theirs[1] * x ** -theirs[2] - y) ** 2).sum())
    assert ours <= 1.02 * best + 1e-9


def test_nine_of_ten_intervals_hold_the_truth() -> None:
    inside = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = [4.0, 8, 12, 16, 20, 28, 36]
        points = [Point(n, 0.9 - 0.7 * n**-0.6 + rng.normal(0, 0.01), 0.01) for n in x]
        found = forecast(points, 10, seed)
        assert found is not None
        assert found.low <= found.gain <= found.high
        inside += found.low <= 0.7 * (36**-0.6 - 46**-0.6) <= found.high
    assert inside >= 32


def test_two_points_say_nothing_about_the_future() -> None:
    assert forecast([Point(4, 0.5), Point(8, 0.6)], 10) is None
    assert fit([Point(4, 0.5), Point(4, 0.6), Point(8, 0.7)]) is None
    assert band([Point(4, 0.5)], [1, 2]) is None


def test_a_curve_that_falls_promises_nothing() -> None:
    found = forecast([Point(4, 0.8), Point(8, 0.75), Point(12, 0.7), Point(16, 0.7)], 10)
    assert found is not None
    assert found.gain == pytest.approx(0, abs=1e-9)
    assert found.law.b == 0


def test_the_same_points_give_the_same_forecast() -> None:
    points = [Point(n, 0.9 - n**-0.6, 0.02) for n in (4, 8, 12, 16)]
    assert forecast(points, 10) == forecast(points, 10)
    low, high = band(points, [5, 10, 20])  # type: ignore[misc]
    assert (low <= high).all()


@pytest.mark.parametrize(
    ("gain", "same", "accepted", "stop"),
    [
        (0.004, 0.985, [], True),
        (0.004, None, [True] * 10, True),
        (None, 0.99, [True] * 10, True),
        (0.004, 0.97, [True] * 9, False),
        (0.02, 0.99, [True] * 9 + [False], False),
        (None, None, [], False),
    ],
)
def test_two_of_three_signs_say_stop(gain: float | None, same: float | None, accepted: list[bool], stop: bool) -> None:
    advice = stop_advice(gain, same, accepted)
    assert advice.stop is stop
    assert [c.met for c in advice.criteria] == [
        None if gain is None else gain < 0.005,
        None if same is None else same > 0.98,
        None if len(accepted) < 10 else sum(accepted[-10:]) > 9,
    ]


def work(rng: np.random.Generator, person: str, version: str, minutes: float, count: int = 12) -> list[Timed]:
    return [Timed(person, version, float(m)) for m in rng.normal(minutes, 0.6, count)]


def test_minutes_saved_and_minutes_lost_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    pieces = [*work(rng, "anna", "", 10), *work(rng, "anna", "1", 14), *work(rng, "anna", "2", 6)]
    first, second = benefits(pieces)
    assert (first.version, first.saving) == ("1", Saving.COSTS)
    assert first.saved == pytest.approx(-4, abs=0.6)
    assert "costs" in first.sentence
    assert "Do not show it" in first.sentence
    assert (second.version, second.saving) == ("2", Saving.SAVES)
    assert second.saved == pytest.approx(4, abs=0.6)
    assert second.low is not None
    assert second.high is not None
    assert second.low < second.saved < second.high  # type: ignore[operator]


def test_people_are_compared_with_themselves() -> None:
    """The slow one works with proposals, the quick one mostly without: thrown together, help would look like harm."""
    rng = np.random.default_rng(1)
    pieces = [
        *work(rng, "slow", "", 20, 4),
        *work(rng, "slow", "1", 16, 20),
        *work(rng, "quick", "", 5, 20),
        *work(rng, "quick", "1", 4, 4),
    ]
    (found,) = benefits(pieces)
    assert (found.saving, found.within_people) == (Saving.SAVES, True)
    assert found.saved == pytest.approx((20 * 4 + 4 * 1) / 24, abs=0.6)


def test_what_cannot_be_known_is_not_said() -> None:
    rng = np.random.default_rng(2)
    (few,) = benefits([*work(rng, "anna", "1", 5, 2), *work(rng, "anna", "", 6, 10)])
    assert (few.saving, few.saved) == (Saving.TOO_FEW, None)
    (same,) = benefits([*work(rng, "anna", "1", 6), *work(rng, "anna", "", 6)])
    assert same.saving is Saving.UNCLEAR
    (pooled,) = benefits([*work(rng, "anna", "1", 3), *work(rng, "bea", "", 9)])
    assert (pooled.saving, pooled.within_people) == (Saving.SAVES, False)

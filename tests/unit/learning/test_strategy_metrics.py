"""The numbers of a simulation, against their definitions and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from labelserver.learning import strategy_metrics as metrics


def test_a_constant_curve_has_its_own_value_as_area() -> None:
    assert metrics.aubc([0.7] * 6) == pytest.approx(0.7)
    assert metrics.aubc([0.0, 1.0]) == pytest.approx(0.5)
    assert metrics.aubc([0.4]) == pytest.approx(0.4)
    curve = [0.2, 0.5, 0.6, 0.9]
    assert metrics.aubc(curve) == pytest.approx(np.trapezoid(curve, np.linspace(0, 1, 4)))


def test_seeds_are_pairs() -> None:
    chance = np.random.default_rng(0)
    first, second = chance.random(8) + 0.1, chance.random(8)
    found = metrics.paired(first, second)
    assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert (found.wins, found.seeds) == (int((first > second).sum()), 8)
    assert found.difference == pytest.approx((first - second).mean())


def test_what_says_nothing_is_no_proof() -> None:
    assert metrics.paired([0.5], [0.4]).p == 1.0
    assert metrics.paired([0.5, 0.5], [0.5, 0.5]).p == 1.0
    assert metrics.paired([0.5, 0.6], [0.4, 0.5]).p == 0.0


def test_the_winner_of_every_round_gets_the_whole_cell() -> None:
    base = np.random.default_rng(1).normal(0.5, 0.01, (5, 4))
    better = base + 0.2 + np.random.default_rng(2).normal(0, 0.01, (5, 4))
    names, matrix = metrics.penalty_matrix({"better": better, "base": base, "same": base.copy()})
    assert names == ["better", "base", "same"]
    assert matrix[0].tolist() == pytest.approx([0, 1, 1])
    assert matrix[1:].sum() == 0
    assert metrics.lost(matrix).tolist() == pytest.approx([0, 0.5, 0.5])


def test_holm_asks_for_more_proof_than_a_single_test() -> None:
    chance = np.random.default_rng(3)
    curves = {f"s{n}": chance.normal(0.5 + 0.012 * n, 0.03, (6, 40)) for n in range(4)}
    _, plain = metrics.penalty_matrix(curves)
    _, strict = metrics.penalty_matrix(curves, holm=True)
    assert (strict <= plain + 1e-12).all()
    assert strict.sum() < plain.sum()


def test_efficiency_finds_the_rate_that_made_the_curve() -> None:
    x = np.linspace(0.05, 0.4, 8)
    y = 0.9 - (0.9 - 0.3) * np.exp(-12.5 * (x - x[0]))
    assert metrics.efficiency(x, y, 0.9) == pytest.approx(12.5, rel=1e-3)
    assert metrics.efficiency(x[:1], y[:1], 0.9) is None
    assert metrics.efficiency(x, y, 0.2) is None

"""What a simulation says: which strategy is better, by how much, and whether that is more than chance.

A *curve* is the mean Dice after each round. Curves of one seed belong together: they had the same start and learner.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Curves = NDArray[np.float64]  #: (seeds, rounds)

#: two strategies differ if the chance of such a difference is below this
ALPHA = 0.05


def aubc(curve: Sequence[float]) -> float:
    """Area under the budget curve: trapezoids over the rounds, scaled so that a constant 0.7 gives 0.7."""
    values = np.asarray(curve, dtype=np.float64)
    if values.size == 1:
        return float(values[0])
    return float(((values[1:] + values[:-1]) / 2).mean())


@dataclass(frozen=True, slots=True)
class Paired:
    """One strategy against another, seed by seed."""

    difference: float  #: mean
    wins: int  #: seeds in which the first was better
    seeds: int
    p: float  #: two-sided paired t-test; 1 where it says nothing


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare numbers of the same seeds."""
    ours, theirs = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return Paired(
        difference=float((ours - theirs).mean()),
        wins=int((ours > theirs).sum()),
        seeds=len(ours),
        p=_p_value(ours, theirs),
    )


def penalty_matrix(curves: Mapping[str, Curves], *, holm: bool = False) -> tuple[list[str], NDArray[np.float64]]:
    """How often one strategy beats another: for each round a paired t-test over the seeds.

    Args:
        curves: strategy -> (seeds, rounds).
        holm: correct the tests of one round for their number (Holm's step-down method).

    Returns:
        Names, and P: P[i, j] is the share of rounds in which i is significantly better than j. The mean of column j
        (without the diagonal) is the share of comparisons that j has lost. Source: Ash et al. 2020 (BADGE),
        https://arxiv.org/abs/1906.03671, as nnActive uses it.
    """
    names = list(curves)
    matrix = np.zeros((len(names), len(names)))
    rounds = min(found.shape[1] for found in curves.values()) if curves else 0
    pairs = list(itertools.combinations(range(len(names)), 2))
    for number in range(rounds):
        columns = [curves[name][:, number] for name in names]
        chances = np.asarray([_p_value(columns[i], columns[j]) for i, j in pairs])
        for (i, j), differs in zip(pairs, _holm(chances) if holm else chances < ALPHA, strict=True):
            if differs:
                winner, loser = (i, j) if columns[i].mean() > columns[j].mean() else (j, i)
                matrix[winner, loser] += 1.0 / rounds
    return names, matrix


def lost(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) share of its comparisons that each strategy has lost."""
    return np.asarray(matrix.sum(axis=0) / max(len(matrix) - 1, 1))


def efficiency(shares: Sequence[float], dices: Sequence[float], full: float) -> float | None:
    """How fast Dice approaches that of the full data: b of Dice(x) = c - (c - y0) exp(-b (x - x0)).

    Args:
        shares: x, what was annotated: of the foreground's voxels, or hours.
        dices: Dice at each.
        full: c, Dice of a training on everything.

    Returns:
        b; None where there is nothing to fit (one round, or a start that is as good as the end).
    """
    x, y = np.asarray(shares, dtype=np.float64), np.asarray(dices, dtype=np.float64)
    if len(x) < 2 or y[0] >= full or x[-1] <= x[0]:
        return None
    x0, y0 = x[0], y[0]
    scale = x[-1] - x0

    def missed(b: float) -> float:
        return float(((full - (full - y0) * np.exp(-b * (x - x0) / scale) - y) ** 2).sum())

    grid = np.linspace(0.0, 60.0, 241)
    best = float(grid[int(np.argmin([missed(b) for b in grid]))])
    found = optimize.minimize_scalar(missed, bounds=(max(0.0, best - 0.5), best + 0.5), method="bounded")
    return float(found.x) / float(scale)


def _p_value(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Of a two-sided paired t-test; equal differences are certain unless they are zero."""
    differences = first - second
    if len(differences) < 2:
        return 1.0
    if np.ptp(differences) < 1e-12:
        return 1.0 if abs(float(differences[0])) < 1e-12 else 0.0
    return float(stats.ttest_rel(first, second).pvalue)


def _holm(chances: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which tests are significant after Holm's correction."""
    order = np.argsort(chances, kind="stable")
    accepted = np.zeros(len(chances), dtype=bool)
    for rank, row in enumerate(order):
        if chances[row] >= ALPHA / (len(chances) - rank):
            break
        accepted[row] = True
    return accepted

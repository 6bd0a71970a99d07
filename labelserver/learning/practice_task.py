"""A made-up data set on which strategies can be told apart within minutes: the check that is built into the simulator.

Small volumes of a body with two organs and, in a quarter of them, a lesion, from three scanners of which one makes most
of the pool; the test set has as many of each. Diversity must win here by construction: it tests the machinery, and is
no evidence about hospitals. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.learning.simulation import Case

CLASSES = ("organ", "gland", "lesion")
SIZE = 32  #: voxels a side
POOL, TEST = 60, 24
#: share of each scanner in the pool
SCANNERS = (0.75, 0.18, 0.07)
_LESION_SHARE = 0.25

#: intensity of outside, body, organ, gland, lesion; standard deviation of the noise; blur in voxels
_LOOKS = (
    ((0.0, 0.35, 0.60, 0.85, 1.10), 0.05, 0.2),
    ((0.0, 0.75, 0.50, 0.25, 1.00), 0.05, 0.3),
    ((0.2, 0.45, 0.85, 0.65, 0.25), 0.06, 0.2),
)


def practice_cases(seed: int = 0, pool: int = POOL, test: int = TEST) -> tuple[list[Case], list[Case]]:
    """The pool and the test set."""
    chance = np.random.default_rng([seed, 17])
    scanners = _shares(pool, SCANNERS)
    in_pool = [_case(f"pool-{n:03}", int(scanner), chance) for n, scanner in enumerate(chance.permutation(scanners))]
    in_test = [_case(f"test-{n:03}", n % len(SCANNERS), chance) for n in range(test)]
    return in_pool, in_test


def _shares(count: int, shares: Sequence[float]) -> NDArray[np.intp]:
    """`count` numbers, each as often as its share, rounded so that every one is there."""
    edges = np.round(np.cumsum(shares) / sum(shares) * count)
    return np.asarray(np.searchsorted(edges, np.arange(count), side="right"), dtype=np.intp)


def _case(name: str, scanner: int, chance: np.random.Generator) -> Case:
    labels = _anatomy(chance)
    levels, noise, blur = _LOOKS[scanner]
    drawn = np.asarray(levels)[labels] * chance.normal(1.0, 0.03)
    image = ndimage.gaussian_filter(drawn, blur) + chance.normal(0.0, noise, drawn.shape) + chance.normal(0.0, 0.02)
    label = np.where(labels >= 2, labels - 1, 0).astype(np.uint8)
    return Case(name, np.asarray(image, dtype=np.float32), label, group=f"scanner {scanner + 1}")


def _anatomy(chance: np.random.Generator) -> NDArray[np.intp]:
    """(32, 32, 32): 0 outside, 1 body, 2 organ, 3 gland, 4 lesion."""
    grid = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1).astype(float)
    labels = np.zeros((SIZE,) * 3, dtype=np.intp)
    middle = SIZE / 2 + chance.normal(0, 1, 3)
    labels[_inside(grid, middle, chance.uniform(12.5, 15, 3))] = 1
    organ_at = middle + np.asarray([-4.5, 0, 0]) + chance.normal(0, 1, 3)
    organ = _inside(grid, organ_at, chance.uniform(5.0, 6.5, 3))
    labels[organ] = 2
    gland_at = middle + np.asarray([6, 2, 0]) + chance.normal(0, 1, 3)
    labels[_inside(grid, gland_at, chance.uniform(3.2, 4.4, 3))] = 3
    if chance.random() < _LESION_SHARE:
        labels[_inside(grid, organ_at + chance.normal(0, 1.5, 3), chance.uniform(2.8, 3.8, 3)) & organ] = 4
    return labels


def _inside(grid: NDArray[np.float64], middle: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((((grid - middle) / radii) ** 2).sum(axis=-1) <= 1.0)

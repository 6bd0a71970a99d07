"""Agreement equals reference implementations; a consensus is better than each reader."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.metrics import cohen_kappa_score, f1_score

from labelserver.learning.agreement import (
    agreement,
    dice,
    disagreement,
    kappa,
    majority,
    spots,
    staple,
    staple_map,
    surface_distances,
)

SHAPE = (12, 14, 10)


def ball(center: tuple[float, float, float], radius: float, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.bool_]:
    axes = np.indices(shape)
    return np.asarray(sum((axes[a] - center[a]) ** 2 for a in range(3)) <= radius**2)


def reader(truth: NDArray[np.uint16], rng: np.random.Generator, misses: float, adds: float) -> NDArray[np.uint16]:
    """Misses each labelled voxel, and gives each background voxel a label, with these chances."""
    seen = truth.copy()
    chance = rng.random(truth.shape)
    seen[(truth > 0) & (chance < misses)] = 0
    wrong = (truth == 0) & (chance < adds)
    seen[wrong] = rng.integers(1, int(truth.max()) + 1, truth.shape)[wrong]
    return seen


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.6), st.floats(0.0, 0.3))
def test_dice_and_kappa_equal_scikit_learn(seed: int, share: float, noise: float) -> None:
    rng = np.random.default_rng(seed)
    first = rng.random((5, 6, 7)) < share
    first[0, 0, 0] = True
    second = first ^ (rng.random(first.shape) < noise)
    second[0, 0, 1] = True
    assert dice(first, second) == pytest.approx(f1_score(first.ravel(), second.ravel()))
    assert kappa(first, second) == pytest.approx(cohen_kappa_score(first.ravel(), second.ravel()))


def test_kappa_of_a_part_equals_that_of_the_whole_image() -> None:
    first, second = ball((5, 5, 5), 3), ball((6, 5, 5), 3)
    part = (slice(1, 11), slice(1, 10), slice(1, 9))
    assert kappa(first[part], second[part], first.size) == pytest.approx(
        cohen_kappa_score(first.ravel(), second.ravel())
    )
    nothing = np.zeros(SHAPE, bool)
    assert kappa(nothing, nothing) is None
    assert dice(nothing, nothing) == 1.0


def test_surface_distances_equal_those_of_all_pairs_of_surface_points() -> None:
    spacing = np.array([1.0, 1.5, 2.5])
    first, second = ball((5, 6, 5), 3.2), ball((6, 7, 5), 2.4)

    def surface(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(3):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)
        return np.argwhere((padded & ~inner)[1:-1, 1:-1, 1:-1]) * spacing

    one, two = surface(first), surface(second)
    forth, back = cKDTree(two).query(one)[0], cKDTree(one).query(two)[0]
    found = surface_distances(first, second, spacing)
    assert found is not None
    assert found[0] == pytest.approx(np.concatenate([forth, back]).mean())
    assert found[1] == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)))
    assert surface_distances(first, first, spacing) == (0.0, 0.0)
    assert surface_distances(first, np.zeros(SHAPE, bool), spacing) is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("readers", [2, 3, 5])
def test_staple_equals_simple_itk(seed: int, readers: int) -> None:
    rng = np.random.default_rng(seed)
    truth = ball((5, 6, 5), 3.5).astype(np.uint16)
    masks = [reader(truth, rng, 0.05 + 0.08 * n, 0.02 + 0.01 * n) > 0 for n in range(readers)]
    theirs = SimpleITK.STAPLEImageFilter()
    theirs.SetForegroundValue(1)
    images = [SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    probability = SimpleITK.GetArrayFromImage(theirs.Execute(images))
    ours = staple(masks)
    # two readers cannot tell who is wrong: the last steps are tiny, and ITK takes fewer of them
    near = 5e-3 if readers == 2 else 1e-4
    assert np.abs(ours.probability - probability).max() < near
    assert ours.sensitivity == pytest.approx(theirs.GetSensitivity(), abs=near)
    assert ours.specificity == pytest.approx(theirs.GetSpecificity(), abs=near)


def test_majority_equals_simple_itk_where_it_is_decided() -> None:
    rng = np.random.default_rng(1)
    truth = (ball((5, 6, 5), 3.5) + 2 * ball((9, 10, 4), 2)).astype(np.uint16)
    maps = [reader(truth, rng, 0.2, 0.1) for _ in range(3)]
    voting = SimpleITK.LabelVotingImageFilter()
    voting.SetLabelForUndecidedPixels(99)
    theirs = SimpleITK.GetArrayFromImage(voting.Execute([SimpleITK.GetImageFromArray(m) for m in maps]))
    decided = theirs != 99
    assert decided.mean() > 0.9
    assert np.array_equal(majority(maps)[decided], theirs[decided])


def test_ties_go_to_background_then_to_the_smaller_value() -> None:
    first = np.array([[[0, 1, 2]]], np.uint16)
    second = np.array([[[3, 2, 2]]], np.uint16)
    assert majority([first, second]).tolist() == [[[0, 1, 2]]]


@pytest.mark.parametrize("seed", range(8))
def test_consensus_of_readers_with_known_errors_beats_each_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (24, 24, 24)
    truth = (ball((8, 8, 8), 5, shape) + 2 * ball((16, 16, 15), 4, shape)).astype(np.uint16)
    errors = [(0.10, 0.01), (0.15, 0.02), (0.20, 0.02), (0.25, 0.01), (0.12, 0.03)]
    maps = [reader(truth, rng, *error) for error in errors]

    def quality(labels: NDArray[np.uint16]) -> float:
        return float(np.mean([dice(labels == value, truth == value) for value in (1, 2)]))

    best = max(quality(labels) for labels in maps)
    by_staple, found = staple_map(maps)
    assert quality(majority(maps)) > best
    assert quality(by_staple) > best
    for value in (1, 2):
        misses = [1 - s for s in found[value].sensitivity]
        assert misses == pytest.approx([error[0] for error in errors], abs=0.08)


def test_staple_trusts_the_better_reader_where_the_majority_is_wrong() -> None:
    rng = np.random.default_rng(3)
    shape = (24, 24, 24)
    truth = ball((12, 12, 12), 7, shape).astype(np.uint16)
    maps = [reader(truth, rng, 0.01, 0.001), reader(truth, rng, 0.45, 0.001), reader(truth, rng, 0.45, 0.001)]
    by_votes, by_staple = dice(majority(maps) == 1, truth == 1), dice(staple_map(maps)[0] == 1, truth == 1)
    assert by_staple > by_votes + 0.02


def test_every_pair_and_label_is_compared() -> None:
    readings = {
        "bea": {1: ball((5, 5, 5), 3), 2: ball((9, 9, 5), 1)},
        "anna": {1: ball((5, 5, 5), 3)},
        "carl": {1: ball((6, 5, 5), 3)},
    }
    first, second = agreement(readings, (1, 1, 1))
    assert [(p.first, p.second) for p in first.pairs] == [("anna", "bea"), ("anna", "carl"), ("bea", "carl")]
    assert (first.value, first.pairs[0].dice, first.pairs[0].kappa) == (1, 1.0, 1.0)
    assert 0.7 < first.pairs[1].dice < 1
    assert (second.value, second.pairs[0].dice, second.pairs[0].surface_mm) == (2, 0.0, None)
    assert second.pairs[1].dice == 1.0, "two who drew nothing agree"


def test_the_largest_disagreement_comes_first() -> None:
    maps = [np.zeros(SHAPE, np.uint16) for _ in range(3)]
    maps[0][1:4, 1:4, 1:4] = 1
    maps[1][8, 8, 8] = 1
    percent = disagreement(maps)
    assert sorted(np.unique(percent)) == [0, 33]
    largest, small = spots(percent)
    assert (largest.voxels, largest.center_ijk) == (27, (2, 2, 2))
    assert (small.voxels, small.center_ijk, small.low_ijk, small.high_ijk) == (1, (8, 8, 8), (8, 8, 8), (9, 9, 9))
    assert spots(np.zeros(SHAPE, np.uint8)) == []

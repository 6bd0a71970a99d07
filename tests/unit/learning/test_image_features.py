"""Embeddings of images that need no network, and what strategies measure distances in."""

from __future__ import annotations

import numpy as np
import pytest

from labelserver.learning.image_features import intensity_features, standardised


def plainly(rows: np.ndarray, keep: int) -> np.ndarray:
    """The same as the text of `standardised` says, all at once."""
    known = np.isfinite(rows).all(axis=1)
    found = rows[known]
    varies = found.std(axis=0) > 0
    plain = (found[:, varies] - found[:, varies].mean(axis=0)) / found[:, varies].std(axis=0)
    _, axes = np.linalg.eigh(plain.T @ plain)
    result = np.full((len(rows), min(keep, varies.sum())), np.nan)
    result[known] = (plain @ axes[:, ::-1])[:, :keep]
    return result


@pytest.mark.parametrize("count", [7, 8192, 20_001])
def test_many_rows_are_standardised_as_few_are(count: int) -> None:
    chance = np.random.default_rng(count)
    rows = chance.normal(size=(count, 6)) * (1, 10, 100, 0.1, 1, 1) + (0, 5, -300, 0, 0, 0)
    rows[:, 4] = 3.0  # the same everywhere: says nothing
    rows[::5] = np.nan
    found, wanted = standardised(rows, 4), plainly(rows, 4)
    assert found.shape == (count, 4)
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), rtol=1e-6, atol=1e-6)  # an axis has no direction


def test_rows_that_tell_nothing_stay_so() -> None:
    assert np.isnan(standardised(np.full((3, 4), np.nan))).all()
    assert standardised(np.empty((0, 4))).shape == (0, 4)
    assert np.array_equal(standardised(np.ones((3, 2))), np.zeros((3, 1)))


def test_images_of_any_size_have_as_many_features() -> None:
    chance = np.random.default_rng(2)
    sizes = [(5, 1, 90), (70, 80, 3), (40, 30)]
    assert len({len(intensity_features(chance.random(size))) for size in sizes}) == 1

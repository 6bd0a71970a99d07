"""Embeddings without a network: how bright an image is, how its brightness is spread, and its coarse shape.

Nothing to download and nothing to train, so that a project can tell its images apart before there is a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelserver.learning.pool import Table

#: shares of the voxels below each of the told intensities
_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
#: blocks along each axis whose mean brightness is told; more of them would drown the rest in anatomy
_BLOCKS = 2
#: bins of the histogram of edges
_EDGES = 4
#: voxels that are looked at along an axis, at most
_LOOKED_AT = 64
#: rows that `standardised` looks at at once
_ROWS = 8192
#: numbers that `standardised` leaves of each row
_KEPT = 16


def intensity_features(voxels: NDArray[np.generic], spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> list[float]:
    """A fixed number of values for an image of any size.

    Args:
        voxels: (I, J, K), or (I, J) or (I, J, C) of a picture.
        spacing_mm: along the axes; missing ones count as 1.

    Returns:
        Intensities at nine quantiles; the share of voxels in each quarter of their range; how strong edges are; mean
        brightness of 2 x 2 x 2 blocks within that range; the logarithms of size and spacing.
    """
    volume = np.atleast_3d(np.asarray(voxels, dtype=np.float32))
    if volume.ndim > 3:
        volume = volume.reshape(*volume.shape[:3], -1).mean(axis=3)
    steps = tuple(slice(None, None, -(-size // _LOOKED_AT)) for size in volume.shape)
    small = np.nan_to_num(volume[steps])
    levels = np.quantile(small, _QUANTILES)
    low, high = float(levels[0]), float(levels[-1])
    scaled = np.clip((small - low) / max(high - low, 1e-6), 0.0, 1.0)
    shares = np.histogram(scaled, bins=_EDGES, range=(0.0, 1.0))[0] / scaled.size
    edges = [float(np.abs(np.diff(scaled, axis=axis)).mean()) if scaled.shape[axis] > 1 else 0.0 for axis in range(3)]
    size = [float(np.log(max(n, 1))) for n in volume.shape]
    spacing = [float(np.log(max(s, 1e-3))) for s in (*spacing_mm, 1.0, 1.0)[:3]]
    blocks = _block_means(scaled)
    return [float(v) for v in (*levels, *shares, *edges, *size, *spacing, *blocks.ravel())]


def standardised(rows: NDArray[np.floating], keep: int = _KEPT) -> Table:
    """Columns of mean 0 and spread 1, turned so that the first few hold most (principal components).

    Args:
        rows: (N, D) of one kind of embedding; rows of NaN stay so. Of many rows no copy is made.

    Returns:
        (N, min(keep, D)); distances between rows are, but for the part left out, those of the standardised columns.
    """
    known = np.isfinite(rows).all(axis=1)
    if not known.any() or rows.shape[1] == 0:
        return np.asarray(rows[:, :keep], dtype=np.float64)
    parts = [part for part in _parts(len(rows)) if known[part].any()]

    def found(part: slice) -> Table:
        return np.asarray(rows[part][known[part]], dtype=np.float64)

    count = int(known.sum())
    mean = np.sum([found(part).sum(axis=0) for part in parts], axis=0) / count
    spread = np.sqrt(np.sum([((found(part) - mean) ** 2).sum(axis=0) for part in parts], axis=0) / count)
    largest = np.max([np.abs(found(part)).max(axis=0) for part in parts], axis=0)
    varies = spread > 1e-9 * np.maximum(1.0, largest)
    if not varies.any():
        varies[0] = True

    def plain(part: slice) -> Table:
        values: Table = (found(part)[:, varies] - mean[varies]) / np.maximum(spread[varies], 1e-12)
        return values

    _, axes = np.linalg.eigh(np.sum([plain(part).T @ plain(part) for part in parts], axis=0))
    result = np.full((len(rows), min(keep, int(varies.sum()))), np.nan)
    for part in parts:
        result[part][known[part]] = plain(part) @ axes[:, ::-1][:, :keep]
    return result


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, count, _ROWS)]


def _block_means(scaled: NDArray[np.floating]) -> NDArray[np.float64]:
    """(2, 2, 2); an axis shorter than that repeats its voxels."""
    means = np.asarray(scaled, dtype=np.float64)
    for axis in range(3):
        if means.shape[axis] < _BLOCKS:
            means = np.repeat(means, -(-_BLOCKS // means.shape[axis]), axis=axis)
        parts = np.array_split(means, _BLOCKS, axis=axis)
        means = np.stack([part.mean(axis=axis) for part in parts], axis=axis)
    return means

"""Where in an image a model is unsure: kept small, and asked for the slices or the box that hold most of it.

A network works on a grid of its own; people draw on the voxels of the file. The map lies on the file's axes, so that
what is found in it can be asked for as it is. numpy only.
"""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import numpy as np
from numpy.typing import NDArray

from labelserver.contracts.scores import SmallMap
from labelserver.domain.annotation import Boxes, Ijk, Slices

#: cells along the axis with the fewest voxels, across which people draw slice by slice, and along the two others
MOST_SLICES, MOST_ACROSS = 256, 16
#: voxels by which an axis of the network's grid may drift sideways over its whole length
_MOST_DRIFT = 0.5

_Cells = NDArray[np.float32]  #: (A, B, C)


def small_map(values: NDArray[np.float32], to_image: NDArray[np.float64], shape: Ijk) -> SmallMap | None:
    """The map of an image.

    Args:
        values: (I', J', K') not negative, on the network's grid.
        to_image: (4, 4) from its voxels to those of the image's file.
        shape: (I, J, K) of the file.

    Returns:
        None if the axes of the two grids are not parallel, or nothing of the image is covered, or all is 0.
    """
    turned = _parallel(to_image, values.shape)
    if turned is None or min(shape) < 1:
        return None
    cells = np.asarray(np.transpose(values, turned), dtype=np.float32)
    slicing = _slicing_axis(shape)
    for axis in range(3):
        most = MOST_SLICES if axis == slicing else MOST_ACROSS
        at = to_image[axis, turned[axis]] * np.arange(cells.shape[axis]) + to_image[axis, 3]
        weights = _averages(at, shape[axis], min(shape[axis], most))
        cells = np.moveaxis(np.tensordot(weights, cells, axes=(1, axis)), 0, axis)
    largest = float(cells.max(initial=0.0))
    if not math.isfinite(largest) or largest <= 0:
        return None
    scaled = np.rint(cells / largest * 255).astype(np.uint8)
    return SmallMap(shape, (scaled.shape[0], scaled.shape[1], scaled.shape[2]), scaled.tobytes())


def largest_slices(found: SmallMap, count: int = 1) -> Slices:
    """The `count` neighbouring slices that hold most, across the axis with the fewest voxels."""
    cells, axis = _cells_of(found), _slicing_axis(found.shape)
    sums = cells.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
    borders = _borders(found.shape[axis], len(sums))
    by_slice = np.repeat(sums / np.diff(borders), np.diff(borders))
    count = max(1, min(count, len(by_slice)))
    running = np.convolve(by_slice, np.ones(count), mode="valid")
    best = np.flatnonzero(np.isclose(running, running.max()))
    start = int(best[len(best) // 2])  # of equal ones the middle, as slices of one cell are equal
    return Slices(axis, tuple(range(start, start + count)))


def largest_box(found: SmallMap, share: float = 1 / 3) -> Boxes:
    """The box of `share` of each axis that holds most. Its borders are those of cells."""
    cells = _cells_of(found)
    sizes = [max(1, round(share * n)) for n in cells.shape]
    summed = cells.astype(np.float64)
    for axis, size in enumerate(sizes):
        before = np.concatenate([np.zeros_like(summed.take([0], axis)), summed.cumsum(axis)], axis)
        ends = np.arange(size, before.shape[axis])
        summed = before.take(ends, axis) - before.take(ends - size, axis)
    start = np.unravel_index(int(summed.argmax()), summed.shape)
    borders = [_borders(n, c) for n, c in zip(found.shape, found.cells, strict=True)]
    low = [int(b[s]) for b, s in zip(borders, start, strict=True)]
    high = [int(b[s + size]) for b, s, size in zip(borders, start, sizes, strict=True)]
    return Boxes((((low[0], low[1], low[2]), (high[0], high[1], high[2])),))


def _cells_of(found: SmallMap) -> _Cells:
    return np.frombuffer(found.values, np.uint8).reshape(found.cells).astype(np.float32)


def _slicing_axis(shape: Ijk) -> int:
    """Of several with the fewest voxels the last, across which most tools draw."""
    return 2 - int(np.argmin(shape[::-1]))


def _borders(voxels: int, cells: int) -> NDArray[np.int64]:
    """(cells + 1,) first voxels of the cells, and the end."""
    return np.arange(cells + 1, dtype=np.int64) * voxels // cells


def _parallel(to_image: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """For each axis of the image that of the network's grid which runs along it; None if none does."""
    if len(shape) != 3 or not np.isfinite(to_image).all():
        return None
    reach = np.abs(to_image[:3, :3])
    turned = max(permutations(range(3)), key=lambda order: sum(reach[a, order[a]] for a in range(3)))
    drift = reach * np.maximum(np.asarray(shape) - 1, 1)
    along = np.zeros((3, 3), dtype=bool)
    along[range(3), turned] = True
    if (drift[~along] > _MOST_DRIFT).any() or (reach[along] <= 0).any():
        return None
    return (turned[0], turned[1], turned[2])


def _averages(at: NDArray[np.float64], voxels: int, cells: int) -> NDArray[np.float32]:
    """(cells, n) weights that average over the positions in each cell.

    A cell between two positions takes the nearest one; a cell beyond all of them takes nothing.
    """
    borders = _borders(voxels, cells)
    weights = np.zeros((cells, len(at)), dtype=np.float32)
    step = abs(float(at[1] - at[0])) if len(at) > 1 else float(voxels)
    for cell, (low, high) in enumerate(pairwise(borders)):
        inside = (at >= low - 0.5) & (at < high - 0.5)
        if inside.any():
            weights[cell, inside] = 1.0 / np.count_nonzero(inside)
            continue
        away = np.abs(at - (low + high - 1) / 2)
        nearest = int(away.argmin())
        if away[nearest] <= step / 2 + 0.5:
            weights[cell, nearest] = 1.0
    return weights

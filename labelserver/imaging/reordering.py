"""Bring a volume whose axes are permuted or flipped onto another grid without touching a value.

Two grids may hold the same voxel centres in another axis order; then, and only then, a re-ordering is lossless.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.geometry import CORNER_TOLERANCE_MM, Grid

Ijk: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class AxisChange:
    """Axis a of the target is axis `order[a]` of the source, reversed if `reversed_axes[a]`."""

    order: tuple[int, int, int]
    reversed_axes: tuple[bool, bool, bool]

    @property
    def is_identity(self) -> bool:
        return self.order == (0, 1, 2) and not any(self.reversed_axes)

    def apply(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Re-order (I, J, K) or (I, J, K, channels) voxels. A view, no value changes."""
        rest = tuple(range(3, voxels.ndim))
        moved = voxels.transpose((*self.order, *rest))
        steps = tuple(slice(None, None, -1 if back else 1) for back in self.reversed_axes)
        return moved[steps]

    def inverse(self) -> AxisChange:
        """The change that undoes this one."""
        order, back = [0, 0, 0], [False, False, False]
        for axis, source in enumerate(self.order):
            order[source] = axis
            back[source] = self.reversed_axes[axis]
        return AxisChange((order[0], order[1], order[2]), (back[0], back[1], back[2]))

    def apply_to_points(self, points: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """(N, 3) voxel indices of a volume of `shape`, as indices of `apply`'s result."""
        moved: NDArray[np.float64] = np.array(points[:, list(self.order)], dtype=np.float64)
        for axis, back in enumerate(self.reversed_axes):
            if back:
                moved[:, axis] = shape[self.order[axis]] - 1 - moved[:, axis]
        return moved

    def apply_to_box(self, low: Ijk, high: Ijk, shape: tuple[int, int, int]) -> tuple[Ijk, Ijk]:
        """A box [low, high) of a volume of `shape`, in `apply`'s result."""
        begin, end = [0, 0, 0], [0, 0, 0]
        for axis, source in enumerate(self.order):
            back = self.reversed_axes[axis]
            begin[axis] = shape[source] - high[source] if back else low[source]
            end[axis] = shape[source] - low[source] if back else high[source]
        return (begin[0], begin[1], begin[2]), (end[0], end[1], end[2])

    def apply_to_grid(self, grid: Grid) -> Grid:
        """The grid of `apply`'s result."""
        columns = grid.affine[:3, :3][:, self.order]
        origin = grid.affine[:3, 3].copy()
        shape = tuple(grid.shape[axis] for axis in self.order)
        signs = np.where(self.reversed_axes, -1.0, 1.0)
        for axis, back in enumerate(self.reversed_axes):
            if back:
                origin += columns[:, axis] * (shape[axis] - 1)
        affine = np.eye(4)
        affine[:3, :3] = columns * signs
        affine[:3, 3] = origin
        return Grid((shape[0], shape[1], shape[2]), affine)


def axis_change(source: Grid, target: Grid, tolerance_mm: float = CORNER_TOLERANCE_MM) -> AxisChange | None:
    """The axis change after which `source` lies in the same place as `target`; None if there is none.

    The identity is preferred; then the change whose axes point most alike, so that axes of length 1 are not flipped.
    """
    if sorted(source.shape) != sorted(target.shape):
        return None
    best: AxisChange | None = None
    for order in permutations(range(3)):
        if any(source.shape[order[a]] != target.shape[a] for a in range(3)):
            continue
        columns = source.affine[:3, :3][:, order]
        alike = np.sum(columns * target.affine[:3, :3], axis=0)
        change = AxisChange((order[0], order[1], order[2]), tuple(bool(v < 0) for v in alike))  # type: ignore[arg-type]
        if change.apply_to_grid(source).same_place(target, tolerance_mm):
            if change.is_identity:
                return change
            best = best or change
    return best


def ras_change(grid: Grid) -> AxisChange:
    """What brings a grid to the axes nearest to right, front and head (RAS+), by permuting and flipping alone."""
    nearest, positive = _directions(grid)
    order = [nearest.index(direction) for direction in range(3)]
    back = [not positive[axis] for axis in order]
    return AxisChange((order[0], order[1], order[2]), (back[0], back[1], back[2]))


def orientation_code(grid: Grid) -> str:
    """Three letters such as ``LPS``: the patient direction nearest to each axis. Oblique grids get the nearest code."""
    letters = (("L", "R"), ("P", "A"), ("I", "S"))
    nearest, positive = _directions(grid)
    return "".join(letters[nearest[a]][int(positive[a])] for a in range(3))


def _directions(grid: Grid) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """For each axis of the grid: which of the patient's axes it runs along, and whether forwards."""
    columns = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    best = max(permutations(range(3)), key=lambda rows: sum(abs(columns[rows[a], a]) for a in range(3)))
    return best, tuple(bool(columns[best[a], a] > 0) for a in range(3))

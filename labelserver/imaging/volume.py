"""Voxels on a `Grid`: what every reader of this room gives and every writer takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.geometry import Grid


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Voxels and where they are.

    `voxels` is (I, J, K), or (I, J, K, channels) for colour, in the file's axis order and its own dtype (a NIfTI or
    DICOM file with scale factors gives scaled values). `grid.shape` is (I, J, K).
    """

    voxels: NDArray[Any]
    grid: Grid


def three_axes(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(I, J, K) of a shape whose further axes have length 1; None if they have not."""
    if not shape or any(n != 1 for n in shape[3:]):
        return None
    i, j, k = (*shape[:3], 1, 1)[:3]
    return (int(i), int(j), int(k))


def affine_of(columns: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) from (3, 3) direction times spacing, one column per axis, and the first voxel's position (3,)."""
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = origin
    return affine


#: diag(-1, -1, 1, 1): LPS+ to RAS+ and back.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

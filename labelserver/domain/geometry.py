"""Where voxels are: a `Grid` is a shape and an affine.

Affines map voxel indices (i, j, k) to patient space in millimetres, RAS+ (NIfTI). DICOM and NRRD use LPS+; `imaging/`
flips at its door, so the rest of the house knows RAS+ alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]  #: (4, 4), voxel to RAS+ mm
Voxels = NDArray[np.generic]  #: (I, J, K) or (I, J, K, channels)

#: mm; how far a corner of the grid may move and still count as the same place. Headers store float32 quaternions and
#: text with six digits, which moves the far corner of a 512-voxel grid by some micrometres to hundredths of a mm.
CORNER_TOLERANCE_MM = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Shape (I, J, K) and voxel-to-RAS+ affine of a volume; a 2-D image has K = 1 and an identity affine."""

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along i, j, k."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))

    def corners_ras_mm(self) -> NDArray[np.float64]:
        """(8, 3): RAS+ position of the corner voxels' centres."""
        last = np.asarray(self.shape, dtype=np.float64) - 1
        ijk = np.array([[a, b, c] for a in (0.0, last[0]) for b in (0.0, last[1]) for c in (0.0, last[2])])
        result: NDArray[np.float64] = ijk @ self.affine[:3, :3].T + self.affine[:3, 3]
        return result

    def same_place(self, other: Grid, tolerance_mm: float = CORNER_TOLERANCE_MM) -> bool:
        """True if shapes are equal and no corner is further than `tolerance_mm` (scaled down for tiny voxels) away."""
        if self.shape != other.shape:
            return False
        if np.array_equal(self.affine, other.affine):
            return True
        limit = min(tolerance_mm, 0.1 * min(self.spacing_mm))
        away = np.abs(self.corners_ras_mm() - other.corners_ras_mm()).max()
        return bool(away <= limit)

    def difference(self, other: Grid) -> str:
        """A sentence that says how two grids differ, for error messages."""
        if self.shape != other.shape:
            return f"shape {other.shape} instead of {self.shape}"
        away = float(np.linalg.norm(self.corners_ras_mm() - other.corners_ras_mm(), axis=1).max())
        ours, theirs = (tuple(round(v, 4) for v in g.spacing_mm) for g in (self, other))
        spacing = f"spacing {theirs} mm instead of {ours} mm, " if ours != theirs else ""
        return f"{spacing}a corner lies {away:.3f} mm from where it should be"

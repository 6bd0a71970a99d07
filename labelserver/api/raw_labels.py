"""Label buffers without a header (``label.bin``), as browser viewers send them: they get their image's grid.

The voxels run x fastest; their width follows from the length, because one viewer sends 8 bit and another 16 bit.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from labelserver.domain.errors import GridsDiffer
from labelserver.imaging.volumes import read_grid, write_volume

RAW_EXTENSION = ".bin"

#: bytes per voxel -> dtype, little-endian as every browser sends it.
_WIDTHS: dict[int, np.dtype[np.generic]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}


def raw_to_nifti(buffer: Path, image: Path, target: Path) -> None:
    """Write `buffer` as `target` (``.nii.gz``) on the grid of `image`. Blocks.

    Raises:
        GridsDiffer: the length is not 1, 2 or 4 bytes for each voxel of the image.
    """
    grid = read_grid(image)
    voxels = math.prod(grid.shape)
    size = buffer.stat().st_size
    dtype = _WIDTHS.get(size // voxels) if voxels and size % voxels == 0 else None
    if dtype is None:
        raise GridsDiffer(
            f"The raw label has {size} bytes, but its image has {voxels} voxels {grid.shape}: "
            "send 1, 2 or 4 bytes for each voxel, x fastest."
        )
    flat = np.fromfile(buffer, dtype=dtype)
    write_volume(target, flat.reshape(grid.shape, order="F"), grid.affine, compress=True)

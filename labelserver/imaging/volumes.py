"""Read and write volumes and pictures by the extension of their name.

A reader never allocates before the declared size was compared with the file's (`limits.check_declared`).
Writers write at the path they are given; who needs an atomic replace renames afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.imaging import arrays, metaimage, nifti, nrrd_files, pictures
from labelserver.imaging.formats import PICTURE_EXTENSIONS, split_ext
from labelserver.imaging.volume import Volume

__all__ = ["Volume", "check_whole", "open_volume", "read_grid", "read_volume", "write_volume"]


@dataclass(frozen=True, slots=True)
class _Format:
    read_grid: Callable[[Path], Grid]
    read: Callable[[Path], Volume]
    write: Callable[..., None]


_NIFTI = _Format(nifti.read_grid, nifti.read, nifti.write)
_NRRD = _Format(nrrd_files.read_grid, nrrd_files.read, nrrd_files.write)
_META = _Format(metaimage.read_grid, metaimage.read, metaimage.write)
_ARRAY = _Format(arrays.read_grid, arrays.read, arrays.write)
_PICTURE = _Format(pictures.read_grid, pictures.read, pictures.write)

_FORMATS: dict[str, _Format] = {
    ".nii.gz": _NIFTI,
    ".nii": _NIFTI,
    ".nrrd": _NRRD,
    ".seg.nrrd": _NRRD,
    ".mha": _META,
    arrays.EXTENSION: _ARRAY,
    **dict.fromkeys(PICTURE_EXTENSIONS, _PICTURE),
}


def read_grid(path: Path) -> Grid:
    """Shape and RAS+ affine from the header; allocates nothing for voxels.

    Raises:
        UnreadableFile: damaged, cut short, or declaring what cannot be.
        UnsupportedFormat: an extension that is not read here.
    """
    return _format(path).read_grid(path)


def read_volume(path: Path) -> Volume:
    """Voxels on their grid. Raises as `read_grid`."""
    return _format(path).read(path)


def open_volume(path: Path) -> tuple[Grid, Callable[[], Volume]]:
    """The grid, and what reads the voxels if they are wanted; nothing is allocated before. Raises as `read_grid`."""
    chosen = _format(path)
    if chosen is _NIFTI:
        return nifti.opened(path)
    return chosen.read_grid(path), lambda: chosen.read(path)


def check_whole(path: Path) -> Grid:
    """Read the file to its end and give its grid; finds a cut or damaged file. Raises as `read_grid`."""
    chosen = _format(path)
    grid = chosen.read_grid(path)
    if chosen is _NIFTI:
        nifti.check_whole(path)
    else:
        chosen.read(path)
    return grid


def write_volume(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], *, compress: bool) -> None:
    """Write voxels (I, J, K), or (I, J, K, channels) where the format has them.

    Args:
        path: its extension chooses the format.
        voxels: integer, float or bool (stored as uint8).
        affine: (4, 4) voxel to RAS+ mm; pictures do not keep it.
        compress: deflate the voxels where the format can.

    Raises:
        UnsupportedFormat: the format is unknown or cannot hold these voxels.
    """
    if voxels.ndim not in (3, 4):
        raise UnsupportedFormat(f"A volume has three axes, or three and channels; this array has {voxels.ndim}.")
    _format(path).write(path, voxels, np.asarray(affine, dtype=np.float64), compress=compress)


def _format(path: Path) -> _Format:
    ext = split_ext(path.name)[1].lower()
    chosen = _FORMATS.get(ext)
    if chosen is None:
        known = ", ".join(sorted(_FORMATS))
        raise UnsupportedFormat(
            f"{path.name} is of a type that is not read here ({ext or 'no extension'}): use {known}."
        )
    return chosen

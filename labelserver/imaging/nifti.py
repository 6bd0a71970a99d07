"""NIfTI-1 and -2: sform if its code is set, else qform, else the voxel sizes alone.

Source: NIfTI-1 header (nifti1.h), "3D image (volume) orientation and location in space", methods 3, 2, 1.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.imaging.late import LateModule
from labelserver.imaging.limits import check_declared, unreadable
from labelserver.imaging.volume import Volume, three_axes

if TYPE_CHECKING:
    import nibabel as nib
else:
    nib = LateModule("nibabel")


def _foreign() -> tuple[type[Exception], ...]:
    """What nibabel and the decompressors raise on a damaged file."""
    nibabel_errors = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError)
    return (*nibabel_errors, gzip.BadGzipFile, zlib.error)


#: gzip level; 6 costs three times the time of 1 for a tenth fewer bytes on CT and on masks.
_COMPRESS_LEVEL = 1


def read_grid(path: Path) -> Grid:
    """Shape and RAS+ affine from the header."""
    return _grid(path, _open(path))


def read(path: Path) -> Volume:
    """Voxels in the stored dtype, or float64 where the header scales them."""
    image = _open(path)
    grid = _grid(path, image)
    with unreadable(path, "NIfTI", *_foreign()):
        voxels: NDArray[Any] = np.asanyarray(image.dataobj)
    return Volume(voxels.reshape((*grid.shape, *_channels(image.shape))), grid)


def check_whole(path: Path) -> None:
    """Read to the end without keeping anything: truncation and damage of the compressed stream are found."""
    image = _open(path)
    _grid(path, image)
    expected = int(image.dataobj.offset) + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
    found = 0
    with unreadable(path, "NIfTI", *_foreign()), _stream(path) as stream:
        while chunk := stream.read(1 << 20):
            found += len(chunk)
    if found < expected:
        raise UnreadableFile(f"{path.name} ends after {found} of {expected} bytes: it is cut short. Send it again.")


def write(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], *, compress: bool) -> None:
    """Write with sform and qform; bool becomes uint8. `compress` follows the name: ``.nii`` is never compressed."""
    data = voxels.astype(np.uint8) if voxels.dtype == np.bool_ else voxels
    new: Any = nib.Nifti1Image  # untyped
    image = new(data, affine, dtype=data.dtype)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    if path.name.lower().endswith(".gz"):
        level = _COMPRESS_LEVEL if compress else 0
        with path.open("wb") as file, gzip.GzipFile("", "wb", level, file, mtime=0) as stream:
            image.to_stream(stream)  # no name and no time in the file: equal volumes give equal bytes
    else:
        with path.open("wb") as stream:
            image.to_stream(stream)


def _open(path: Path) -> Any:
    """The header; nibabel reads no voxel yet. nibabel is untyped."""
    with unreadable(path, "NIfTI", *_foreign()):
        image = nib.load(path, mmap=False)
        if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is a Nifti1Image
            raise UnreadableFile(f"{path.name} is not a NIfTI file, although its name says so.")
        return image


def _grid(path: Path, image: Any) -> Grid:
    shape = tuple(int(n) for n in image.shape)
    check_declared(
        path,
        shape,
        image.get_data_dtype().itemsize,
        compressed=_is_gzip(path),
        data_offset=int(image.dataobj.offset),
    )
    space = three_axes(shape[:3])
    if space is None or (len(shape) > 3 and three_axes(shape) is None and _channels(shape) == ()):
        raise UnreadableFile(f"{path.name} has the shape {shape}; a volume has three axes, or three and channels.")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UnreadableFile(f"{path.name} has a position matrix that maps voxels onto a plane or to nowhere.")
    return Grid(space, affine)


def _channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Trailing axes that are not of length 1: () for a plain volume, (C,) for channels or time."""
    return tuple(n for n in shape[3:] if n != 1)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _stream(path: Path) -> Any:
    return gzip.open(path, "rb") if _is_gzip(path) else path.open("rb")

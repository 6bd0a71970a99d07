"""NIfTI-1 and -2: sform if its code is set, else qform, else the voxel sizes alone.

Source: NIfTI-1 header (nifti1.h), "3D image (volume) orientation and location in space", methods 3, 2, 1.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import cache
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


@cache
def _foreign() -> tuple[type[Exception], ...]:
    """What nibabel and the decompressors raise on a damaged file."""
    nibabel_errors = (nib.wrapstruct.WrapStructError, nib.spatialimages.HeaderDataError)
    return (*nibabel_errors, gzip.BadGzipFile, zlib.error)


#: gzip level; 6 costs three times the time of 1 for a tenth fewer bytes on CT and on masks.
_COMPRESS_LEVEL = 1

#: bytes; of NIfTI-2
_LONGEST_HEADER = 540


def read_grid(path: Path) -> Grid:
    """Shape and RAS+ affine from the header."""
    return _grid(path, _header(path))


def read(path: Path) -> Volume:
    """Voxels in the stored dtype, or float64 where the header scales them."""
    return opened(path)[1]()


def opened(path: Path) -> tuple[Grid, Callable[[], Volume]]:
    """The grid, and what reads the voxels without reading the header again."""
    header = _header(path)
    grid = _grid(path, header)

    def voxels() -> Volume:
        with unreadable(path, "NIfTI", *_foreign()):
            stored: NDArray[Any] = np.asanyarray(nib.arrayproxy.ArrayProxy(str(path), header, mmap=False))
        return Volume(stored.reshape((*grid.shape, *_channels(header.get_data_shape()))), grid)

    return grid, voxels


def check_whole(path: Path) -> None:
    """Read to the end without keeping anything: truncation and damage of the compressed stream are found."""
    header = _header(path)
    _grid(path, header)
    voxels = int(np.prod(header.get_data_shape()))
    expected = int(header.get_data_offset()) + voxels * header.get_data_dtype().itemsize
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


def _header(path: Path) -> Any:
    """The header alone, checked; no voxel is read. nibabel is untyped.

    Not by `nib.load`, which asks every format it knows and takes four times as long.
    """
    with unreadable(path, "NIfTI", *_foreign()):
        with nib.openers.ImageOpener(str(path)) as stream:
            begin = stream.read(_LONGEST_HEADER)
        kind: Any = next((k for size, k in _kinds() if begin[:4] in _said_as_first(size)), None)
        if kind is None:
            raise UnreadableFile(f"{path.name} is not a NIfTI file, although its name says so.")
        header = kind(begin[: kind.sizeof_hdr], check=True)
    if header["magic"].item()[:2] != b"n+":
        raise UnreadableFile(f"{path.name} has its voxels in another file (.hdr/.img); send one .nii or .nii.gz.")
    return header


@cache
def _kinds() -> tuple[tuple[int, Any], ...]:
    """Header lengths of NIfTI-1 and -2, which are their first number, and what reads them."""
    return (348, nib.Nifti1Header), (_LONGEST_HEADER, nib.Nifti2Header)


def _said_as_first(size: int) -> tuple[bytes, bytes]:
    return size.to_bytes(4, "little"), size.to_bytes(4, "big")


def _grid(path: Path, header: Any) -> Grid:
    with unreadable(path, "NIfTI", *_foreign()):
        shape = tuple(int(n) for n in header.get_data_shape())
        item_bytes = int(header.get_data_dtype().itemsize)
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    check_declared(
        path,
        shape,
        item_bytes,
        compressed=_is_gzip(path),
        data_offset=int(header.get_data_offset()),
    )
    space = three_axes(shape[:3])
    if space is None or (len(shape) > 3 and three_axes(shape) is None and _channels(shape) == ()):
        raise UnreadableFile(f"{path.name} has the shape {shape}; a volume has three axes, or three and channels.")
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

"""NIfTI-1 and -2: sform if its code is set, else qform, else the voxel sizes alone.

Source: NIfTI-1 header (nifti1.h), "3D image (volume) orientation and location in space", methods 3, 2, 1.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.domain.late import LateModule
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

#: zlib's number for a stream with gzip's header and check sum
_GZIP = 16 + zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"

#: bytes; of NIfTI-2
_LONGEST_HEADER = 540


#: bytes; files up to this size are read at once, because opening one again costs more than a small mask's voxels
_READ_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Start:
    """The header and the first bytes of the file as stored."""

    header: Any  # nibabel is untyped
    stored: bytes
    deflated: bool


def read_grid(path: Path) -> Grid:
    """Shape and RAS+ affine from the header."""
    return _grid(path, _start(path, 1 << 12))


def read(path: Path) -> Volume:
    """Voxels in the stored dtype, or float64 where the header scales them."""
    return opened(path)[1]()


def opened(path: Path) -> tuple[Grid, Callable[[], Volume]]:
    """The grid, and what reads the voxels without reading the header again."""
    start = _start(path, _READ_AT_ONCE)
    header, grid = start.header, _grid(path, start)

    def voxels() -> Volume:
        with unreadable(path, "NIfTI", *_foreign()):
            stored = _voxels_of(start)
            if stored is None:
                stored = np.asanyarray(nib.arrayproxy.ArrayProxy(str(path), header, mmap=False))
        return Volume(stored.reshape((*grid.shape, *_channels(header.get_data_shape()))), grid)

    return grid, voxels


def read_stored(path: Path) -> tuple[Volume, float, float]:
    """Voxels as they are stored, the slope and the intercept: ``real = slope * stored + intercept``."""
    start = _start(path, _READ_AT_ONCE)
    header, grid = start.header, _grid(path, start)
    with unreadable(path, "NIfTI", *_foreign()):
        stored = np.asanyarray(nib.arrayproxy.ArrayProxy(str(path), header, mmap=False).get_unscaled())
        slope, intercept = (float(n) if n is not None else None for n in header.get_slope_inter())
    voxels = stored.reshape((*grid.shape, *_channels(header.get_data_shape())))
    return Volume(voxels, grid), 1.0 if slope is None else slope, intercept or 0.0


def _voxels_of(start: _Start) -> NDArray[Any] | None:
    """The voxels of a plain small file; None if a closer look is needed, also to say what is wrong with it."""
    header, data = start.header, start.stored
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or header.get_slope_inter() not in ((None, None), (1.0, 0.0)):
        return None
    shape, offset = header.get_data_shape(), int(header.get_data_offset())
    needed = offset + math.prod(shape) * dtype.itemsize
    if start.deflated:
        inflating = zlib.decompressobj(_GZIP)
        data = inflating.decompress(start.stored, needed + 1)
        if not inflating.eof or inflating.unused_data:
            return None
    if len(data) != needed:
        return None
    return np.frombuffer(bytearray(data), dtype, offset=offset).reshape(shape, order="F")


def check_whole(path: Path) -> None:
    """Read to the end without keeping anything: truncation and damage of the compressed stream are found."""
    start = _start(path, 1 << 12)
    _grid(path, start)
    header = start.header
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


def _start(path: Path, at_most: int) -> _Start:
    """The header, checked, and up to `at_most` bytes of the file; no voxel is read.

    Not by `nib.load`, which asks every format it knows and takes four times as long.
    """
    with unreadable(path, "NIfTI", *_foreign()):
        with path.open("rb", buffering=0) as stream:
            stored = stream.read(at_most)
        begin = _inflated(path, stored) if path.name.lower().endswith(".gz") else stored[:_LONGEST_HEADER]
        kind: Any = next((k for size, k in _kinds() if begin[:4] in _said_as_first(size)), None)
        if kind is None:
            raise UnreadableFile(f"{path.name} is not a NIfTI file, although its name says so.")
        header = kind(begin[: kind.sizeof_hdr], check=not _is_faultless(begin))
    if header["magic"].item()[:2] != b"n+":
        raise UnreadableFile(f"{path.name} has its voxels in another file (.hdr/.img); send one .nii or .nii.gz.")
    return _Start(header, stored, stored[:2] == _GZIP_MAGIC)


def _inflated(path: Path, stored: bytes) -> bytes:
    """The first bytes of a deflated file, from its first bytes as stored."""
    inflating = zlib.decompressobj(_GZIP)
    begin = inflating.decompress(stored, _LONGEST_HEADER)
    if len(begin) == _LONGEST_HEADER or (inflating.eof and not inflating.unused_data):
        return begin
    with gzip.open(path, "rb") as stream:  # in several pieces, or cut short
        return stream.read(_LONGEST_HEADER)


@cache
def _kinds() -> tuple[tuple[int, Any], ...]:
    """Header lengths of NIfTI-1 and -2, which are their first number, and what reads them."""
    return (348, nib.Nifti1Header), (_LONGEST_HEADER, nib.Nifti2Header)


#: nifti1.h: dim[0], datatype, bitpix, pixdim[0..3], vox_offset, qform_code, sform_code, magic; little-endian
_TELLING = struct.Struct("<40xh28xhh2x4f16xf140xhh88x4s")

#: datatype and bitpix of the plain number types
_NUMBERS = {(2, 8), (4, 16), (8, 32), (16, 32), (64, 64), (256, 8), (512, 16), (768, 32), (1024, 64), (1280, 64)}


def _is_faultless(begin: bytes) -> bool:
    """A NIfTI-1 header in which nibabel's checks, which take longer than all else, surely find nothing to mend."""
    if len(begin) < _TELLING.size or begin[:4] != _said_as_first(348)[0]:
        return False
    axes, datatype, bits, qfac, *spacing_mm, offset, qform, sform, magic = _TELLING.unpack_from(begin)
    return (
        1 <= axes <= 7
        and (datatype, bits) in _NUMBERS
        and qfac in (-1.0, 1.0)
        and all(0.0 < length < math.inf for length in spacing_mm)
        and offset >= 352.0
        and offset % 16 == 0
        and 0 <= qform <= 4
        and 0 <= sform <= 4
        and magic == b"n+1\0"
    )


def _said_as_first(size: int) -> tuple[bytes, bytes]:
    return size.to_bytes(4, "little"), size.to_bytes(4, "big")


def _grid(path: Path, start: _Start) -> Grid:
    header = start.header
    with unreadable(path, "NIfTI", *_foreign()):
        shape = tuple(int(n) for n in header.get_data_shape())
        item_bytes = int(header.get_data_dtype().itemsize)
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    check_declared(
        path,
        shape,
        item_bytes,
        compressed=start.deflated,
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
        return stream.read(2) == _GZIP_MAGIC


def _stream(path: Path) -> Any:
    return gzip.open(path, "rb") if _is_gzip(path) else path.open("rb")

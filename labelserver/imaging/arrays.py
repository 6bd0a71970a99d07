"""Images that clients send as bare arrays: a .npy file that readers map into memory, with its spacing at the end.

The file holds (I, J, K), or (C, I, J, K) with the channels first, as nnInteractive's clients have them. Its
indices are the image's: a point at (i, j, k) of the client's array is the voxel (i, j, k) of the grid. Behind the
voxels, where numpy looks no more, may stand the spacing: ``LSSPACNG`` and three little-endian float64, mm along i, j
and k; without it every spacing is 1. The affine is diagonal, because a client that sends an array says nothing about
the patient. The datastore never lists such files.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnreadableFile, UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.imaging.limits import check_declared, unreadable
from labelserver.imaging.volume import Volume

EXTENSION = ".npy"

_MAGIC = b"LSSPACNG"
_TRAILER = struct.Struct("<8s3d")
#: kinds of numbers that an image can have: bool, unsigned, signed, float.
_KINDS = "buif"


def create(path: Path, shape: Sequence[int], dtype: np.dtype[Any], spacing: Sequence[float] | None = None) -> Any:
    """A new file for voxels of `shape`, mapped for writing. Returns a `numpy.memmap`.

    Args:
        path: with `EXTENSION`.
        shape: (I, J, K) or (C, I, J, K).
        dtype: little-endian.
        spacing: mm along I, J, K; None: not known.
    """
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=tuple(shape))
    if spacing is not None:
        add_spacing(path, spacing)
    return mapped


def add_spacing(path: Path, spacing: Sequence[float]) -> None:
    """Say what lies between the voxels of an array file that has no spacing yet, in mm."""
    with path.open("ab") as stream:
        stream.write(_TRAILER.pack(_MAGIC, *spacing))


def read_shape(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape as stored and dtype, from the header; compared with the file's size.

    Raises:
        UnreadableFile: not such a file, cut short, or of objects.
    """
    shape, dtype, _ = _header(path)
    return shape, dtype


def read_grid(path: Path) -> Grid:
    """Shape and affine, from the headers. Raises `UnreadableFile`."""
    shape, _, end = _header(path)
    if len(shape) not in (3, 4):
        raise UnreadableFile(f"{path.name} has {len(shape)} axes; an image has three, or channels and three.")
    i, j, k = shape[-3:]
    return Grid((i, j, k), np.diag([*_spacing(path, end), 1.0]))


def read(path: Path) -> Volume:
    """Voxels mapped from the file; nothing is read before it is used. What is written into them stays in memory.

    Raises as `read_grid`.
    """
    grid = read_grid(path)
    with unreadable(path, "NPY"):
        voxels: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    if voxels.ndim == 4:
        voxels = voxels[0] if len(voxels) == 1 else np.moveaxis(voxels, 0, -1)
    return Volume(voxels, grid)


def from_bytes(data: bytes) -> NDArray[Any]:
    """An array from the content of a .npy file, without a copy. Raises `UnreadableFile`."""
    name = Path("the array")
    with unreadable(name, "NPY"):
        stream = io.BytesIO(data)
        shape, fortran, dtype = _parse_header(stream)
        _check_numbers(name, dtype)
        array = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
        return array.reshape(shape, order="F" if fortran else "C")


def write(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], *, compress: bool) -> None:
    """The inverse of `read` for a diagonal affine without origin; `compress` has no effect.

    Raises:
        UnsupportedFormat: an affine that such a file cannot keep.
    """
    spacing = np.diag(affine)[:3]
    if not np.allclose(affine, np.diag([*spacing, 1.0])):
        raise UnsupportedFormat("An array file keeps spacing alone, neither origin nor directions. Use NIfTI.")
    stored = voxels if voxels.ndim == 3 else np.moveaxis(voxels, -1, 0)
    with path.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(stored), allow_pickle=False)
    add_spacing(path, [float(n) for n in spacing])


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype, and where the voxels end."""
    with unreadable(path, "NPY"), path.open("rb") as stream:
        shape, _, dtype = _parse_header(stream)
        offset = stream.tell()
    _check_numbers(path, dtype)
    return shape, dtype, offset + check_declared(path, shape, dtype.itemsize, compressed=False, data_offset=offset)


def _parse_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order, dtype; numpy's own reader, which evaluates literals alone and takes 10 000 bytes."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = readers[version](stream)
    return shape, fortran, dtype


def _check_numbers(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject or dtype.kind not in _KINDS:
        raise UnreadableFile(f"{path.name} holds {dtype}, not numbers of an image.")


def _spacing(path: Path, end: int) -> tuple[float, float, float]:
    with path.open("rb") as stream:
        stream.seek(end)
        found = stream.read(_TRAILER.size)
    if len(found) < _TRAILER.size or not found.startswith(_MAGIC):
        return (1.0, 1.0, 1.0)
    _, i, j, k = _TRAILER.unpack(found)
    if not all(math.isfinite(n) and n > 0 for n in (i, j, k)):
        raise UnreadableFile(f"{path.name} has spacings that are not positive.")
    return (i, j, k)

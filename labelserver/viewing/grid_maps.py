"""Label maps on the RAS+ grid: as bytes for a viewer, as files for the store. Values are never touched.

A map travels x fastest, uint8, or uint16 if a value is above 255; packed as one gzip stream where that is said.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import GridsDiffer, InvalidParams, UnreadableFile, UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.imaging.reordering import axis_change
from labelserver.imaging.volumes import write_volume
from labelserver.viewing.ras_volumes import Placed
from labelserver.wire.mask_box import NOTHING, Box, Ijk

LabelVoxels = NDArray[Any]  #: (X, Y, Z), uint8 or uint16

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 1
_CHUNK_BYTES = 1 << 20


def checked_box(lo: Ijk | None, hi: Ijk | None, dims: Ijk) -> Box:
    """Default: everything. Raises `InvalidParams` for a box that is empty or leaves the grid."""
    low, high = lo or (0, 0, 0), hi or dims
    if any(not 0 <= a < b <= size for a, b, size in zip(low, high, dims, strict=True)):
        raise InvalidParams(f"The box {list(low)} to {list(high)} is empty or leaves the grid of {list(dims)} voxels.")
    return Box(low, high)


def on_grid(voxels: NDArray[Any], grid: Grid, where: Placed) -> LabelVoxels:
    """A label's voxels (I, J, K) on `grid`, brought to the viewer's grid. A view.

    Raises:
        GridsDiffer: they are of another image.
        UnsupportedFormat: several numbers for each voxel.
    """
    if voxels.ndim != 3:
        raise UnsupportedFormat(f"A label with {voxels.shape[-1]} channels cannot be shown as one map.")
    if where.file.shape == grid.shape and (where.is_picture or where.file.same_place(grid)):
        return where.change.apply(voxels)
    change = axis_change(grid, where.grid)
    if change is None:
        raise GridsDiffer("The image was replaced since this label was saved, so it cannot be shown on it.")
    return change.apply(voxels)


def smallest(voxels: NDArray[Any]) -> LabelVoxels:
    """As uint8 where that holds all values, else uint16. A view where it can be."""
    if voxels.dtype in (np.uint8, np.bool_):
        return voxels.view(np.uint8)
    return voxels.astype(np.uint8 if voxels.max(initial=0) <= 255 else np.uint16)


def marked_box(voxels: NDArray[Any]) -> Box:
    """The smallest box that holds everything that is not 0; `NOTHING` if nothing is."""
    spans = []
    for axis in range(3):
        hits = np.flatnonzero(voxels.any(axis=tuple(a for a in range(3) if a != axis)))
        if not hits.size:
            return NOTHING
        spans.append((int(hits[0]), int(hits[-1]) + 1))
    return Box((spans[0][0], spans[1][0], spans[2][0]), (spans[0][1], spans[1][1], spans[2][1]))


def map_bytes(part: NDArray[Any]) -> bytes:
    """(A, B, C) as bytes, the first axis fastest, little-endian."""
    return np.ascontiguousarray(part.transpose(2, 1, 0)).astype(part.dtype.newbyteorder("<"), copy=False).tobytes()


def packed(data: bytes) -> bytes:
    """One gzip stream; equal bytes give equal streams."""
    return gzip.compress(data, _GZIP_LEVEL, mtime=0)


def read_map(file: Path, dims: Ijk) -> LabelVoxels:
    """The map in a file, (X, Y, Z).

    Raises:
        UnreadableFile: damaged, or of another size.
    """
    count = math.prod(dims)
    with file.open("rb") as stream:
        data = stream.read(2 * count + 1)
    if data.startswith(_GZIP_MAGIC) and len(data) not in (count, 2 * count):
        data = _inflated(data, 2 * count + 1)
    dtype = _dtype_of(len(data), dims)
    return np.frombuffer(data, dtype).reshape(dims[::-1]).transpose(2, 1, 0)


def check_packed(file: Path, dims: Ijk) -> np.dtype[Any]:
    """Read a packed map to its end without keeping it; its numbers. Raises as `read_map`."""
    found, limit = 0, 2 * math.prod(dims)
    inflating = zlib.decompressobj(_GZIP_WBITS)
    with file.open("rb") as stream:
        rest = stream.read(_CHUNK_BYTES)
        while rest and found <= limit:
            found += len(_inflate(inflating, rest, _CHUNK_BYTES))
            rest = inflating.unconsumed_tail or (b"" if inflating.eof else stream.read(_CHUNK_BYTES))
        found += len(inflating.flush())
        if not inflating.eof or inflating.unused_data or stream.read(1):
            raise _damaged()
    return _dtype_of(found, dims)


def write_label(voxels: LabelVoxels, where: Placed, file: Path) -> None:
    """Write a map (X, Y, Z) as a label on the image's own grid; the name of `file` chooses the format."""
    back = where.change.inverse().apply(smallest(voxels))
    write_volume(file, back, where.file.affine, compress=True)


def _inflated(data: bytes, limit: int) -> bytes:
    inflating = zlib.decompressobj(_GZIP_WBITS)
    plain = _inflate(inflating, data, limit)
    if len(plain) < limit and (not inflating.eof or inflating.unused_data):
        raise _damaged()
    return plain


def _inflate(inflating: Any, data: bytes, limit: int) -> bytes:
    try:
        plain: bytes = inflating.decompress(data, limit)
    except zlib.error as error:
        raise _damaged() from error
    return plain


def _damaged() -> UnreadableFile:
    return UnreadableFile("The label map is damaged or cut short: it is no whole gzip stream. Send it again.")


def _dtype_of(size: int, dims: Ijk) -> np.dtype[Any]:
    count = math.prod(dims)
    if size not in (count, 2 * count):
        raise UnreadableFile(
            f"The label map has {size} bytes or more, its image {' x '.join(str(n) for n in dims)} = {count} voxels: "
            "send one byte for each (uint8) or two (uint16), x fastest, plain or as gzip."
        )
    return np.dtype(np.uint8) if size == count else np.dtype("<u2")

"""Arrays as the nnInteractive remote protocol carries them ("NNIA", version 1): images up, masks both ways.

Numbers are little-endian:

    offset  0  4 bytes  magic "NNIA"
            4  uint8    version, 1
            5  uint8    codec: 1 zstd, 2 lz4
            6  uint8    n, number of axes
            7  uint8    m, bytes of the dtype's name
            8  m bytes  numpy's name of the dtype, ASCII
        8 + m  n int64  shape
               uint32   number of chunks, then for each
               uint64   plain bytes of the chunk, a multiple of the item size, at most `MAX_CHUNK_BYTES`
               uint64   packed bytes
                        one blosc2 chunk of that many bytes

The plain chunks, one after the other, are the array in C order. A header may claim any size: `read_header` compares
all that it says, and what each blosc2 chunk says of itself, with the bytes at hand before anything is allocated. An
array of zeros packs to a few bytes whatever its size, so the caller must say how many plain bytes it will take.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import TooLarge, UnreadableFile
from labelserver.domain.late import LateModule

#: 0.3 s to import; needed at the first array only.
blosc2: Any = LateModule("blosc2")  # Any: untyped and not loaded yet

MEDIA_TYPE = "application/octet-stream"

#: plain bytes of one chunk; blosc2 counts in 32 bits.
MAX_CHUNK_BYTES = 1 << 30
#: plain bytes from which packing in several threads pays for starting them.
THREADS_FROM_BYTES = 1 << 23

MAX_AXES = 4
MAX_AXIS = 1 << 20  #: items along one axis
DTYPES = frozenset(
    {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"}
)

_HEAD = struct.Struct("<4sBBBB")
_COUNT = struct.Struct("<I")
_CHUNK = struct.Struct("<QQ")
_MAGIC = b"NNIA"
_VERSION = 1
_CODECS = {1: "ZSTD", 2: "LZ4"}
#: bytes of a blosc2 chunk's own header, the extended one of version 2 (c-blosc2, README_CHUNK_FORMAT).
_BLOSC_HEADER_BYTES = 32
#: codecs (flags, bits 5-7) and filters from here on are plug-ins, which blosc2 would look for on the machine.
_BLOSC_PLUGIN_CODEC, _BLOSC_PLUGIN_FILTER = 6, 32
#: its voxels would lie in a file that is not here.
_BLOSC_LAZY = 0x08


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What the bytes hold, all of it checked. `chunks`: plain bytes, and where the packed ones begin and end."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[tuple[int, int, int], ...]

    @property
    def size_bytes(self) -> int:
        """Of the plain array."""
        return math.prod(self.shape) * self.dtype.itemsize


def encode_array(array: NDArray[Any]) -> bytes:
    """Zstandard level 1 behind a bit shuffle, which every reader of version 1 understands.

    Args:
        array: at most `MAX_AXES` axes, one of `DTYPES`; made contiguous and little-endian if it is not.
    """
    if array.dtype.name not in DTYPES or array.ndim > MAX_AXES:
        raise ValueError(f"an array of {array.dtype.name} with {array.ndim} axes cannot be sent")
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
    name = array.dtype.name.encode()
    raw = plain.reshape(-1).view(np.uint8)
    chunk_bytes = MAX_CHUNK_BYTES - MAX_CHUNK_BYTES % plain.itemsize
    starts = range(0, raw.size, chunk_bytes)
    parts = [
        _HEAD.pack(_MAGIC, _VERSION, 1, plain.ndim, len(name)),
        name,
        struct.pack(f"<{plain.ndim}q", *plain.shape),
        _COUNT.pack(len(starts)),
    ]
    for start in starts:
        chunk = raw[start : start + chunk_bytes]
        # blosc2's default item size of 8 makes chunks of zeros that it cannot read again; ours is the true one.
        packed = blosc2.compress2(
            chunk.data,
            codec=blosc2.Codec.ZSTD,
            clevel=1,
            typesize=plain.itemsize,
            filters=[blosc2.Filter.BITSHUFFLE],
            nthreads=_threads(chunk.size),
        )
        parts += [_CHUNK.pack(chunk.size, len(packed)), packed]
    return b"".join(parts)


def read_header(data: bytes | memoryview, *, max_bytes: int) -> ArrayHeader:
    """Check everything that `data` says about itself.

    Args:
        data: the whole body.
        max_bytes: plain bytes that the caller is ready to take.

    Raises:
        UnreadableFile: not such an array, cut short, or its sizes do not agree.
        TooLarge: more than `max_bytes`.
    """
    view = memoryview(data)
    if len(view) < _HEAD.size:
        raise UnreadableFile("The array is cut short: its header is incomplete. Send it again.")
    magic, version, codec, axes, name_bytes = _HEAD.unpack_from(view)
    if magic != _MAGIC or version != _VERSION:
        raise UnreadableFile("The body is not an array in a layout that is known here (NNIA, version 1).")
    if codec not in _CODECS:
        raise UnreadableFile(f"The array is packed with the codec {codec}; known are 1 (zstd) and 2 (lz4).")
    if axes > MAX_AXES:
        raise UnreadableFile(f"The array has {axes} axes; at most {MAX_AXES} are taken.")
    offset = _HEAD.size + name_bytes + 8 * axes + _COUNT.size
    if offset > len(view):
        raise UnreadableFile("The array is cut short: its header is incomplete. Send it again.")
    dtype = _dtype(bytes(view[_HEAD.size : _HEAD.size + name_bytes]))
    shape: tuple[int, ...] = struct.unpack_from(f"<{axes}q", view, _HEAD.size + name_bytes)
    if any(not 0 <= n <= MAX_AXIS for n in shape):
        raise UnreadableFile(f"The array declares the shape {shape}, which no image can have.")
    declared = math.prod(shape) * dtype.itemsize
    if declared > max_bytes:
        raise TooLarge(f"The array declares {declared} bytes; at most {max_bytes} are taken here.")
    (count,) = _COUNT.unpack_from(view, offset - _COUNT.size)
    header = ArrayHeader(shape, dtype, _chunks(view, offset, count, dtype.itemsize))
    held = sum(plain for plain, _, _ in header.chunks)
    if held != declared:
        raise UnreadableFile(f"The array declares {declared} bytes, and its chunks {held}. Send it again.")
    return header


def decode_array(data: bytes | memoryview, *, max_bytes: int) -> NDArray[Any]:
    """The inverse of `encode_array`. Arguments and errors as `read_header`."""
    header = read_header(data, max_bytes=max_bytes)
    array = np.empty(header.shape, header.dtype)
    unpack_into(data, header, array)
    return array


def unpack_into(data: bytes | memoryview, header: ArrayHeader, target: NDArray[Any]) -> None:
    """Write the voxels into `target`: C-contiguous, of the header's shape and dtype; a memory map will do.

    Raises:
        UnreadableFile: a chunk is damaged.
    """
    view, start = memoryview(data), 0
    flat = target.reshape(-1)
    for plain, begin, end in header.chunks:
        part = flat[start : start + plain // target.itemsize]
        try:
            blosc2.decompress2(view[begin:end], dst=part, nthreads=_threads(plain))
        except (RuntimeError, ValueError) as error:
            raise UnreadableFile("The voxels of the array are damaged. Send it again.") from error
        start += part.size


def _dtype(name: bytes) -> np.dtype[Any]:
    word = name.decode("ascii", "replace")
    if word not in DTYPES:
        raise UnreadableFile(f"The array holds items of the type {word[:40]!r}; known are {', '.join(sorted(DTYPES))}.")
    return np.dtype(word).newbyteorder("<")


def _chunks(view: memoryview, offset: int, count: int, item_bytes: int) -> tuple[tuple[int, int, int], ...]:
    """Plain bytes, begin and end of each chunk; what blosc2 will believe is compared with what the header says."""
    if count > (len(view) - offset) // (_CHUNK.size + _BLOSC_HEADER_BYTES):
        raise UnreadableFile(f"The array declares {count} chunks that are not there. Send it again.")
    found = []
    for _ in range(count):
        if offset + _CHUNK.size + _BLOSC_HEADER_BYTES > len(view):
            raise UnreadableFile("The array is cut short: a chunk is missing. Send it again.")
        plain, packed = _CHUNK.unpack_from(view, offset)
        begin, end = offset + _CHUNK.size, offset + _CHUNK.size + packed
        if packed < _BLOSC_HEADER_BYTES or end > len(view):
            raise UnreadableFile("The array is cut short: a chunk is incomplete. Send it again.")
        if not 0 < plain <= MAX_CHUNK_BYTES or plain % item_bytes:
            raise UnreadableFile(f"The array has a chunk of {plain} bytes, which cannot be. Send it again.")
        _check_chunk(view[begin:end], plain)
        found.append((plain, begin, end))
        offset = end
    if offset != len(view):
        raise UnreadableFile(f"{len(view) - offset} bytes follow the array that do not belong to it.")
    return tuple(found)


def _check_chunk(chunk: memoryview, plain: int) -> None:
    """Compare what a blosc2 chunk says of itself with the header; let it reach nothing but its own bytes."""
    flags, filters, more_flags = chunk[2], bytes(chunk[16:22]), chunk[31]
    extended = flags & 0x05 == 0x05
    if not extended or flags >> 5 == _BLOSC_PLUGIN_CODEC or max(filters) >= _BLOSC_PLUGIN_FILTER:
        raise UnreadableFile("A chunk of the array is packed in a way that is not read here.")
    if more_flags & _BLOSC_LAZY:
        raise UnreadableFile("A chunk of the array holds no voxels.")
    try:
        said_plain, said_packed, _ = blosc2.get_cbuffer_sizes(chunk)
    except (RuntimeError, ValueError) as error:
        raise UnreadableFile("A chunk of the array is damaged. Send it again.") from error
    if said_plain != plain or said_packed != len(chunk):
        raise UnreadableFile(f"A chunk of the array says {said_plain} bytes of itself, its header {plain}.")


def _threads(plain_bytes: int) -> int:
    return 1 if plain_bytes < THREADS_FROM_BYTES else max(1, os.cpu_count() or 1)

"""The part of a mask that changed, as bytes: a click's answer in kilobytes where the whole mask would be megabytes.

A box of voxels of an image of shape (I, J, K), `lo` inclusive and `hi` exclusive. Voxels are in C order (k fastest).
A box without voxels (lo == hi) says that nothing changed. Free of torch; knows numpy, zlib and zstandard.

Layout, numbers little-endian, media types `MEDIA_TYPE_ZSTD` and `MEDIA_TYPE_GZIP`:

    offset  0  4 bytes  magic "LSMB"
            4  uint8    layout version, 1
            5  uint8    voxels: 1 bits (0 or 1; eight to a byte, the first in the lowest bit), 2 uint8 label values
            6  uint8    codec of the voxels: 0 none, 1 zstd, 2 gzip
            7  uint8    0
            8  3 uint32 shape of the image
           20  3 uint32 lo
           32  3 uint32 hi
           44  uint32   n, bytes of JSON, at most `MAX_PARAMS_BYTES`
           48  n bytes  a JSON object, UTF-8: what else belongs to the answer
       48 + n           the voxels, to the end

A header may claim any size: `decode_box` checks it against the limits and the bytes at hand before it allocates.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import zstandard
from numpy.typing import NDArray

from labelserver.domain.errors import Refused, UnreadableFile
from labelserver.domain.json_types import JsonObject

Ijk = tuple[int, int, int]
LabelVoxels = NDArray[np.uint8]  #: (I, J, K)

MEDIA_TYPE_ZSTD = "application/vnd.labelserver.box+zstd"
MEDIA_TYPE_GZIP = "application/vnd.labelserver.box+gzip"

#: extension under which tests and tools keep an encoded box
EXTENSION = ".lsmb"

MAX_AXIS = 1 << 20  #: voxels along one axis
MAX_VOXELS = 1 << 33  #: of one image; 2048 x 2048 x 2048
MAX_PARAMS_BYTES = 1 << 24

_HEAD = struct.Struct("<4s4B9II")
_MAGIC = b"LSMB"
_VERSION = 1
#: output bytes per input byte that a codec can reach. Deflate: 1032 (zlib's technical notes). Zstandard: a block of
#: at most 128 KiB takes at least four bytes (RFC 8878, 3.1.1.2).
_MAX_RATIO = {0: 1, 1: 1 << 15, 2: 1040}


class VoxelForm(IntEnum):
    """How voxels are stored before compression."""

    BITS = 1  #: 0 or 1
    UINT8 = 2  #: label values


class BoxCodec(IntEnum):
    """How the stored voxels are compressed; browsers inflate gzip by themselves."""

    NONE = 0
    ZSTD = 1
    GZIP = 2


@dataclass(frozen=True, slots=True)
class Box:
    """A box of voxel indices: `lo` belongs to it, `hi` is one beyond."""

    lo: Ijk
    hi: Ijk

    @property
    def shape(self) -> Ijk:
        return (self.hi[0] - self.lo[0], self.hi[1] - self.lo[1], self.hi[2] - self.lo[2])

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing a volume: ``volume[box.slices]`` is a view."""
        return (slice(self.lo[0], self.hi[0]), slice(self.lo[1], self.hi[1]), slice(self.lo[2], self.hi[2]))

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)


class EncodedBox(bytes):
    """What `encode_box` made, told apart from other bytes: an infer task's answer that needs no file."""


NOTHING = Box((0, 0, 0), (0, 0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class MaskBox:
    """A decoded answer: the new `voxels` inside `box` of an image of `shape`, and what else was said."""

    shape: Ijk
    box: Box
    voxels: LabelVoxels  #: of the box's shape
    form: VoxelForm
    codec: BoxCodec
    params: JsonObject = field(default_factory=dict)

    def paste_into(self, mask: NDArray[np.generic]) -> None:
        """Write the voxels at their place. Raises `Refused` if `mask` is of another shape."""
        if mask.shape != self.shape:
            raise Refused(f"This change belongs to an image of shape {self.shape}, not {mask.shape}.")
        mask[self.box.slices] = self.voxels


def changed_box(before: NDArray[np.generic] | None, after: NDArray[np.generic]) -> Box | None:
    """The smallest box that holds every voxel in which two (I, J, K) masks differ; None if none does.

    Without `before`, the voxels that are not 0. Works a slab at a time along the slowest axis of `after`, so that what
    it allocates fits into a cache.

    Raises:
        Refused: the shapes differ or are not three-dimensional.
    """
    if after.ndim != 3 or (before is not None and before.shape != after.shape):
        shapes = f"{after.shape}" if before is None else f"{before.shape} and {after.shape}"
        raise Refused(f"Masks of the shapes {shapes} cannot be compared; both must be (I, J, K).")
    order = sorted(range(3), key=lambda axis: -abs(after.strides[axis]))  # so that slabs lie as they are read
    new = after.transpose(order)
    old = None if before is None else before.transpose(order)
    seen = np.zeros(new.shape[1:], dtype=bool)
    first, last = -1, -1
    for index in range(len(new)):
        if old is None and new.dtype == np.uint8 and not new[index].max():
            continue
        differs = new[index] != (0 if old is None else old[index])
        if differs.any():
            first, last = (index if first < 0 else first), index
            seen |= differs
    if first < 0:
        return None
    spans = dict(zip(order, [(first, last + 1), _span(seen.any(axis=1)), _span(seen.any(axis=0))], strict=True))
    return Box((spans[0][0], spans[1][0], spans[2][0]), (spans[0][1], spans[1][1], spans[2][1]))


def _span(hits: object) -> tuple[int, int]:
    places = np.flatnonzero(np.asarray(hits))
    return int(places[0]), int(places[-1]) + 1


def encode_box(
    mask: NDArray[np.generic],
    box: Box | None,
    *,
    codec: BoxCodec = BoxCodec.ZSTD,
    form: VoxelForm | None = None,
    params: Mapping[str, object] | None = None,
) -> bytes:
    """The voxels of `mask` inside `box` as bytes.

    Args:
        mask: (I, J, K), whole image, bool or whole numbers from 0 to 255.
        box: what changed; None: nothing did.
        codec: both compress at level 1.
        form: None: bits if no voxel of the box is above 1, else uint8.
        params: a JSON object to send along.

    Raises:
        Refused: the box is not inside the mask, or a value does not fit the form.
    """
    inside = box or NOTHING
    _check_box(_checked_shape(mask.shape), inside)
    return encode_part(mask[inside.slices], mask.shape, inside, codec=codec, form=form, params=params)


def encode_part(
    part: NDArray[np.generic],
    image_shape: tuple[int, ...],
    box: Box,
    *,
    codec: BoxCodec = BoxCodec.ZSTD,
    form: VoxelForm | None = None,
    params: Mapping[str, object] | None = None,
) -> bytes:
    """As `encode_box`, from the voxels of the box alone: `part` has the shape of `box`."""
    shape = _checked_shape(image_shape)
    _check_box(shape, box)
    if part.shape != box.shape:
        raise Refused(f"Voxels of shape {part.shape} do not fill a box of shape {box.shape}.")
    highest = int(part.max(initial=0))
    lowest = int(part.min(initial=0))
    chosen = form or (VoxelForm.BITS if highest <= 1 else VoxelForm.UINT8)
    if lowest < 0 or highest > (1 if chosen is VoxelForm.BITS else 255):
        raise Refused(f"A mask with values from {lowest} to {highest} cannot travel as {chosen.name.lower()}.")
    close = part if part.flags.forc else part.copy(order="K")  # turning what lies close together is ten times as fast
    plain = np.ascontiguousarray(close, dtype=np.uint8)
    stored = np.packbits(plain.ravel(), bitorder="little") if chosen is VoxelForm.BITS else plain
    words = _json_bytes(params)
    head = _HEAD.pack(_MAGIC, _VERSION, chosen, codec, 0, *shape, *box.lo, *box.hi, len(words))
    return b"".join([head, words, _packed(stored.tobytes(), codec)])


def with_params(data: bytes, params: Mapping[str, object]) -> bytes:
    """What `encode_box` made, with another JSON object; its voxels are not touched.

    Raises:
        UnreadableFile: the bytes are none of `encode_box`.
    """
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise UnreadableFile("These bytes are not a change of a mask.")
    length = int.from_bytes(data[_HEAD.size - 4 : _HEAD.size], "little")
    words = _json_bytes(params)
    head = data[: _HEAD.size - 4] + struct.pack("<I", len(words))
    return b"".join([head, words, memoryview(data)[_HEAD.size + length :]])


def _json_bytes(params: Mapping[str, object] | None) -> bytes:
    words = json.dumps(dict(params or {}), separators=(",", ":")).encode()
    if len(words) > MAX_PARAMS_BYTES:
        raise Refused(f"The answer's JSON takes {len(words)} bytes; at most {MAX_PARAMS_BYTES} are sent.")
    return words


def _packed(stored: bytes, codec: BoxCodec) -> bytes:
    if codec is BoxCodec.ZSTD:
        return zstandard.ZstdCompressor(level=1).compress(stored)
    if codec is BoxCodec.GZIP:
        return gzip.compress(stored, compresslevel=1, mtime=0)
    return stored


def decode_box(data: bytes | memoryview, *, expected_shape: Ijk | None = None) -> MaskBox:
    """The inverse of `encode_box`.

    Args:
        data: the whole body.
        expected_shape: of the image that this must belong to; None: any.

    Raises:
        UnreadableFile: damaged or cut short, or a size that cannot be.
        Refused: of another image's shape.
    """
    view = memoryview(data)
    if len(view) < _HEAD.size:
        raise UnreadableFile("A change of a mask is cut short: its header is incomplete. Send it again.")
    magic, version, form_number, codec_number, zero, *numbers = _HEAD.unpack_from(view)
    shape, lo, hi, length = tuple(numbers[:3]), tuple(numbers[3:6]), tuple(numbers[6:9]), numbers[9]
    known = form_number in tuple(VoxelForm) and codec_number in tuple(BoxCodec)
    if magic != _MAGIC or version != _VERSION or zero != 0 or not known:
        raise UnreadableFile("These bytes are not a change of a mask in a layout that is known here.")
    form, codec, box = VoxelForm(form_number), BoxCodec(codec_number), Box(lo, hi)
    try:
        _check_box(_checked_shape(shape), box)
    except Refused as error:
        raise UnreadableFile(error.message) from error
    if expected_shape is not None and shape != expected_shape:
        raise Refused(f"This change belongs to an image of shape {shape}, not {expected_shape}.")
    if length > MAX_PARAMS_BYTES or _HEAD.size + length > len(view):
        raise UnreadableFile(f"A change of a mask declares {length} bytes of JSON that are not there. Send it again.")
    params = _json_object(view[_HEAD.size : _HEAD.size + length])
    size = -(-box.voxels // 8) if form is VoxelForm.BITS else box.voxels
    flat = np.frombuffer(_unpacked(view[_HEAD.size + length :], codec, size), dtype=np.uint8)
    if form is VoxelForm.BITS:
        flat = np.unpackbits(flat, count=box.voxels, bitorder="little")
    return MaskBox(shape, box, flat.reshape(box.shape), form, codec, params)


def _checked_shape(shape: tuple[int, ...]) -> Ijk:
    if len(shape) != 3 or any(not 1 <= n <= MAX_AXIS for n in shape) or math.prod(shape) > MAX_VOXELS:
        raise Refused(f"A mask of the shape {shape} cannot be sent; it must be (I, J, K) with {MAX_VOXELS} voxels.")
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def _check_box(shape: Ijk, box: Box) -> None:
    inside = all(0 <= lo <= hi <= n for lo, hi, n in zip(box.lo, box.hi, shape, strict=True))
    if not inside:
        raise Refused(f"The box from {box.lo} to {box.hi} does not lie inside an image of shape {shape}.")


def _json_object(view: memoryview) -> JsonObject:
    try:
        document = json.loads(bytes(view) or b"{}")
    except ValueError as error:
        raise UnreadableFile("The JSON inside a change of a mask is damaged. Send it again.") from error
    if not isinstance(document, dict):
        raise UnreadableFile("The JSON inside a change of a mask must be an object.")
    return document


def _unpacked(body: memoryview, codec: BoxCodec, size: int) -> bytes:
    """Exactly `size` bytes, or an error; never allocates more than the body can hold."""
    if size > (len(body) + 64) * _MAX_RATIO[codec]:
        raise UnreadableFile(
            f"A change of a mask declares {size} bytes of voxels, which {len(body)} bytes cannot hold."
        )
    try:
        if codec is BoxCodec.ZSTD:
            with zstandard.ZstdDecompressor().stream_reader(body) as reader:
                plain = reader.read(size) if size else b""
                rest = reader.read(1)
        elif codec is BoxCodec.GZIP:
            inflating = zlib.decompressobj(wbits=31)
            plain = inflating.decompress(body, max_length=size + 1)
            rest = b"" if inflating.eof else b"?"
        else:
            plain, rest = bytes(body), b""
    except (zstandard.ZstdError, zlib.error) as error:
        raise UnreadableFile("The voxels of a change of a mask are damaged. Send it again.") from error
    if len(plain) != size or rest:
        raise UnreadableFile(f"A change of a mask declares {size} bytes of voxels and holds another number of them.")
    return plain

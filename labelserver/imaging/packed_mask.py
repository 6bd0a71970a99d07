"""A yes or no for each voxel, as a small file: a line that tells the shape, then the bits, compressed.

The checksum covers shape and bits, not their compression, so that the same mask has the same one everywhere.
Layout: ``labelserver-mask 1 I J K`` and a line feed, then zlib over the bits: i fastest, eight to a byte, low bit
first.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnreadableFile

Mask = NDArray[np.bool_]  #: (I, J, K)

_HEAD = re.compile(rb"labelserver-mask 1 (\d{1,9}) (\d{1,9}) (\d{1,9})\n")

#: Voxels of the largest mask that is read; no volume that the server takes is larger.
_MAX_VOXELS = 1 << 34


def packed(mask: Mask) -> tuple[bytes, str]:
    """The file's bytes and the SHA-256 of the mask."""
    head, bits = _head(mask), _bits(mask)
    return head + zlib.compress(bits, 6), hashlib.sha256(head + bits).hexdigest()


def unpacked(data: bytes, sha256: str = "") -> Mask:
    """The mask in a file's bytes.

    Raises:
        UnreadableFile: no such file, cut short, or not the one with this SHA-256.
    """
    head = _HEAD.match(data)
    if head is None:
        raise UnreadableFile("This is no mask of annotated voxels.")
    shape = (int(head[1]), int(head[2]), int(head[3]))
    voxels = math.prod(shape)
    if not 0 < voxels <= _MAX_VOXELS:
        raise UnreadableFile(f"A mask of annotated voxels cannot have the shape {shape}.")
    wanted = (voxels + 7) // 8
    try:
        bits = zlib.decompressobj().decompress(data[head.end() :], wanted + 1)
    except zlib.error as error:
        raise UnreadableFile("The mask of annotated voxels is damaged.") from error
    if len(bits) != wanted or (sha256 and hashlib.sha256(head[0] + bits).hexdigest() != sha256):
        raise UnreadableFile("The mask of annotated voxels is damaged.")
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=voxels, bitorder="little")
    return flat.astype(np.bool_).reshape(shape, order="F")


def _head(mask: Mask) -> bytes:
    i, j, k = mask.shape
    return f"labelserver-mask 1 {i} {j} {k}\n".encode()


def _bits(mask: Mask) -> bytes:
    return np.packbits(mask.reshape(-1, order="F"), bitorder="little").tobytes()

"""Are these the same voxels, under another name, in another format?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from labelserver.imaging.volumes import read_volume


def content_hash(file: Path) -> str:
    """32 hex digits over the shape and the values of the voxels, whatever type and compression they are stored in.

    Raises: `UnreadableFile`, `UnsupportedFormat`.
    """
    voxels = read_volume(file).voxels
    if not np.issubdtype(voxels.dtype, np.integer):
        whole = voxels.astype(np.int32, casting="unsafe") if np.isfinite(voxels).all() else None
        voxels = whole if whole is not None and np.array_equal(whole, voxels) else voxels.astype("<f4")
    digest = hashlib.blake2b(json.dumps(voxels.shape).encode(), digest_size=16, person=b"ls-voxels")
    for part in voxels.T if voxels.ndim else [voxels]:  # slice by slice: the copies stay small
        wanted = "<f4" if part.dtype.kind == "f" else "<i8"
        digest.update(np.ascontiguousarray(part, dtype=wanted).data)
    return digest.hexdigest()

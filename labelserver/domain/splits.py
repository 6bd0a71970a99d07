"""Which images a training may learn from and which it only measures itself on: decided by each image's own id.

A hash of the id, keyed with the project's split key, places every image in [0, 1). An image is held out if its place is
below the wished share. So no image changes side because others are added, labelled or removed, and two trainings that
held out the same images can be compared. Two exceptions keep small projects alive: if nothing is held out, the image
with the smallest place is; if everything is, the one with the largest place is not. A single image is never held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_SCALE = float(2**64)


def place_of(image_id: str, key: bytes = b"") -> float:
    """A number in [0, 1) that depends on the id and the key alone."""
    digest = hashlib.blake2b(image_id.encode(), key=key[:64], digest_size=8, person=b"ls-split").digest()
    return int.from_bytes(digest, "big") / _SCALE


def held_out(image_ids: Iterable[str], share: float, key: bytes = b"") -> frozenset[str]:
    """The ids to measure on. `share` is in [0, 1); 0 or a single id: none."""
    ordered = sorted(set(image_ids), key=lambda image_id: (place_of(image_id, key), image_id))
    if share <= 0 or len(ordered) < 2:
        return frozenset()
    below = sum(place_of(image_id, key) < share for image_id in ordered)
    return frozenset(ordered[: min(max(below, 1), len(ordered) - 1)])

"""Small pictures for people: one slice of an image with what matters in colour."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: pixels of the longer side, at most
_SIDE = 192
#: how strongly the colour covers the image where it is strongest
_COVER = 0.75
_COLOR = (255, 64, 32)


def overlay_png(image: NDArray[Any], heat: NDArray[Any]) -> bytes:
    """A PNG of a slice in grey with `heat` in red over it.

    Args:
        image: (I, J) intensities; shown from their 1st to their 99th percentile.
        heat: (I, J), 0 (nothing) to 1 (strongest).
    """
    plain = np.asarray(image, dtype=np.float32)
    low, high = np.percentile(plain, (1, 99)) if plain.size else (0.0, 1.0)
    grey = np.clip((plain - low) / max(float(high - low), 1e-6), 0.0, 1.0) * 255.0
    cover = (np.clip(np.asarray(heat, dtype=np.float32), 0.0, 1.0) * _COVER)[..., None]
    colored = grey[..., None] * (1.0 - cover) + np.asarray(_COLOR, dtype=np.float32) * cover
    picture = Image.fromarray(np.ascontiguousarray(np.swapaxes(colored, 0, 1)[::-1]).astype(np.uint8))
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=False)
    return stream.getvalue()


def busiest_slice(weights: NDArray[Any]) -> int:
    """Index along the last axis of (I, J, K) with the largest sum; the middle one if all are zero."""
    sums = np.asarray(weights, dtype=np.float64).sum(axis=(0, 1))
    return int(np.argmax(sums)) if sums.any() else weights.shape[2] // 2

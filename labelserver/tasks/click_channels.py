"""What a click network sees: nine channels drawn on a window, the same in training and in use.

    image       intensities, -1 to 1
    contrast    how far they are from those under the positive prompts, so that one click also tells a brightness
    previous    the mask so far, 0 to 1
    point+ point- scribble+ scribble- box+ box-    prompts, fading with distance and with age; lassos are scribbles

Prompts are drawn in patch voxels, whatever the zoom, and merged by their maximum. Older ones count less (0.9 for each
later prompt), so that a correction outweighs what it corrects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.domain.prompts import PromptKind
from labelserver.tasks.hints import Hint
from labelserver.tasks.windows import Patch, PatchMask

CHANNELS = ("image", "contrast", "previous", "point+", "point-", "scribble+", "scribble-", "box+", "box-")

Channels = NDArray[np.float32]  #: (9, A, B, C)

_FADING = 0.9
_POINT_RADIUS, _SCRIBBLE_RADIUS = 4.0, 2.0
#: The least spread of intensities under a prompt, of the window's range of 2; below it noise would be amplified.
_LEAST_SPREAD = 0.03
_FIRST = {PromptKind.POINT: 3, PromptKind.SCRIBBLE: 5, PromptKind.LASSO: 5, PromptKind.BOX: 7}


def scaled(values: Patch, low: float, high: float) -> Patch:
    """Intensities from `low` to `high` as -1 to 1; beyond is clipped."""
    found: Patch = np.clip((values - low) * (2.0 / max(high - low, 1e-6)) - 1.0, -1.0, 1.0).astype(np.float32)
    return found


def drawn(image: Patch, previous: Patch, hints: Sequence[Hint]) -> Channels:
    """All channels.

    Args:
        image: as `scaled` gives it.
        previous: share of the mask so far.
        hints: oldest first. An initial mask joins `previous`.
    """
    found: Channels = np.zeros((len(CHANNELS), *image.shape), dtype=np.float32)
    found[0] = image
    found[2] = previous
    for hint in hints:
        if hint.kind is PromptKind.MASK:
            if hint.new:
                found[2][hint.region] = float(hint.positive)
            continue
        channel = found[_FIRST[hint.kind] + (0 if hint.positive else 1)]
        _add(channel, hint)
    found[1] = _contrast(image, found[2], hints)
    return found


def _add(channel: Patch, hint: Hint) -> None:
    strength = _FADING**hint.age
    if hint.kind is PromptKind.BOX:
        channel[hint.region] = np.maximum(channel[hint.region], strength)
        return
    radius = _POINT_RADIUS if hint.kind is PromptKind.POINT else _SCRIBBLE_RADIUS
    part = _around(hint.region, int(radius))
    away = ndimage.distance_transform_edt(~hint.region[part])
    bump = (strength * np.clip(1.0 - away / (radius + 1.0), 0.0, 1.0)).astype(np.float32)
    np.maximum(channel[part], bump, out=channel[part])


def _around(region: PatchMask, margin: int) -> tuple[slice, ...]:
    part = ndimage.find_objects(region.astype(np.uint8))[0]
    return tuple(slice(max(0, axis.start - margin), axis.stop + margin) for axis in part)


def _contrast(image: Patch, previous: Patch, hints: Sequence[Hint]) -> Patch | float:
    """tanh of the distance from the middle intensity under the positive prompts, in spreads; 0 without any."""
    samples = []
    for hint in hints:
        if hint.positive and hint.kind not in (PromptKind.BOX, PromptKind.MASK):
            part = _around(hint.region, 1)
            near = ndimage.binary_dilation(hint.region[part])
            samples.append(image[part][near])
    values = np.concatenate(samples) if samples else image[previous > 0.5]
    if not values.size:
        boxes = [hint for hint in hints if hint.positive and hint.kind is PromptKind.BOX]
        if not boxes:
            return 0.0
        values = image[boxes[-1].region]
    if values.size > 4000:
        values = values[:: values.size // 2000]
    middle = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), _LEAST_SPREAD)
    found: Patch = np.tanh((image - middle) / (3.0 * spread)).astype(np.float32)
    return found

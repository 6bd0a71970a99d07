"""What a person marked voxel by voxel is in the answer, whatever a network makes of it.

Points and scribbles say of each of their voxels whether it belongs to the label; a negative box or lasso says of all
its voxels that they do not. A positive box or lasso is drawn roughly round an object, and an initial mask is there to
be corrected: both are left to the engine. Where prompts meet, the newest counts; but what is drawn roughly never
overrules an exact mark.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.tasks.hints import region_on
from labelserver.tasks.windows import Box, PatchMask, Window

EXACT = frozenset({PromptKind.POINT, PromptKind.SCRIBBLE})
ROUGH = frozenset({PromptKind.BOX, PromptKind.LASSO})


def keep_drawn(inside: PatchMask, box: Box, prompts: Sequence[tuple[Prompt, bool]]) -> None:
    """Set what `prompts` say exactly.

    Args:
        inside: (A, B, C), the label in the image's voxels of `box`; changed.
        box: where that is, [lo, hi).
        prompts: with their signs for this label, oldest first.
    """
    telling = [(prompt, positive) for prompt, positive in prompts if prompt.kind in EXACT | ROUGH]
    decided = np.zeros(inside.shape, dtype=bool)
    eased = np.zeros(inside.shape, dtype=bool)  # a newer box or lasso says that the object is here
    for prompt, positive in reversed(telling):
        part = _shared(box, prompt)
        if part is None:
            continue
        place = tuple(slice(a - c, b - c) for a, b, c in zip(*part, box[0], strict=True))
        region = region_on(_voxels_of(part), prompt)
        if prompt.kind in ROUGH and prompt.positive:
            eased[place] |= region & positive  # for another label it says nothing exact
            continue
        region &= ~decided[place]
        if prompt.kind in ROUGH:
            region &= ~eased[place]
        inside[place][region] = positive
        decided[place] |= region


def _shared(box: Box, prompt: Prompt) -> Box | None:
    """The part of `box` that the prompt reaches."""
    lo = [max(a, b) for a, b in zip(box[0], prompt.box[0], strict=True)]
    hi = [min(a, b) for a, b in zip(box[1], prompt.box[1], strict=True)]
    if any(a >= b for a, b in zip(lo, hi, strict=True)):
        return None
    return (lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2])


def _voxels_of(box: Box) -> Window:
    """The window whose patch voxels are the image's voxels of `box`."""
    shape = [b - a for a, b in zip(*box, strict=True)]
    center = [(a + b - 1) / 2 for a, b in zip(*box, strict=True)]
    return Window((shape[0], shape[1], shape[2]), (center[0], center[1], center[2]), (1.0, 1.0, 1.0))

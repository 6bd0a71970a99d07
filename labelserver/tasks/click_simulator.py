"""A simulated user: looks at a mask and its truth, and draws where the largest mistake is.

The rule: error = prediction xor truth; of its 26-connected components the largest; a click where that component is
deepest (Euclidean distance in voxels, beyond the component's own box counts as outside), positive if truth is there.
Ties: the first voxel, and the first component, in C order. So the same masks always give the same click, and searching
only the component's box gives the same clicks several times faster than searching the volume.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.tasks.windows import bounds

Mask = NDArray[np.bool_]  #: (I, J, K)

_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)

#: voxels that a hand misses by, at most
_JITTER = 2
#: chance of a click with the wrong sign, where mistakes are asked for
WRONG_SIGN = 0.05


class Drawing(StrEnum):
    """What the simulated user draws."""

    POINT = "point"
    BOX = "box"
    SCRIBBLE = "scribble"
    LASSO = "lasso"


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """The largest connected error."""

    lo: tuple[int, int, int]
    region: Mask  #: of its box
    missing: bool  #: truth is there and the prediction is not

    @property
    def size(self) -> int:
        return int(self.region.sum())


def largest_mistake(prediction: Mask, truth: Mask) -> Mistake | None:
    """None if both are equal."""
    error = prediction != truth
    box = bounds(error)
    if box is None:
        return None
    inside = tuple(slice(a, b) for a, b in zip(*box, strict=True))
    parts, _ = ndimage.label(error[inside], structure=_NEIGHBOURS)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    chosen = int(sizes.argmax())
    part = ndimage.find_objects(parts)[chosen - 1]
    region = parts[part] == chosen
    lo = tuple(int(axis.start + start) for axis, start in zip(part, box[0], strict=True))
    click = deepest_voxel(region)
    at = tuple(int(a + b) for a, b in zip(click, lo, strict=True))
    return Mistake((lo[0], lo[1], lo[2]), region, bool(truth[at]))


def deepest_voxel(region: Mask) -> tuple[int, int, int]:
    """Index of the voxel of `region` that is farthest from its outside."""
    padded = np.pad(region, 1)
    depth = ndimage.distance_transform_edt(padded)[1:-1, 1:-1, 1:-1]
    a, b, c = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(a), int(b), int(c)


@dataclass
class SimulatedUser:
    """Draws prompts. One object for each case, so that its random numbers do not depend on the cases before.

    Args:
        seed: of jitter and wrong signs.
        jitter: miss the deepest voxel by up to two voxels along each axis, inside the error.
        wrong: share of prompts with the wrong sign.
        first: what the first prompt is; `then`: what the others are.
    """

    seed: int = 0
    jitter: bool = False
    wrong: float = 0.0
    first: Drawing = Drawing.POINT
    then: Drawing = Drawing.POINT
    _random: np.random.Generator = field(init=False, repr=False)
    _drawn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def next_prompt(self, prediction: Mask, truth: Mask, label: str = "") -> Prompt | None:
        """What the user draws now; None if nothing is wrong."""
        mistake = largest_mistake(prediction, truth)
        if mistake is None:
            return None
        kind = self.first if self._drawn == 0 else self.then
        self._drawn += 1
        positive = mistake.missing
        if self.wrong and self._random.random() < self.wrong:
            positive = not positive
        if kind is Drawing.BOX:
            return Prompt(PromptKind.BOX, label, positive, _box(mistake))
        if kind is Drawing.SCRIBBLE:
            return Prompt(PromptKind.SCRIBBLE, label, positive, mask=_scribble(mistake))
        if kind is Drawing.LASSO:
            return Prompt(PromptKind.LASSO, label, positive, mask=_lasso(mistake, prediction.shape))
        return Prompt(PromptKind.POINT, label, positive, self._click(mistake)[None])

    def _click(self, mistake: Mistake) -> NDArray[np.float64]:
        at = np.asarray(deepest_voxel(mistake.region))
        if self.jitter:
            near = np.argwhere(mistake.region)
            near = near[(np.abs(near - at) <= _JITTER).all(axis=1)]
            at = near[int(self._random.integers(len(near)))]
        return at.astype(np.float64) + np.asarray(mistake.lo, dtype=np.float64)


def _worst_slice(mistake: Mistake) -> tuple[int, Mask]:
    """Index along the last axis of the slice with most error, and that slice with its axis kept."""
    counts = mistake.region.sum(axis=(0, 1))
    index = int(counts.argmax())
    return index, mistake.region[:, :, index : index + 1]


def _box(mistake: Mistake) -> NDArray[np.float64]:
    """Rectangle of the error in its middle slice, over the error's whole range of slices."""
    depth = mistake.region.shape[2]
    filled = np.flatnonzero(mistake.region.any(axis=(0, 1)))
    middle = int(filled[np.abs(filled - (depth - 1) / 2).argmin()])
    found = bounds(mistake.region[:, :, middle : middle + 1])
    lo, hi = found if found is not None else ((0, 0, 0), mistake.region.shape)
    corners = np.array([[lo[0], lo[1], 0], [hi[0] - 1, hi[1] - 1, depth - 1]], dtype=np.float64)
    size = corners[1] - corners[0]
    for axis in np.flatnonzero(size == 0)[1:]:  # a box may be flat along one axis only
        corners[1, axis] += 1
    moved: NDArray[np.float64] = corners + np.asarray(mistake.lo)
    return moved


def _scribble(mistake: Mistake) -> MaskBox:
    """Skeleton of the error in its worst slice."""
    index, worst = _worst_slice(mistake)
    line = skeletonize(worst[:, :, 0])
    if not line.any():
        line = worst[:, :, 0]
    return MaskBox((mistake.lo[0], mistake.lo[1], mistake.lo[2] + index), line[:, :, None])


def _lasso(mistake: Mistake, shape: tuple[int, ...]) -> MaskBox:
    """The error in its worst slice, one voxel wider, inside the image."""
    index, worst = _worst_slice(mistake)
    grown = ndimage.binary_dilation(np.pad(worst[:, :, 0], 1))
    lo = np.array([mistake.lo[0] - 1, mistake.lo[1] - 1])
    start = np.maximum(-lo, 0)
    stop = np.minimum(np.asarray(grown.shape), np.asarray(shape[:2]) - lo)
    grown = grown[start[0] : stop[0], start[1] : stop[1]]
    corner = lo + start
    return MaskBox((int(corner[0]), int(corner[1]), mistake.lo[2] + index), grown[:, :, None])

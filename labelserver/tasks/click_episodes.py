"""A simulated session on one training patch: a first prompt, then one where the network's answer is most wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.domain.schema import NOT_ANNOTATED
from labelserver.tasks.click_channels import Channels, drawn
from labelserver.tasks.click_simulator import Drawing, SimulatedUser, deepest_voxel
from labelserver.tasks.hints import Hint, region_on
from labelserver.tasks.windows import Patch, PatchMask, Window, bounds

#: Share of episodes that begin with a box, a scribble, a lasso, or no prompt but a coarse mask to sharpen.
_BOX, _SCRIBBLE, _LASSO, _COARSE = 0.10, 0.06, 0.04, 0.08
#: Share of later prompts that are scribbles or lassos.
_LATER_SCRIBBLE, _LATER_LASSO = 0.10, 0.05
#: Share of first clicks at the deepest voxel; the others are anywhere in the deeper half.
_AT_THE_DEEPEST = 0.6


class Episode:
    """Prompts and masks of one patch.

    Args:
        image: (A, B, C) in -1 to 1.
        truth: (A, B, C) 1 in the target, 255 where nobody looked.
        random: of this step.
        draw: makes channels of the image, the mask so far and the prompts.
    """

    def __init__(
        self,
        image: Patch,
        truth: NDArray[np.uint8],
        random: np.random.Generator,
        draw: Callable[[Patch, Patch, Sequence[Hint]], Channels] = drawn,
    ) -> None:
        self._image, self._random, self._draw = image, random, draw
        self._truth: PatchMask = truth == 1
        self._known: PatchMask = truth != NOT_ANNOTATED
        self._previous = np.zeros(image.shape, dtype=np.float32)
        self._regions: list[tuple[PromptKind, bool, PatchMask, int | None]] = []
        a, b, c = image.shape
        self._window = Window((a, b, c), ((a - 1) / 2, (b - 1) / 2, (c - 1) / 2), (1.0, 1.0, 1.0))
        self._begun = False

    def next_channels(self) -> Channels:
        """What the network sees next: one more prompt, and its own last answer as the previous mask."""
        if self._begun:
            self._correct()
        else:
            self._begin()
        count = len(self._regions)
        hints = [
            Hint(kind, positive, region, count - 1 - number, number == count - 1, flat_axis)
            for number, (kind, positive, region, flat_axis) in enumerate(self._regions)
        ]
        return self._draw(self._image, self._previous, hints)

    def take(self, answer: Patch) -> None:
        """The network's probabilities."""
        self._previous = (answer > 0.5).astype(np.float32)

    def dice(self) -> float:
        """Of the last answer."""
        answer = (self._previous > 0.5) & self._known
        return 2 * float((answer & self._truth).sum()) / max(1.0, float(answer.sum() + self._truth.sum()))

    def _begin(self) -> None:
        self._begun = True
        if not self._truth.any():
            return
        kind = self._random.random()
        if kind < _COARSE:
            self._previous = self._coarse_mask()
        elif kind < _COARSE + _BOX:
            self._add_box()
        elif kind < _COARSE + _BOX + _SCRIBBLE:
            self._add_prompt(SimulatedUser(first=Drawing.SCRIBBLE))
        elif kind < _COARSE + _BOX + _SCRIBBLE + _LASSO:
            self._add_prompt(SimulatedUser(first=Drawing.LASSO))
        else:
            self._add_click(self._truth, positive=True)

    def _correct(self) -> None:
        chance = self._random.random()
        if chance < _LATER_SCRIBBLE:
            self._add_prompt(SimulatedUser(first=Drawing.SCRIBBLE))
        elif chance < _LATER_SCRIBBLE + _LATER_LASSO:
            self._add_prompt(SimulatedUser(first=Drawing.LASSO))
        else:
            jitter = bool(self._random.random() < 0.5)
            self._add_prompt(SimulatedUser(seed=int(self._random.integers(2**31)), jitter=jitter))

    def _add_prompt(self, user: SimulatedUser) -> None:
        prompt = user.next_prompt((self._previous > 0.5) & self._known, self._truth)
        if prompt is not None:
            self._add(prompt)

    def _add(self, prompt: Prompt) -> None:
        self._regions.append((prompt.kind, prompt.positive, region_on(self._window, prompt), None))

    def _add_click(self, mask: PatchMask, *, positive: bool) -> None:
        """At the deepest voxel of the largest part, or somewhere in the deeper half of the whole."""
        if self._random.random() < _AT_THE_DEEPEST:
            at: tuple[int, ...] = deepest_voxel(mask)
        else:
            depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
            places = np.argwhere(depth >= 0.5 * depth.max())
            at = tuple(int(v) for v in places[int(self._random.integers(len(places)))])
        region = np.zeros(mask.shape, dtype=bool)
        region[at] = True
        self._regions.append((PromptKind.POINT, positive, region, None))

    def _add_box(self) -> None:
        """Round the target, as a hand draws it; half of them in one slice only."""
        box = bounds(self._truth)
        if box is None:
            return
        lo, hi = np.asarray(box[0]), np.asarray(box[1])
        wobble = np.maximum(1, (hi - lo) // 10)
        lo = np.clip(lo - self._random.integers(0, wobble + 1), 0, None)
        hi = np.minimum(hi + self._random.integers(0, wobble + 1), self._truth.shape)
        flat_axis = None
        if self._random.random() < 0.5:
            flat_axis = int(self._random.integers(3))
            others = tuple(axis for axis in range(3) if axis != flat_axis)
            at = int(self._truth.sum(axis=others).argmax())
            slice_box = bounds(self._truth.take([at], axis=flat_axis))
            if slice_box is not None:
                for axis in others:
                    lo[axis], hi[axis] = slice_box[0][axis], slice_box[1][axis]
            lo[flat_axis], hi[flat_axis] = at, at + 1
        region = np.zeros(self._truth.shape, dtype=bool)
        region[tuple(slice(int(a), int(b)) for a, b in zip(lo, hi, strict=True))] = True
        self._regions.append((PromptKind.BOX, True, region, flat_axis))

    def _coarse_mask(self) -> Patch:
        """The target as an answer at a coarser zoom would be: blurred, cut anew, sometimes a little too large."""
        blurred = ndimage.gaussian_filter(self._truth.astype(np.float32), float(self._random.uniform(1.0, 2.5)))
        mask: Patch = (blurred > float(self._random.uniform(0.35, 0.65))).astype(np.float32)
        return mask

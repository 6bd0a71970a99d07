"""Interactive tasks that answer on fixed-shape windows: what `Seeds` and `Click3d` share.

A subclass says how one window is answered (a `PatchEngine`); which windows are looked at is `auto_zoom`'s matter, and
several labels in one question are answered one after the other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.geometry import Grid
from labelserver.domain.interaction import LabelMap
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.tasks.auto_zoom import PatchEngine, Scene, View, answered
from labelserver.tasks.base import InferType, Labels, numbered_labels
from labelserver.tasks.interactive import InteractiveTask
from labelserver.tasks.prompting import ClickState, Prediction, PromptedImage, painted
from labelserver.tasks.windows import Patch

#: Weights of red, green and blue in brightness (ITU-R BT.601).
_BRIGHTNESS = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedVolume:
    """Intensities (I, J, K) in the file's own type where that is possible: windows convert what they sample."""

    voxels: NDArray[np.generic]
    grid: Grid


def as_intensities(image: PromptedImage) -> PreparedVolume:
    """Colour becomes brightness, further channels their mean."""
    voxels = image.voxels
    if voxels.ndim == 4:
        weights = (
            _BRIGHTNESS if voxels.shape[3] in (3, 4) else np.full(voxels.shape[3], 1 / voxels.shape[3], np.float32)
        )
        voxels = voxels[..., : len(weights)].astype(np.float32) @ weights
    return PreparedVolume(voxels, image.grid)


@dataclass(frozen=True, slots=True)
class CloseUp:
    """An engine that looks no further than its closest window."""

    engine: PatchEngine
    max_zoom: float = 1.0
    max_tiles: int = 0

    @property
    def roi(self) -> int:
        return self.engine.roi

    @property
    def looks_at_all(self) -> bool:
        return self.engine.looks_at_all

    @property
    def corrects_locally(self) -> bool:
        return self.engine.corrects_locally

    def answer(self, view: View) -> Patch:
        """See `PatchEngine.answer`."""
        return self.engine.answer(view)


class PatchTask(InteractiveTask):
    """Takes points, scribbles, boxes, lassos and an initial mask, positive and negative, for any of its labels."""

    prompt_kinds: ClassVar[frozenset[PromptKind]] = frozenset(PromptKind) - {PromptKind.CLASS}

    def __init__(
        self,
        labels: Labels,
        *,
        type: str = InferType.DEEPGROW,
        dimension: int = 3,
        description: str = "",
        config: Mapping[str, Any] | None = None,
        spacing_mm: float | None = None,
    ) -> None:
        """Describe the task.

        Args:
            labels: names in order, or name -> value.
            type: how clients show it; ``deepgrow`` opens their panel for clicks.
            dimension: what old clients are told; 2-D and 3-D images are both answered.
            description: for people.
            config: options with their defaults.
            spacing_mm: voxel size of the finest window; None: the image's finest.
        """
        numbers = {name: value for name, value in numbered_labels(labels).items() if value > 0}
        super().__init__(type=type, labels=numbers, dimension=dimension, description=description, config=config)
        self.spacing_mm = spacing_mm

    @abstractmethod
    def engine(self, prepared: Any, params: Mapping[str, Any]) -> PatchEngine:
        """What answers one window; `params` are the request's options over the task's config."""

    def prepare(self, image: PromptedImage) -> PreparedVolume:
        return as_intensities(image)

    def predict(self, prepared: PreparedVolume, clicks: ClickState) -> Iterator[Prediction]:
        """A coarse answer first where the object is larger than a window.

        The option ``autozoom: false`` of a request keeps to the closest window, whatever the object's size.
        """
        engine: PatchEngine = self.engine(prepared, {**self.config(), **clicks.params})
        if clicks.params.get("autozoom") is False:
            engine = CloseUp(engine)
        new = clicks.prompts[len(clicks.prompts) - clicks.new :] if clicks.new else clicks.prompts
        asked = list(dict.fromkeys(clicks.value_of(prompt) for prompt in new))
        mask: LabelMap = clicks.mask
        done: list[Prediction] = []
        for number, value in enumerate(asked):
            last = number == len(asked) - 1
            signed, count = signed_for(value, clicks, len(new))
            scene = Scene(prepared.voxels, prepared.grid, signed, count, self.spacing_mm)
            for found in answered(engine, scene, mask, value):
                values = painted(mask, found.lo, found.inside, value)
                told = Prediction(found.lo, values, found.final and last, {"zoom": found.zoom, "tiles": found.tiles})
                if found.final and len(asked) > 1:
                    done.append(told)
                    mask = with_answer(mask, told)
                    told = joined(mask, done)
                yield told


def with_answer(mask: LabelMap, answer: Prediction) -> LabelMap:
    """A copy of `mask` that holds `answer`."""
    changed: LabelMap = mask.copy()
    changed[tuple(slice(a, a + n) for a, n in zip(answer.lo, answer.values.shape, strict=True))] = answer.values
    return changed


def joined(mask: LabelMap, answers: Sequence[Prediction]) -> Prediction:
    """One answer for several labels: the box round all of theirs, as it is in `mask` now."""
    boxes = [(a.lo, np.add(a.lo, a.values.shape)) for a in answers if a.values.size]
    if not boxes:
        return answers[-1]
    lo = np.min([box[0] for box in boxes], axis=0)
    hi = np.max([box[1] for box in boxes], axis=0)
    part = tuple(slice(int(a), int(b)) for a, b in zip(lo, hi, strict=True))
    corner = (int(lo[0]), int(lo[1]), int(lo[2]))
    return Prediction(corner, mask[part].copy(), answers[-1].final, answers[-1].notes)


def signed_for(value: int, clicks: ClickState, new: int) -> tuple[Sequence[tuple[Prompt, bool]], int]:
    """The prompts that say something about the label `value`, and how many of them are new.

    A positive prompt for another label is a negative one here; a negative one for another label says nothing.
    """
    first_new = len(clicks.prompts) - new
    signed, count = [], 0
    for number, prompt in enumerate(clicks.prompts):
        own = clicks.value_of(prompt) == value
        if not own and (not prompt.positive or prompt.kind is PromptKind.BOX):
            continue
        signed.append((prompt, prompt.positive and own))
        count += number >= first_new
    return signed, count

"""The nnInteractive package as a task: its own session object answers, ours keeps the prompts.

One session object of theirs holds the network, one image and one object at a time; a lock lets one call at a time use
it. If the last call was the same object with one prompt less, only the new prompts are added; else everything is told
again without predicting, which their interface allows. Written against nnInteractive 2.x
(``nnInteractive.inference.inference_session``).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.tasks.base import Labels
from labelserver.tasks.hints import connected_line, filled_lasso
from labelserver.tasks.object_task import ObjectTask, Signed
from labelserver.tasks.optional_models import WeightsLicence
from labelserver.tasks.patch_task import PreparedVolume, as_intensities
from labelserver.tasks.prompting import PromptedImage

_MODULE = "nnInteractive.inference.inference_session"


class NnInteractive(ObjectTask):
    """nnInteractive: points, scribbles, boxes and lassos in any 3-D image"""

    package: ClassVar[str] = "nnInteractive"
    extra: ClassVar[str] = "nninteractive"
    licence: ClassVar[WeightsLicence] = WeightsLicence(
        "CC BY-NC-SA 4.0",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/",
        "The published weights are not for commercial use, and what is derived from them keeps this licence.",
    )
    prompt_kinds: ClassVar[frozenset[PromptKind]] = frozenset(PromptKind) - {PromptKind.CLASS}
    conversions: ClassVar[Mapping[PromptKind, str]] = {
        PromptKind.BOX: "a 3-D box as a 2-D box in its middle slice along the last axis"
    }
    dimensions: ClassVar[frozenset[int]] = frozenset({3})

    def __init__(
        self,
        weights: str | Path | None,
        labels: Labels,
        *,
        licence_accepted: bool = False,
        description: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the task.

        Args:
            weights: folder of the trained model (with ``fold_0`` and ``plans.json``), already on this machine.
            labels: names in order, or name -> value.
            licence_accepted: see `OptionalModel`.
            description: for people.
            config: options with their defaults.
        """
        super().__init__(weights, labels, licence_accepted=licence_accepted, description=description, config=config)
        self._sessions: dict[str, _Theirs] = {}

    def prepare(self, image: PromptedImage) -> PreparedVolume:
        return as_intensities(image)

    def object_of(
        self, prepared: Any, device: str, value: int, signed: Signed, new: int, before: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        return self._theirs(device).answered(prepared, value, signed, new, before)

    def _theirs(self, device: str) -> _Theirs:
        if device not in self._sessions:
            self._sessions[device] = _Theirs.loaded(self.require(), device)
        return self._sessions[device]


@dataclass(eq=False)
class _Theirs:
    """Their session object, and what it was told last."""

    session: Any
    image: PreparedVolume | None = None
    value: int = 0
    told: tuple[Prompt, ...] = ()
    buffer: NDArray[np.uint8] | None = None

    @classmethod
    def loaded(cls, folder: Path, device: str) -> _Theirs:
        made = importlib.import_module(_MODULE).nnInteractiveInferenceSession(
            device=torch.device(device), use_torch_compile=False, verbose=False, do_autozoom=True
        )
        made.initialize_from_trained_model_folder(str(folder), 0, "checkpoint_final.pth")
        return cls(made)

    def answered(
        self, image: PreparedVolume, value: int, signed: Signed, new: int, before: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """The object after `signed` prompts, of which the last `new` were not told yet."""
        prompts = tuple(prompt for prompt, _ in signed)
        fresh = image is not self.image
        if fresh:
            spacing = [float(step) for step in image.grid.spacing_mm]
            self.session.set_image(np.asarray(image.voxels, dtype=np.float32)[None], {"spacing": spacing})
            self.buffer = np.zeros(image.grid.shape, dtype=np.uint8)
            self.session.set_target_buffer(self.buffer)
        follows = self.value == value and self.told == prompts[: len(prompts) - new]
        if fresh or not follows or self.buffer is None or not np.array_equal(self.buffer > 0, before):
            self._tell_again(signed[: len(signed) - new], before)
        # Forgotten until all went well: a call that breaks off leaves their state unknown.
        self.image, self.told = None, ()
        for number, (prompt, positive) in enumerate(signed[len(signed) - new :]):
            self._add(prompt, positive, run=number == new - 1)
        self.image, self.value, self.told = image, value, prompts
        return np.asarray(self.buffer) > 0

    def _tell_again(self, signed: Signed, before: NDArray[np.bool_]) -> None:
        self.session.reset_interactions()
        if before.any():
            self.session.add_initial_seg_interaction(before.astype(np.uint8), run_prediction=False)
        for prompt, positive in signed:
            if prompt.kind is not PromptKind.MASK:
                self._add(prompt, positive, run=False)

    def _add(self, prompt: Prompt, positive: bool, *, run: bool) -> None:
        if prompt.kind is PromptKind.POINT:
            at = tuple(int(v) for v in np.rint(prompt.points[0]))
            self.session.add_point_interaction(at, include_interaction=positive, run_prediction=run)
        elif prompt.kind is PromptKind.BOX:
            self.session.add_bbox_interaction(flat_box(prompt), include_interaction=positive, run_prediction=run)
        elif prompt.kind is PromptKind.MASK:
            self.session.add_initial_seg_interaction(self._whole(prompt), run_prediction=run)
        elif prompt.kind is PromptKind.LASSO:
            self.session.add_lasso_interaction(self._whole(prompt), include_interaction=positive, run_prediction=run)
        else:
            self.session.add_scribble_interaction(self._whole(prompt), include_interaction=positive, run_prediction=run)

    def _whole(self, prompt: Prompt) -> NDArray[np.uint8]:
        """The drawn voxels on the image's whole grid: what their interface takes."""
        whole = np.zeros(np.asarray(self.buffer).shape, dtype=np.uint8)
        mask = prompt.mask
        if mask is None and prompt.kind is PromptKind.LASSO:
            mask = filled_lasso(prompt.points)
        if mask is None:
            nearest = np.rint(connected_line(prompt.points)).astype(int)
            whole[tuple(np.clip(nearest, 0, np.asarray(whole.shape) - 1).T)] = 1
            return whole
        _paste(whole, mask)
        return whole


def _paste(whole: NDArray[np.uint8], mask: MaskBox) -> None:
    lo = np.clip(mask.lo, 0, whole.shape)
    hi = np.clip(mask.hi, lo, whole.shape)
    part = tuple(slice(int(a), int(b)) for a, b in zip(lo, hi, strict=True))
    inner = tuple(slice(int(a - c), int(b - c)) for a, b, c in zip(lo, hi, mask.lo, strict=True))
    whole[part][mask.voxels[inner]] = 1


def flat_box(prompt: Prompt) -> list[list[int]]:
    """Half-open ranges along each axis; a box with three extents is cut to its middle slice."""
    lo, hi = prompt.box
    found = [[int(a), int(b)] for a, b in zip(lo, hi, strict=True)]
    if all(b - a > 1 for a, b in found):
        middle = (found[2][0] + found[2][1] - 1) // 2
        found[2] = [middle, middle + 1]
    return found

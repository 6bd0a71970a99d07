"""The task that answers prompts: what an app author subclasses for clicks, scribbles and boxes.

    class Tumor(InteractiveTask):
        prompt_kinds = frozenset({PromptKind.POINT, PromptKind.BOX})

        def prepare(self, image): ...
        def predict(self, prepared, clicks): ...

It answers in interactive sessions, and through `/infer/` to clients that send all clicks with every request; what both
share is in `prompting`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import GridsDiffer, RequestCancelled, TaskFailed
from labelserver.domain.geometry import Grid
from labelserver.domain.interaction import LabelMap
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind, check_on
from labelserver.imaging.volumes import read_volume
from labelserver.tasks.base import numbered_labels
from labelserver.tasks.peer_prompts import BACKGROUND_SCRIBBLES, FOREGROUND_SCRIBBLES, prompts_of
from labelserver.tasks.prompted_images import image_of, prepared_of
from labelserver.tasks.prompting import ClickState, Prediction, PromptedImage, PromptTask, clipped, painted
from labelserver.tasks.writers import Writer

__all__ = ["ClickState", "InteractiveTask", "Prediction", "PromptedImage", "painted"]


class InteractiveTask(PromptTask):
    """Subclass, say in `prompt_kinds` what it takes, and write `prepare` and `predict`."""

    def __call__(
        self, request: dict[str, Any], callbacks: Mapping[Any, Callable[[Any], Any]] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Answer all prompts of `request` (see `peer_prompts`) at once, from an empty mask or an uploaded one.

        Returns:
            The mask's file (an array for an image that is none), and the JSON answer.

        Raises:
            InvalidPrompt: one that makes no sense. GridsDiffer: the uploaded mask is of another image.
            RequestCancelled: nobody waits for the answer any more.
        """
        started = time.perf_counter()
        image = request["image"]
        if isinstance(image, str | Path):
            prepared, grid = prepared_of(self, str(image)), image_of(str(image), voxels=not self.reads_path).grid
        else:
            grid = Grid(_three(image.shape), np.eye(4))
            prepared = self.prepare(PromptedImage(np.asarray(image), grid))
        loaded = time.perf_counter()
        labels = numbered_labels(self.labels)
        mask, drawn = self._uploaded(request, grid)
        prompts = [*prompts_of(request, labels, grid), *drawn]
        for prompt in prompts:
            check_on(prompt, grid, self.prompt_kinds | set(self.conversions))
        state = ClickState(tuple(prompts), len(prompts), mask, labels, dict(request))
        if prompts:
            mask = self._answered(prepared, state)
        done = time.perf_counter()
        data = {**request, "pred": mask, "pred_meta_dict": {"affine": grid.affine}, "labels": self.labels}
        data["image_path"] = str(image) if isinstance(image, str | Path) else ""
        data["pred"] = mask[..., 0] if grid.shape[2] == 1 else mask
        result, answer = Writer(label="pred")(data)
        written = time.perf_counter()
        answer["label_names"] = labels
        answer["centroids"] = {}
        answer["latencies"] = {
            "pre": round(loaded - started, 6),
            "infer": round(done - loaded, 6),
            "write": round(written - done, 6),
            "total": round(written - started, 6),
        }
        return result, answer

    def _answered(self, prepared: Any, state: ClickState) -> LabelMap:
        last: Prediction | None = None
        for prediction in self.predict(prepared, state):
            last = prediction
            if current_progress().should_stop():
                raise RequestCancelled("The request was cancelled.")
        if last is None:
            raise TaskFailed(f"{type(self).__name__}.predict gave no answer.")
        mask = np.array(state.mask)
        lo, values = clipped(last, mask.shape)
        mask[tuple(slice(a, a + n) for a, n in zip(lo, values.shape, strict=True))] = values
        return mask

    def _uploaded(self, request: Mapping[str, Any], grid: Grid) -> tuple[LabelMap, list[Prompt]]:
        """The mask to begin with, and scribbles that the uploaded label map holds beside it."""
        empty = np.zeros(grid.shape, dtype=np.uint8)
        file = request.get("label")
        if not isinstance(file, str) or not Path(file).is_absolute() or not Path(file).is_file():
            return empty, []
        volume = read_volume(Path(file))
        if volume.grid.shape != grid.shape:
            raise GridsDiffer(f"The uploaded label does not fit the image: {grid.difference(volume.grid)}.")
        told = {str(e.get("name")): e.get("id", e.get("idx")) for e in request.get("label_info") or []}
        prompts = []
        mask = np.where(volume.voxels < 256, volume.voxels, 0).astype(np.uint8)
        for name, positive in ((FOREGROUND_SCRIBBLES, True), (BACKGROUND_SCRIBBLES, False)):
            if isinstance(told.get(name), int):
                drawn = volume.voxels == told[name]
                mask[drawn] = 0
                if drawn.any():
                    chosen = request.get("selected_label_name")
                    label = chosen if isinstance(chosen, str) and chosen in numbered_labels(self.labels) else ""
                    box = MaskBox((0, 0, 0), drawn)
                    prompts.append(Prompt(PromptKind.SCRIBBLE, label, positive, mask=box))
        known = [value for value in numbered_labels(self.labels).values() if value > 0]
        return np.where(np.isin(mask, known), mask, 0).astype(np.uint8), prompts


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    i, j, k = (*shape[:3], 1, 1)[:3]
    return (int(i), int(j), int(k))

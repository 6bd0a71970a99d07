"""SAM 2.1 as a task: a picture is one image, a volume a film of its slices along the last axis.

Clicks and boxes go to the slice they lie in; the film predictor carries the object to the other slices, both ways. All
prompts are told anew for each answer, because its memory is not made for taking prompts back; the encoded slices are
what costs, and they are kept by its own state. Written against sam2 1.1 (``sam2.build_sam``).
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.tasks.base import Labels
from labelserver.tasks.click3d import intensity_range
from labelserver.tasks.object_task import ObjectTask, Signed
from labelserver.tasks.optional_models import WeightsLicence
from labelserver.tasks.patch_task import PreparedVolume, as_intensities
from labelserver.tasks.prompting import PromptedImage
from labelserver.tasks.transform_runs import stop_if_asked

#: Mean and deviation of the pictures that it was trained on, red, green and blue, 0 to 1.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: points that stand for a drawn region
_POINTS_OF_A_REGION = 6
#: slices to each side that an object is followed through at most
_REACH = 200


class Sam2(ObjectTask):
    """SAM 2.1: clicks and boxes in pictures, and in volumes slice by slice"""

    package: ClassVar[str] = "sam2"
    extra: ClassVar[str] = "sam2"
    licence: ClassVar[WeightsLicence] = WeightsLicence(
        "Apache-2.0", "https://github.com/facebookresearch/sam2", "Free to use, with its notice kept."
    )
    prompt_kinds: ClassVar[frozenset[PromptKind]] = frozenset(PromptKind) - {PromptKind.CLASS, PromptKind.MASK}
    conversions: ClassVar[Mapping[PromptKind, str]] = {
        PromptKind.SCRIBBLE: "some of its voxels as points",
        PromptKind.LASSO: "some of its voxels as points",
        PromptKind.BOX: "a 3-D box as a 2-D box in its middle slice; a negative one as a point",
    }

    def __init__(
        self,
        weights: str | Path | None,
        labels: Labels,
        *,
        licence_accepted: bool = False,
        model_config: str = "configs/sam2.1/sam2.1_hiera_t.yaml",
        intensity_window: tuple[float, float] | None = None,
        description: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the task.

        Args:
            weights: the published checkpoint, already on this machine.
            labels: names in order, or name -> value.
            licence_accepted: see `OptionalModel`.
            model_config: of the package; it belongs to the checkpoint's size.
            intensity_window: intensities that become black and white; None: the image's own range.
            description: for people.
            config: options with their defaults.
        """
        super().__init__(weights, labels, licence_accepted=licence_accepted, description=description, config=config)
        self._model_config = model_config
        self._window = intensity_window
        self._predictors: dict[str, Any] = {}

    def prepare(self, image: PromptedImage) -> Film:
        volume = as_intensities(image)
        return Film(volume, *intensity_range(volume.voxels, self._window))

    def object_of(
        self, prepared: Any, device: str, value: int, signed: Signed, new: int, before: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        with torch.inference_mode():
            return self._followed(prepared, device, by_slice(signed))

    def _followed(self, film: Film, device: str, asked: Mapping[int, SlicePrompts]) -> NDArray[np.bool_]:
        """The object in all slices."""
        inside = np.zeros(film.volume.grid.shape, dtype=bool)
        if not any(prompts.positive for prompts in asked.values()):
            return inside
        predictor = self._predictor(device)
        if film.state is None:
            film.state = film.opened(predictor)
        predictor.reset_state(film.state)
        for index, prompts in sorted(asked.items(), key=lambda item: not item[1].positive):
            _, _, scores = predictor.add_new_points_or_box(
                inference_state=film.state,
                frame_idx=index,
                obj_id=1,
                points=np.asarray(prompts.points, dtype=np.float32).reshape(-1, 2) if prompts.points else None,
                labels=np.asarray(prompts.labels, dtype=np.int32) if prompts.points else None,
                box=np.asarray(prompts.box, dtype=np.float32) if prompts.box else None,
            )
            inside[:, :, index] = _mask_of(scores)
        start = min(index for index, prompts in asked.items() if prompts.positive)
        for reverse in (False, True) if inside.shape[2] > 1 else ():
            for index, _, scores in predictor.propagate_in_video(
                film.state, start_frame_idx=start, max_frame_num_to_track=_REACH, reverse=reverse
            ):
                stop_if_asked()
                inside[:, :, index] = _mask_of(scores)
        return inside

    def _predictor(self, device: str) -> Any:
        if device not in self._predictors:
            weights = self.require()
            build = importlib.import_module("sam2.build_sam")
            self._predictors[device] = build.build_sam2_video_predictor(self._model_config, str(weights), device=device)
        return self._predictors[device]


@dataclass(eq=False)
class Film:
    """A volume as its slices, and what the predictor made of them."""

    volume: PreparedVolume
    low: float
    high: float
    state: Any = None

    def frames(self, size: int) -> torch.Tensor:
        """(slices, 3, size, size), scaled as in its training. A slice's rows are our second axis (SAM's y)."""
        mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in (_MEAN, _DEVIATION))
        voxels = self.volume.voxels
        made = torch.empty((voxels.shape[2], 3, size, size), dtype=torch.float32)
        for index in range(voxels.shape[2]):
            plane = np.asarray(voxels[:, :, index], dtype=np.float32).T
            grey = np.clip((plane - self.low) / (self.high - self.low), 0, 1)
            picture = torch.from_numpy(np.ascontiguousarray(grey))[None, None]
            resized = torch.nn.functional.interpolate(picture, (size, size), mode="bilinear", antialias=True)
            made[index] = (resized[0].expand(3, size, size) - mean) / deviation
        return made

    def opened(self, predictor: Any) -> Any:
        """The predictor's state of this film, without files: it would read a folder of JPEG files."""
        width, height = self.volume.grid.shape[:2]
        frames = self.frames(int(predictor.image_size))
        with _frames_given(frames, height, width):
            return predictor.init_state(video_path="", offload_video_to_cpu=True)


#: One at a time: while a film is opened, the package's reader of frames stands aside.
_opening = threading.Lock()


@contextmanager
def _frames_given(frames: torch.Tensor, height: int, width: int) -> Iterator[None]:
    module: Any = importlib.import_module("sam2.sam2_video_predictor")
    with _opening:
        reader = module.load_video_frames
        module.load_video_frames = lambda **_: (frames, height, width)
        try:
            yield
        finally:
            module.load_video_frames = reader


@dataclass(eq=False)
class SlicePrompts:
    """What was drawn in one slice. Points and boxes are (x, y): our first and second index."""

    points: list[tuple[float, float]]
    labels: list[int]
    box: list[float] | None = None

    @property
    def positive(self) -> bool:
        return self.box is not None or 1 in self.labels


def by_slice(signed: Signed) -> dict[int, SlicePrompts]:
    """Prompts with their signs, by the index along the last axis."""
    found: dict[int, SlicePrompts] = {}
    for prompt, positive in signed:
        if prompt.kind is PromptKind.BOX:
            (i0, j0, k0), (i1, j1, k1) = prompt.box
            own = found.setdefault((k0 + k1 - 1) // 2, SlicePrompts([], []))
            if positive:
                own.box = [float(i0), float(j0), float(i1 - 1), float(j1 - 1)]
            else:
                own.points.append(((i0 + i1 - 1) / 2, (j0 + j1 - 1) / 2))
                own.labels.append(0)
            continue
        for point in _spread(prompt):
            own = found.setdefault(round(float(point[2])), SlicePrompts([], []))
            own.points.append((float(point[0]), float(point[1])))
            own.labels.append(int(positive))
    return found


def _spread(prompt: Prompt) -> NDArray[np.float64]:
    points = prompt.mask.indices() if prompt.mask is not None else prompt.points
    step = max(1, len(points) // _POINTS_OF_A_REGION)
    chosen: NDArray[np.float64] = points[step // 2 :: step] if len(points) > 1 else points
    return chosen


def _mask_of(scores: torch.Tensor) -> NDArray[np.bool_]:
    """(1, 1, height, width) scores as (I, J)."""
    found: NDArray[np.bool_] = (scores[0, 0] > 0).cpu().numpy().T
    return found

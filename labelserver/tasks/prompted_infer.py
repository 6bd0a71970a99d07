"""Old-style infer tasks in interactive sessions: prompts become the keys that such tasks read, answers become boxes.

A task takes part if it says which prompts it takes (an attribute `prompt_kinds`), or if its type is one of those that
are guided by clicks or scribbles. Its own transforms open the image; the prefix cache keeps what they make of it. A
call asks for the answer as an array, so that nothing is written.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import TaskFailed
from labelserver.domain.geometry import Grid
from labelserver.domain.interaction import LabelMap
from labelserver.domain.json_types import JsonObject
from labelserver.domain.prompts import PromptKind
from labelserver.imaging import arrays
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.tasks.base import InferTask, InferType
from labelserver.tasks.peer_prompts import request_of, scribble_map
from labelserver.tasks.prompting import ClickState, Prediction, PromptedImage, PromptTask

_CLICKED = frozenset({PromptKind.POINT, PromptKind.SCRIBBLE, PromptKind.LASSO, PromptKind.BOX})
_SCRIBBLED = frozenset({PromptKind.SCRIBBLE, PromptKind.POINT, PromptKind.LASSO, PromptKind.BOX})
_BY_TYPE = {
    InferType.DEEPGROW.value: _CLICKED,
    InferType.DEEPEDIT.value: _CLICKED,
    InferType.SCRIBBLES.value: _SCRIBBLED,
}
_AS_CLICKS = {
    PromptKind.SCRIBBLE: "up to 64 of its voxels as clicks",
    PromptKind.LASSO: "its points as clicks",
    PromptKind.BOX: "the region of interest, and a click in its middle",
}
_AS_SCRIBBLES = {
    PromptKind.POINT: "a scribble of one voxel",
    PromptKind.LASSO: "a scribble along its outline",
    PromptKind.BOX: "the region of interest",
}


def declared_kinds(task: object) -> frozenset[PromptKind]:
    """The prompts that a task takes; empty if it takes part in no session."""
    declared = getattr(task, "prompt_kinds", None)
    if isinstance(declared, Iterable) and not isinstance(declared, str):
        return frozenset(PromptKind(str(getattr(kind, "value", kind))) for kind in declared)
    return _BY_TYPE.get(str(getattr(task, "type", "")), frozenset())


def as_prompted(task: InferTask) -> PromptTask | None:
    """`task` for interactive sessions; None if it takes no prompts."""
    if isinstance(task, PromptTask):
        return task
    return PromptedInfer(task) if declared_kinds(task) else None


def interactive_info(task: InferTask) -> dict[str, Any] | None:
    """What ``/info/`` says of `task` under ``interactive``; None if it takes no prompts."""
    prompted = as_prompted(task)
    return prompted.interactive_info() if prompted is not None else None


@dataclass(frozen=True, slots=True)
class _Opened:
    path: str
    grid: Grid


class PromptedInfer(PromptTask):
    """An old-style task as one for sessions."""

    reads_path = True

    def __init__(self, task: InferTask) -> None:
        super().__init__(task.type, task.labels, task.dimension, task.description)
        self._task = task
        self._scribbles = task.type == InferType.SCRIBBLES
        # Instance attributes over class attributes: each task has its own.
        self.prompt_kinds = declared_kinds(task)  # type: ignore[misc]
        converted = _AS_SCRIBBLES if self._scribbles else _AS_CLICKS
        self.conversions = {k: v for k, v in converted.items() if k in self.prompt_kinds}  # type: ignore[misc]
        self.dimensions = frozenset({2, 3}) if task.dimension == 2 else frozenset({3})  # type: ignore[misc]

    def is_valid(self) -> bool:
        return self._task.is_valid()

    def get_path(self, validate: bool = True) -> str | None:
        return self._task.get_path(validate)

    def prepare(self, image: PromptedImage) -> _Opened:
        return _Opened(_with_geometry(image.path), image.grid)

    def __call__(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return self._task(request)

    def predict(self, prepared: _Opened, clicks: ClickState) -> Iterator[Prediction]:
        """Ask the task with all prompts in force. Raises `TaskFailed` if its answer is not on the image's grid."""
        labels = {name: value for name, value in clicks.label_values.items() if value > 0}
        request: dict[str, Any] = {
            **clicks.params,
            **request_of(clicks.prompts, clicks.label_values, prepared.grid),
            "image": prepared.path,
            "result_write_to_file": False,
            "description": self.description,
        }
        if request.get("roi") is None:
            request["roi"] = []
        if not self._scribbles:
            values, params = self._asked(request, prepared)
        else:
            values, params = self._asked_with_scribbles(request, prepared, clicks, labels)
        yield Prediction((0, 0, 0), values, notes={k: v for k, v in params.items() if k == "latencies"})

    def _asked_with_scribbles(
        self, request: dict[str, Any], prepared: _Opened, clicks: ClickState, labels: Mapping[str, int]
    ) -> tuple[LabelMap, JsonObject]:
        """Scribbles travel as a label map in a file, which such tasks open. Value 1 of the answer is the label."""
        drawn, info = scribble_map(clicks.prompts, np.zeros(prepared.grid.shape, np.uint8), labels)
        named = clicks.prompts[-1].label if clicks.prompts else ""
        chosen = named or next(iter(labels), "")
        with tempfile.TemporaryDirectory(prefix="scribbles-") as folder:
            file = Path(folder) / "label.nii"
            write_volume(file, drawn, prepared.grid.affine, compress=False)
            request |= {"label": str(file), "label_info": info, "selected_label_name": chosen}
            values, params = self._asked(request, prepared)
        ours = labels.get(chosen, 1)
        return np.where(values > 0, np.uint8(ours), np.where(clicks.mask == ours, 0, clicks.mask)), params

    def _asked(self, request: dict[str, Any], prepared: _Opened) -> tuple[LabelMap, JsonObject]:
        result, params = self._task(request)
        if isinstance(result, str | Path):
            values = _from_file(Path(result))
        elif result is None:
            raise TaskFailed(f"{type(self._task).__name__} answered no mask, so it cannot take part in a session.")
        else:
            values = _array(result)
        return _on_grid(values, prepared.grid, type(self._task).__name__), dict(params or {})


def _with_geometry(path: str) -> str:
    """An array that a client sent as a NIfTI file beside it: other readers know no spacing of arrays. Else `path`."""
    source = Path(path)
    if source.suffix != arrays.EXTENSION:
        return path
    target = source.with_suffix(".nii")
    if not target.exists():
        volume = read_volume(source)
        kept = volume.voxels.dtype.kind in "iu" and volume.voxels.dtype.itemsize < 8
        voxels = volume.voxels if kept or volume.voxels.dtype == bool else volume.voxels.astype(np.float32)
        half = target.with_name(f"{uuid.uuid4().hex}.nii")
        write_volume(half, voxels, volume.grid.affine, compress=False)
        half.replace(target)
    return str(target)


def _from_file(path: Path) -> NDArray[Any]:
    try:
        return read_volume(path).voxels
    finally:
        path.unlink(missing_ok=True)


def _array(result: Any) -> NDArray[Any]:
    tensor = result.detach().cpu() if hasattr(result, "detach") else result
    return np.asarray(tensor)


def _on_grid(values: NDArray[Any], grid: Grid, name: str) -> LabelMap:
    """(I, J, K) whole numbers below 256."""
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[..., None]
    if values.shape != grid.shape:
        raise TaskFailed(
            f"{name} answered a mask of shape {values.shape} for an image of shape {grid.shape}. "
            "Let its post transforms bring it back (Restored)."
        )
    return np.asarray(values).astype(np.uint8)

"""The simulated user at work: objects of labelled studies, one session each, and what it measured.

A `Clicker` answers prompts, whichever way: `InProcessClicker` calls the task directly, the command line has another
that asks a running server. Results are plain JSON objects, one an object, so that a run can be taken up again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import GridsDiffer, TaskFailed
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId
from labelserver.domain.json_types import JsonObject
from labelserver.domain.prompts import Prompt
from labelserver.imaging.formats import split_ext
from labelserver.imaging.volumes import read_volume
from labelserver.learning import click_metrics as metrics
from labelserver.tasks.base import numbered_labels
from labelserver.tasks.click_simulator import SimulatedUser
from labelserver.tasks.prompting import ClickState, PromptedImage, PromptTask

#: Side of a usual window in voxels; a prompt should not change what is 1.5 of it away, unless it zoomed out.
_WINDOW = 64
_FAR = 1.5 * _WINDOW


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What came back for one prompt. `mask` is the whole object mask and may be reused by the next answer."""

    mask: NDArray[np.bool_]  #: (I, J, K)
    times: metrics.Times
    zoom: float = 1.0


class Clicker(Protocol):
    """Someone who keeps a session."""

    def open(self, image: Path, label: str, image_id: ImageId) -> Grid:
        """Begin with an empty mask of `label`; an earlier session ends."""

    def ask(self, prompt: Prompt) -> Answered:
        """Send `prompt` and wait for the final answer."""

    def close(self) -> None:
        """End the session."""


class InProcessClicker:
    """Calls a task in this process: no server, so server time is engine time."""

    def __init__(self, task: PromptTask, params: JsonObject | None = None) -> None:
        self._task, self._params = task, params or {}
        self._labels = numbered_labels(task.labels)
        self._image: Path | None = None

    def open(self, image: Path, label: str, image_id: ImageId) -> Grid:
        if image != self._image:
            volume = read_volume(image)
            self._grid = volume.grid
            self._prepared = self._task.prepare(PromptedImage(volume.voxels, volume.grid, str(image)))
            self._image = image
        self._prompts: list[Prompt] = []
        self._mask = np.zeros(self._grid.shape, dtype=np.uint8)
        self._label = label if label in self._labels else ""
        return self._grid

    def ask(self, prompt: Prompt) -> Answered:
        begun = time.perf_counter()
        self._prompts.append(replace(prompt, label=self._label))
        state = ClickState(tuple(self._prompts), 1, self._mask, self._labels, self._params)
        given = list(self._task.predict(self._prepared, state))
        if not given:
            raise TaskFailed("The model gave no answer.")
        last = given[-1]
        box = tuple(slice(a, a + n) for a, n in zip(last.lo, last.values.shape, strict=True))
        self._mask[box] = last.values
        spent = time.perf_counter() - begun
        mask = self._mask == state.value_of(self._prompts[-1])
        zoom = last.notes.get("zoom")
        return Answered(mask, metrics.Times(spent, spent), float(zoom) if isinstance(zoom, int | float) else 1.0)

    def close(self) -> None:
        self._prompts = []


@dataclass(frozen=True, slots=True)
class Object:
    """Something to segment: one label value of one study."""

    image: Path
    reference: Path
    image_id: ImageId
    label: str
    value: int

    @property
    def key(self) -> str:
        return f"{self.image_id}|{self.label}"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the user behaves."""

    clicks: int = 10
    user: SimulatedUser = field(default_factory=SimulatedUser)

    def user_for(self, one: Object) -> SimulatedUser:
        """A user of its own for each object, so that results do not depend on the order."""
        seed = sum(ord(letter) * (position + 1) for position, letter in enumerate(one.key)) + 1_000_003 * self.user.seed
        return SimulatedUser(seed % 2**32, self.user.jitter, self.user.wrong, self.user.first, self.user.then)


def objects_of(
    studies: Path, references: Path, names: Mapping[int, str], wanted: frozenset[str] = frozenset()
) -> Iterator[Object]:
    """All labels of all studies that have a reference of the same relative path, in order.

    Args:
        studies: folder of images.
        references: folder of label maps.
        names: voxel value -> name; a value without one is called by its number.
        wanted: names; empty: all.
    """
    for reference in sorted(path for path in references.rglob("*") if path.is_file()):
        relative = reference.relative_to(references)
        image = studies / relative
        if not image.is_file() or relative.suffix == ".json":
            continue
        for value in np.unique(read_volume(reference).voxels):
            name = names.get(int(value), str(int(value)))
            if value > 0 and (not wanted or name in wanted):
                yield Object(image, reference, ImageId(split_ext(relative.as_posix())[0]), name, int(value))


def clicked(clicker: Clicker, one: Object, plan: Plan) -> JsonObject:
    """One session at `one`: qualities, times and changes after each prompt.

    Raises:
        GridsDiffer: the reference is not on the image's grid.
    """
    reference = read_volume(one.reference)
    truth = np.asarray(reference.voxels == one.value)
    grid = clicker.open(one.image, one.label, one.image_id)
    try:
        if truth.shape != grid.shape:
            raise GridsDiffer(f"{one.reference.name} does not fit its image: {grid.difference(reference.grid)}.")
        return _session(clicker, one, plan, truth, grid)
    finally:
        clicker.close()


def _session(clicker: Clicker, one: Object, plan: Plan, truth: NDArray[np.bool_], grid: Grid) -> JsonObject:
    user = plan.user_for(one)
    mask = np.zeros(truth.shape, dtype=bool)
    dices, surfaces, far, zooms, times = [], [], [], [], []
    for _ in range(plan.clicks):
        prompt = user.next_prompt(mask, truth, one.label)
        if prompt is None:
            break
        answer = clicker.ask(prompt)
        lo, hi = prompt.box
        middle = [(a + b - 1) / 2 for a, b in zip(lo, hi, strict=True)]
        far.append(metrics.far_changes(mask, answer.mask, middle, _FAR * max(1.0, answer.zoom)))
        mask = np.array(answer.mask)
        dices.append(round(metrics.dice(mask, truth), 5))
        surfaces.append(round(metrics.surface_dice(mask, truth, grid.spacing_mm), 5))
        zooms.append(answer.zoom)
        times.append([round(v, 5) for v in (answer.times.engine_s, answer.times.server_s, answer.times.wire_s)])
    return {
        "image": str(one.image_id),
        "label": one.label,
        "voxels": int(truth.sum()),
        "dice": list(dices),
        "nsd": list(surfaces),
        "far_changes": list(far),
        "zoom": list(zooms),
        "seconds": [list(row) for row in times],
    }


def summarised(results: list[JsonObject], clicks: int) -> JsonObject:
    """Over all objects, and by label."""
    dices = [_numbers(one["dice"]) for one in results]
    rows = [_numbers(row) for one in results for row in _rows(one["seconds"])]
    found = metrics.summary(
        dices, [_numbers(one["nsd"]) for one in results], [metrics.Times(*row) for row in rows], clicks
    )
    found["far_changes"] = int(sum(sum(_numbers(one["far_changes"])) for one in results))
    steps = [step for step in metrics.STEPS if step <= clicks]
    found["labels"] = {**metrics.by_label([str(one["label"]) for one in results], dices, steps)}
    return found


def _rows(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _numbers(value: object) -> list[float]:
    return [float(number) for number in value] if isinstance(value, list) else []

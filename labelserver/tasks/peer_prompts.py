"""Prompts as old clients and old tasks write them, and back: keys of a request and points in lists.

    foreground, background      lists of voxel indices: one label
    <name of a label>           a list for each label; `background` among them takes back
    roi                         [i0, i1, j0, j1, k0, k1], or the corners of a box in a slice [i0, j0, i1, j1]
    label                       the name of the active label, or the file of a label map with scribbles

Indices are those of the stored image in its own axis order (HTTP contract, table of inference parameters).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import InvalidPrompt
from labelserver.domain.geometry import Grid
from labelserver.domain.interaction import LabelMap
from labelserver.domain.prompts import MaskBox, Points, Prompt, PromptFrame, PromptKind, to_voxels

FOREGROUND, BACKGROUND = "foreground", "background"
BACKGROUND_SCRIBBLES, FOREGROUND_SCRIBBLES = "background_scribbles", "foreground_scribbles"


def prompts_of(request: Mapping[str, Any], labels: Mapping[str, int], grid: Grid) -> list[Prompt]:
    """The prompts in `request`, for a task with these labels.

    Raises:
        InvalidPrompt: a list that is none of points.
    """
    active = request.get("label")
    label = active if isinstance(active, str) and active in labels else next((n for n, v in labels.items() if v), "")
    found = [*_points(request.get(FOREGROUND), label, True, grid)]
    for name, value in labels.items():
        if name not in (FOREGROUND, BACKGROUND) and value > 0:
            found += _points(request.get(name), name, True, grid)
    found += _points(request.get(BACKGROUND), label, False, grid)
    box = request.get("roi")
    if isinstance(box, Sequence) and not isinstance(box, str) and len(box) in (4, 6):
        found.append(_box(list(box), label, grid))
    return found


def request_of(prompts: Sequence[Prompt], labels: Mapping[str, int], grid: Grid) -> dict[str, Any]:
    """The keys that an old task reads: both lists, a list for each label, the active label, a region.

    Scribbles become points, lassos the points of their outline or mask, boxes the region (`roi`, 6 numbers) and a click
    in their middle.
    """
    flat = grid.shape[2] == 1
    named = [name for name, value in labels.items() if value > 0]
    lists: dict[str, list[list[int]]] = {name: [] for name in (*named, BACKGROUND, FOREGROUND)}
    built: dict[str, Any] = {}
    for prompt in prompts:
        label = prompt.label or next(iter(named), "")
        points = _voxels_of(prompt, grid)
        if prompt.kind is PromptKind.BOX:
            (i0, j0, k0), (i1, j1, k1) = prompt.box
            built["roi"] = [i0, i1, j0, j1, k0, k1]
        listed = [[int(v) for v in (point[:2] if flat else point)] for point in points]
        if prompt.positive:
            lists[FOREGROUND] += listed
            if label in lists and label not in (FOREGROUND, BACKGROUND):
                lists[label] += listed
        else:
            lists[BACKGROUND] += listed
    if prompts:
        built["label"] = prompts[-1].label or next(iter(named), "")
    return {**built, **lists}


def scribble_map(prompts: Sequence[Prompt], mask: LabelMap, labels: Mapping[str, int]) -> tuple[LabelMap, list[Any]]:
    """A label map with the current mask and the scribbles, and the ``label_info`` that names their values."""
    values = [value for value in labels.values() if value > 0]
    away, here = max(values, default=0) + 1, max(values, default=0) + 2
    if not values:
        away, here = 2, 3
    drawn: LabelMap = np.array(mask)
    for prompt in prompts:
        value = here if prompt.positive else away
        if prompt.mask is not None:
            box = tuple(slice(a, b) for a, b in zip(prompt.mask.lo, prompt.mask.hi, strict=True))
            drawn[box][prompt.mask.voxels] = value
        elif len(prompt.points):
            nearest = np.clip(np.rint(prompt.points).astype(int), 0, np.asarray(mask.shape) - 1)
            drawn[tuple(nearest.T)] = value
    info = [{"name": name, "id": value} for name, value in labels.items() if value > 0]
    return drawn, [*info, {"name": BACKGROUND_SCRIBBLES, "id": away}, {"name": FOREGROUND_SCRIBBLES, "id": here}]


def _points(value: Any, label: str, positive: bool, grid: Grid) -> list[Prompt]:
    if value in (None, "", []):
        return []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidPrompt("Clicks are lists of voxel indices, for example [[120, 96, 40]].")
    points = to_voxels(value, PromptFrame.VOXEL, grid)
    return [Prompt(PromptKind.POINT, label, positive, point[None]) for point in points]


def _box(numbers: list[Any], label: str, grid: Grid) -> Prompt:
    if len(numbers) == 6:
        corners = [numbers[0::2], [numbers[i] - 1 if numbers[i] > numbers[i - 1] else numbers[i] for i in (1, 3, 5)]]
    else:
        corners = [[*numbers[:2], 0], [*numbers[2:], 0]]
    return Prompt(PromptKind.BOX, label, True, to_voxels(corners, PromptFrame.VOXEL, grid))


def _voxels_of(prompt: Prompt, grid: Grid) -> NDArray[np.int64]:
    """(N, 3) whole indices that stand for the prompt."""
    if prompt.kind is PromptKind.BOX:
        points = prompt.points.mean(axis=0, keepdims=True)
    elif prompt.mask is not None:
        points = _spread(prompt.mask)
    else:
        points = prompt.points
    nearest: NDArray[np.int64] = np.clip(np.rint(points), 0, np.asarray(grid.shape) - 1).astype(np.int64)
    return nearest


#: points that stand for a drawn mask; an old task makes a bump of each
_MANY_POINTS = 64


def _spread(mask: MaskBox) -> Points:
    indices = mask.indices()
    step = max(1, len(indices) // _MANY_POINTS)
    return indices[step // 2 :: step]

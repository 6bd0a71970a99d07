"""Prompts as they lie on a window: what every click engine draws its channels or seeds from.

A prompt is mapped, never resampled: a thin scribble on a coarse window stays connected, because each of its voxels
marks the patch voxel it falls into.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.tasks.windows import PatchMask, Window


@dataclass(frozen=True, slots=True, eq=False)
class Hint:
    """One prompt on a patch. `age` is 0 for the newest prompt, 1 for the one before, and so on."""

    kind: PromptKind
    positive: bool
    region: PatchMask  #: (A, B, C); empty if the prompt lies outside
    age: int = 0
    new: bool = False  #: came with this question
    flat_axis: int | None = None  #: of a 2-D box: the axis along which it has no extent


def hints_on(window: Window, prompts: Sequence[tuple[Prompt, bool]], new: int = 1) -> list[Hint]:
    """`prompts` with their signs, oldest first, the last `new` of them new, on `window`; without those outside."""
    found = []
    for number, (prompt, positive) in enumerate(prompts):
        if prompt.kind is PromptKind.CLASS:
            continue
        region = region_on(window, prompt)
        if region.any():
            age = len(prompts) - 1 - number
            found.append(Hint(prompt.kind, positive, region, age, age < new, _flat_axis(prompt)))
    return found


def region_on(window: Window, prompt: Prompt) -> PatchMask:
    """Which patch voxels `prompt` marks."""
    if prompt.mask is not None:
        return _marked(window, prompt.mask)
    if prompt.kind is PromptKind.BOX:
        return _box_on(window, prompt.points)
    if prompt.kind is PromptKind.LASSO:
        return _marked(window, filled_lasso(prompt.points))
    points = connected_line(prompt.points) if prompt.kind is PromptKind.SCRIBBLE else prompt.points
    return _at(window, points)


def connected_line(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) points with further ones between neighbours, at most a voxel apart."""
    if len(points) < 2:
        return points
    gaps = np.abs(np.diff(points, axis=0)).max(axis=1)
    pieces = []
    for start, end, gap in zip(points[:-1], points[1:], gaps, strict=True):
        count = max(1, int(np.ceil(gap)))
        pieces.append(start + (end - start) * (np.arange(count) / count)[:, None])
    return np.concatenate([*pieces, points[-1:]])


def filled_lasso(points: NDArray[np.float64]) -> MaskBox:
    """The voxels inside the outline `points` (N, 3), in the slice of the axis along which they spread least."""
    axis = int(np.ptp(points, axis=0).argmin())
    plane = [other for other in range(3) if other != axis]
    outline = points[:, plane]
    lo = np.floor(outline.min(axis=0)).astype(int)
    size = np.ceil(outline.max(axis=0)).astype(int) - lo + 1
    inside = np.zeros((int(size[0]), int(size[1])), dtype=bool)
    rows, columns = polygon(outline[:, 0] - lo[0], outline[:, 1] - lo[1], inside.shape)
    inside[rows, columns] = True
    nearest = np.rint(connected_line(outline_closed(outline))).astype(int) - lo
    inside[nearest[:, 0], nearest[:, 1]] = True
    corner = [0, 0, 0]
    corner[plane[0]], corner[plane[1]] = int(lo[0]), int(lo[1])
    corner[axis] = int(np.rint(points[:, axis].mean()))
    return MaskBox((corner[0], corner[1], corner[2]), np.expand_dims(inside, axis))


def outline_closed(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The line back to its first point."""
    return np.concatenate([points, points[:1]])


def extent(prompts: Iterable[Prompt]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Lowest and highest voxel index (3,) of what was drawn; None if nothing has a place."""
    boxes = [prompt.box for prompt in prompts if prompt.kind is not PromptKind.CLASS]
    if not boxes:
        return None
    lo = np.min([box[0] for box in boxes], axis=0).astype(np.float64)
    hi = np.max([box[1] for box in boxes], axis=0).astype(np.float64) - 1
    return lo, hi


def _flat_axis(prompt: Prompt) -> int | None:
    if prompt.kind is not PromptKind.BOX or prompt.mask is not None:
        return None
    size = np.abs(np.rint(prompt.points[1]) - np.rint(prompt.points[0]))
    return int(size.argmin()) if (size == 0).any() else None


def patch_voxels(places: NDArray[np.float64]) -> NDArray[np.int_]:
    """The nearest patch voxel of each voxel of a region; half way between two the lower one.

    numpy's rounding takes the even one: of a region half way between patch voxels every second row would be left out.
    """
    nearest: NDArray[np.int_] = np.ceil(places - 0.5).astype(int)
    return nearest


def _at(window: Window, points: NDArray[np.float64]) -> PatchMask:
    return _set(window, np.rint(window.to_patch(points)).astype(int))


def _set(window: Window, nearest: NDArray[np.int_]) -> PatchMask:
    region = np.zeros(window.shape, dtype=bool)
    inside = ((nearest >= 0) & (nearest < np.asarray(window.shape))).all(axis=1)
    region[tuple(nearest[inside].T)] = True
    return region


def _marked(window: Window, mask: MaskBox) -> PatchMask:
    """Both ways: each True voxel marks where it falls, and each patch voxel looks up the voxel it lies in."""
    region = _set(window, patch_voxels(window.to_patch(mask.indices())))
    lookups, kept = [], []
    for axis in range(3):
        nearest = np.floor(window.to_image(axis) + 0.5).astype(int) - mask.lo[axis]
        inside = (nearest >= 0) & (nearest < mask.voxels.shape[axis])
        kept.append(np.flatnonzero(inside))
        lookups.append(nearest[inside])
    region[np.ix_(*kept)] |= mask.voxels[np.ix_(*lookups)]
    return region


def _box_on(window: Window, corners: NDArray[np.float64]) -> PatchMask:
    region = np.zeros(window.shape, dtype=bool)
    lo = np.rint(window.to_patch(np.rint(corners.min(axis=0))[None]))[0].astype(int)
    hi = np.rint(window.to_patch(np.rint(corners.max(axis=0))[None]))[0].astype(int) + 1
    start = np.clip(lo, 0, window.shape)
    stop = np.clip(hi, 0, window.shape)
    region[tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))] = True
    return region

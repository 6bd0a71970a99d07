"""Fixed-shape views of an image: what a click engine computes on, so that a click costs the same in any volume.

A `Window` says which part of the voxel grid a patch of constant shape shows, and how coarsely. Images and masks are
sampled from it (block mean, then linear), prompts are mapped into it, and answers are mapped back onto the voxels that
it covers. Axes of the patch are the axes of the stored image; who needs anatomical
axes turns the patch (`to_ras`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.geometry import Affine, Grid

Patch = NDArray[np.float32]  #: (A, B, C) of a window
PatchMask = NDArray[np.bool_]  #: (A, B, C) of a window
Box = tuple[tuple[int, int, int], tuple[int, int, int]]  #: [lo, hi) in voxels

#: How much coarser than the finest axis the image may be along another before patches sample it more densely there.
_MOST_ANISOTROPIC = 6.0


@dataclass(frozen=True, slots=True)
class Window:
    """`shape` patch voxels, of which neighbours lie `step` image voxels apart, centred on `center_ijk`."""

    shape: tuple[int, int, int]
    center_ijk: tuple[float, float, float]
    step: tuple[float, float, float]
    zoom: float = 1.0  #: how much coarser than the finest view

    def to_patch(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 3) voxel indices as (N, 3) patch indices, not rounded."""
        middle = (np.asarray(self.shape) - 1) / 2
        moved: NDArray[np.float64] = (points - np.asarray(self.center_ijk)) / np.asarray(self.step) + middle
        return moved

    def to_image(self, axis: int) -> NDArray[np.float64]:
        """Voxel index along `axis` of each patch voxel, not rounded."""
        size = self.shape[axis]
        places: NDArray[np.float64] = np.arange(size, dtype=np.float64)
        return (places - (size - 1) / 2) * self.step[axis] + self.center_ijk[axis]

    def box(self, shape: tuple[int, int, int]) -> Box:
        """The image's voxels whose centres lie inside the window; empty where it misses the image."""
        lo, hi = [], []
        for axis in range(3):
            half = self.shape[axis] * self.step[axis] / 2
            first = int(np.ceil(self.center_ijk[axis] - half))
            last = int(np.floor(self.center_ijk[axis] + half))
            lo.append(min(max(first, 0), shape[axis]))
            hi.append(max(min(last + 1, shape[axis]), lo[-1]))
        return (lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2])

    def covers(self, shape: tuple[int, int, int]) -> bool:
        """Whether all of an image of `shape` lies inside."""
        return self.box(shape) == ((0, 0, 0), shape)


def window_at(
    center_ijk: NDArray[np.float64], grid: Grid, roi: int, zoom: float = 1.0, *, spacing_mm: float | None = None
) -> Window:
    """The window of `roi` voxels a side (1 along a flat axis) round `center_ijk`.

    Args:
        center_ijk: (3,) voxel indices.
        grid: of the image.
        roi: patch voxels along each axis.
        zoom: 1 shows the finest view.
        spacing_mm: voxel size of the finest view; None: the finest spacing of the grid, so that no detail is lost.
            Patches are isotropic, except where a grid is extremely thick along an axis.
    """
    spacing = np.asarray(grid.spacing_mm)
    flat = np.asarray(grid.shape) == 1
    finest = float(spacing[~flat].min()) if not flat.all() else 1.0
    wanted = finest if spacing_mm is None else spacing_mm
    step = np.maximum(wanted / spacing, 1.0 / _MOST_ANISOTROPIC) * zoom
    step = np.where(flat, 1.0, step)
    shape = np.where(flat, 1, roi)
    # Where patch and image are equally fine they share their voxel centres: nothing is blurred between two.
    aligned = (step == 1) & ~flat & (roi % 2 == 0)
    center = np.where(flat, 0.0, np.where(aligned, np.floor(center_ijk) + 0.5, center_ijk))
    return Window(
        (int(shape[0]), int(shape[1]), int(shape[2])),
        (float(center[0]), float(center[1]), float(center[2])),
        (float(step[0]), float(step[1]), float(step[2])),
        zoom,
    )


def sampled(array: NDArray[np.generic], window: Window) -> Patch:
    """`array` (I, J, K) on the window: mean over blocks where it is coarser, linear between, edges repeated."""
    blocks = [max(1, round(step)) for step in window.step]
    pieces, places = [], []
    for axis in range(3):
        block, size = blocks[axis], array.shape[axis]
        at = window.to_image(axis)
        # First voxel of the first and last block that a patch voxel needs, moved inside the image.
        low = int(np.clip(np.floor(at.min()) - block, 0, size - 1))
        high = int(np.clip(np.ceil(at.max()) + block + 1, low + 1, size))
        pieces.append(slice(low, high))
        places.append((at - low - (block - 1) / 2) / block)
    found: NDArray[np.generic] = array[tuple(pieces)]
    for axis in range(3):
        found = _block_mean(found, axis, blocks[axis])
        found = _linear(found, axis, places[axis])
    return np.ascontiguousarray(found, dtype=np.float32)


def sampled_mask(mask: PatchMask, window: Window) -> Patch:
    """Share of `mask` (I, J, K) at each patch voxel, 0 outside the image."""
    found = sampled(mask, window)
    inside = inside_image(mask.shape, window)
    return found if inside.all() else np.where(inside, found, np.float32(0))


def inside_image(shape: tuple[int, ...], window: Window) -> PatchMask:
    """Which patch voxels lie on the image."""
    axes = []
    for axis in range(3):
        at = window.to_image(axis)
        axes.append((at > -0.75) & (at < shape[axis] - 0.25))
    return np.asarray(axes[0][:, None, None] & axes[1][None, :, None] & axes[2][None, None, :])


def unsampled(patch: Patch, window: Window, box: Box) -> Patch:
    """The values of `patch` at the voxels of `box`, linear between patch voxels, edges repeated."""
    found: NDArray[np.generic] = patch
    for axis in range(3):
        place: NDArray[np.float64] = np.arange(box[0][axis], box[1][axis], dtype=np.float64)
        place = (place - window.center_ijk[axis]) / window.step[axis] + (window.shape[axis] - 1) / 2
        found = _linear(found, axis, place)
    return np.ascontiguousarray(found, dtype=np.float32)


def _block_mean(array: NDArray[np.generic], axis: int, block: int) -> NDArray[np.generic]:
    """Mean of `block` neighbours along `axis`; a shorter last block is filled with its last value."""
    if block == 1:
        return array
    size = array.shape[axis]
    missing = -size % block
    if missing:
        last = np.take(array, [size - 1] * missing, axis=axis)
        array = np.concatenate([array, last], axis=axis)
    shape = (*array.shape[:axis], array.shape[axis] // block, block, *array.shape[axis + 1 :])
    mean: NDArray[np.generic] = array.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return mean


def _linear(array: NDArray[np.generic], axis: int, place: NDArray[np.float64]) -> NDArray[np.generic]:
    """`array` at the fractional indices `place` along `axis`, edges repeated."""
    size = array.shape[axis]
    place = np.clip(place, 0, size - 1)
    low = np.floor(place).astype(np.intp)
    weight = (place - low).astype(np.float32)
    first = np.take(array, low, axis=axis).astype(np.float32, copy=False)
    if not weight.any():
        return first
    shape = [1, 1, 1]
    shape[axis] = len(place)
    weight = weight.reshape(shape)
    second = np.take(array, np.minimum(low + 1, size - 1), axis=axis).astype(np.float32, copy=False)
    mixed: NDArray[np.generic] = first + (second - first) * weight
    return mixed


def bounds(mask: PatchMask) -> Box | None:
    """The box [lo, hi) of what is True; None if nothing is."""
    lo, hi = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        if not hit.size:
            return None
        lo.append(int(hit[0]))
        hi.append(int(hit[-1]) + 1)
    return (lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2])


def to_ras(affine: Affine) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How to turn an array on `affine` so that its axes run nearest to right, anterior and superior.

    Returns:
        (order, flips): transpose by `order`, then flip the axes `flips`.
    """
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, order = [0, 1, 2], [0, 0, 0]
    # The clearest axis chooses first, so that an oblique grid gets each world axis once.
    for world in np.argsort(-np.abs(direction).max(axis=1)):
        best = max(left, key=lambda axis: abs(direction[world, axis]))
        order[int(world)] = best
        left.remove(best)
    flips = tuple(world for world in range(3) if direction[world, order[world]] < 0)
    return tuple(order), flips

"""Class scores on one grid to a label map on another, in bounded memory.

Grids that share their axes up to order, direction and spacing (what orientation, spacing and crop transforms make) are
handled axis by axis; linear interpolation is separable there. Any other pair of grids goes through a dense sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from labelserver.domain.errors import TaskFailed
from labelserver.tasks.transform_runs import stop_if_asked

#: bytes of interpolated scores held at a time
SLAB_BYTES = 128 * 2**20
#: voxels by which an axis may drift sideways over its whole length; affines carry float32 rounding
_MAX_DRIFT = 0.02
#: voxels; a centre this far outside the outermost one still belongs to its cell
_MARGIN = 0.5 + 1e-4


@dataclass(frozen=True, slots=True)
class _Axis:
    """How positions along one target axis read one source axis: (n,) lower and upper index and weight of the upper."""

    source: int
    lower: torch.Tensor
    upper: torch.Tensor
    weight: torch.Tensor
    inside: torch.Tensor  #: (n,) bool


def argmax_on_grid(
    scores: torch.Tensor, source_affine: torch.Tensor, shape: Sequence[int], target_affine: torch.Tensor
) -> torch.Tensor:
    """The class of the highest score at each voxel of the target grid.

    A single channel is taken as a logit of class 1 (positive means 1).

    Args:
        scores: (C, i, j, k) float; unnormalised is fine, the order is what counts.
        source_affine: (4, 4) float64 voxel to RAS+ mm of the scores.
        shape: (I, J, K) of the target.
        target_affine: (4, 4) float64 voxel to RAS+ mm of the target.

    Returns:
        (I, J, K) uint8, or int32 beyond 255 classes, on the CPU; 0 where the source does not reach.

    Raises:
        TaskFailed: scores are not (C, i, j, k).
    """
    if scores.ndim != 4 or len(shape) != 3:
        raise TaskFailed(f"Scores of shape {tuple(scores.shape)} cannot be put on a grid of {tuple(shape)} voxels.")
    to_source = torch.linalg.solve(source_affine, target_affine)
    dtype = torch.uint8 if scores.shape[0] <= 256 else torch.int32
    axes = _axes(to_source, scores.shape[1:], shape)
    result = torch.zeros(tuple(shape), dtype=dtype)
    per_slice = 4 * max(scores.shape[0], 1) * shape[0] * shape[1] * (1 if axes else 4)
    step = max(1, SLAB_BYTES // max(per_slice, 1))
    for start in range(0, shape[2], step):
        stop_if_asked()
        stop = min(start + step, shape[2])
        if axes:
            slab, inside = _separable(scores, axes, start, stop)
        else:
            slab, inside = _dense(scores, to_source, shape, start, stop)
        classes = slab.argmax(0) if slab.shape[0] > 1 else (slab[0] > 0)
        result[:, :, start:stop] = torch.where(inside, classes.to(torch.int64), 0).to(dtype).cpu()
    return result


def _axes(to_source: torch.Tensor, source_shape: Sequence[int], shape: Sequence[int]) -> tuple[_Axis, ...]:
    """One `_Axis` for each target axis, or nothing if the grids are turned against each other."""
    linear, offset = to_source[:3, :3], to_source[:3, 3]
    extent = torch.as_tensor([max(size - 1, 1) for size in shape], dtype=torch.float64)
    drift = linear.abs() * extent
    source_of = linear.abs().argmax(0)
    if len(set(source_of.tolist())) != 3:
        return ()
    aligned = torch.zeros_like(drift, dtype=torch.bool)
    aligned[source_of, torch.arange(3)] = True
    if bool((drift[~aligned] > _MAX_DRIFT).any()):
        return ()
    result = []
    for axis in range(3):
        source = int(source_of[axis])
        size = source_shape[source]
        position = torch.arange(shape[axis], dtype=torch.float64) * linear[source, axis] + offset[source]
        inside = (position >= -_MARGIN) & (position <= size - 1 + _MARGIN)
        position = position.clamp(0, size - 1)
        lower = position.floor().long().clamp(max=size - 1)
        upper = (lower + 1).clamp(max=size - 1)
        result.append(_Axis(source, lower, upper, (position - lower).float(), inside))
    return tuple(result)


def _separable(
    scores: torch.Tensor, axes: tuple[_Axis, ...], start: int, stop: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (C, I, J, n) of target slices start..stop, and which voxels (I, J, n) the source reaches."""
    device = scores.device
    last = axes[2]
    slab = _lerp(scores, _part(last, start, stop), device)
    slab = _lerp(slab, axes[1], device)
    slab = _lerp(slab, axes[0], device)
    slab = slab.permute(0, *(axis.source + 1 for axis in axes))
    inside = axes[0].inside[:, None, None] & axes[1].inside[None, :, None] & last.inside[None, None, start:stop]
    return slab, inside.to(device)


def _part(axis: _Axis, start: int, stop: int) -> _Axis:
    rows = slice(start, stop)
    return _Axis(axis.source, axis.lower[rows], axis.upper[rows], axis.weight[rows], axis.inside[rows])


def _lerp(values: torch.Tensor, axis: _Axis, device: torch.device) -> torch.Tensor:
    dimension = axis.source + 1
    form = [1] * values.ndim
    form[dimension] = -1
    lower = values.index_select(dimension, axis.lower.to(device))
    if not bool(axis.weight.any()):
        return lower
    upper = values.index_select(dimension, axis.upper.to(device))
    return lower.lerp_(upper, axis.weight.to(device).view(form).expand_as(lower))


def _dense(
    scores: torch.Tensor, to_source: torch.Tensor, shape: Sequence[int], start: int, stop: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_separable`, for grids turned against each other."""
    steps = (torch.arange(shape[0]), torch.arange(shape[1]), torch.arange(start, stop))
    index = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1).double()
    position = index @ to_source[:3, :3].T + to_source[:3, 3]
    size = torch.as_tensor(scores.shape[1:], dtype=torch.float64)
    inside = ((position >= -_MARGIN) & (position <= size - 1 + _MARGIN)).all(-1)
    # grid_sample wants (x, y, z) in [-1, 1] with align_corners: the last axis of the array comes first
    grid = (2 * position / (size - 1).clamp(min=1) - 1).flip(-1).float().to(scores.device)
    slab = torch.nn.functional.grid_sample(
        scores[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0]
    return slab, inside.to(scores.device)

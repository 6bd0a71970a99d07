"""Class scores on one grid to a label map on another, in bounded memory.

Grids that share their axes up to order, direction and spacing (what orientation, spacing and crop transforms make) are
handled axis by axis (`separable`). Any other pair of grids goes through a dense sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from labelserver.domain.errors import TaskFailed
from labelserver.tasks.separable import Axis, Rule, claim, labels_on_axes
from labelserver.tasks.transform_runs import stop_if_asked

#: bytes of interpolated scores held at a time
SLAB_BYTES = 64 * 2**20
#: one class's scores, their neighbours and the best so far, as float32
_BYTES_A_VOXEL = 12
#: voxels by which an axis may drift sideways over its whole length; affines carry float32 rounding
_MAX_DRIFT = 0.02
#: voxels; a centre this far outside the outermost one still belongs to its cell
_MARGIN = 0.5 + 1e-4


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
        (I, J, K) uint8, or int32 beyond 256 classes, on the CPU, first axis fastest; 0 where the source does not reach.

    Raises:
        TaskFailed: scores are not (C, i, j, k).
    """
    if scores.ndim != 4 or len(shape) != 3:
        raise TaskFailed(f"Scores of shape {tuple(scores.shape)} cannot be put on a grid of {tuple(shape)} voxels.")
    to_source = torch.linalg.solve(source_affine, target_affine)
    rule = Rule(from_logit=0.0, inclusive=False) if scores.shape[0] == 1 else Rule()
    axes = _axes(to_source, scores.shape[1:], shape)
    if axes:
        return labels_on_axes(scores, axes, rule)
    dtype = torch.uint8 if scores.shape[0] <= 256 else torch.int32
    result = torch.zeros(tuple(reversed(shape)), dtype=dtype).permute(2, 1, 0)
    step = max(1, SLAB_BYTES // (_BYTES_A_VOXEL * shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        stop_if_asked()
        stop = min(start + step, shape[0])
        result[start:stop] = _classes(_Dense(scores, to_source, shape, start, stop), scores.shape[0], dtype).cpu()
    return result


def _classes(slab: _Dense, count: int, dtype: torch.dtype) -> torch.Tensor:
    """(n, J, K): the first class of the highest score. One class at a time, because a reduction over them is slow."""
    best = slab.scores_of(0)
    if count == 1:
        return ((best > 0) & slab.inside).to(dtype)
    classes = torch.zeros(best.shape, dtype=dtype, device=best.device)
    for index in range(1, count):
        found = slab.scores_of(index)
        claim(classes, found > best, index)
        torch.maximum(best, found, out=best)
    return classes.masked_fill_(~slab.inside, 0)


def _axes(to_source: torch.Tensor, source_shape: Sequence[int], shape: Sequence[int]) -> tuple[Axis, ...]:
    """One `Axis` for each target axis, or nothing if the grids are turned against each other."""
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
        position = torch.arange(shape[axis], dtype=torch.float64) * linear[source, axis] + offset[source]
        result.append(axis_at(position, source, source_shape[source], margin=_MARGIN))
    return tuple(result)


def axis_at(position: torch.Tensor, source: int, size: int, *, margin: float | None) -> Axis:
    """Linear interpolation at `position` (n,) in voxels of a source axis of `size` voxels, clamped to its ends.

    Positions further than `margin` voxels outside are beyond the source's reach; None: all are within.
    """
    first, last = 0, len(position)
    if margin is not None:
        reached = ((position >= -margin) & (position <= size - 1 + margin)).nonzero()
        first, last = (int(reached[0]), int(reached[-1]) + 1) if len(reached) else (0, 0)
    position = position.clamp(0, size - 1)
    lower = position.floor().long().clamp(max=size - 1)
    upper = (lower + 1).clamp(max=size - 1)
    return Axis(source, lower, upper, (position - lower).float(), first, last)


class _Dense:
    """Scores at rows start..stop of a target that is turned against the source."""

    def __init__(
        self, scores: torch.Tensor, to_source: torch.Tensor, shape: Sequence[int], start: int, stop: int
    ) -> None:
        steps = (torch.arange(start, stop), torch.arange(shape[1]), torch.arange(shape[2]))
        index = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1).double()
        position = index @ to_source[:3, :3].T + to_source[:3, 3]
        size = torch.as_tensor(scores.shape[1:], dtype=torch.float64)
        self.inside = ((position >= -_MARGIN) & (position <= size - 1 + _MARGIN)).all(-1).to(scores.device)
        # grid_sample wants (x, y, z) in [-1, 1] with align_corners: the last axis of the array comes first
        self._grid = (2 * position / (size - 1).clamp(min=1) - 1).flip(-1).float().to(scores.device)[None]
        self._scores = scores

    def scores_of(self, index: int) -> torch.Tensor:
        """(n, J, K)."""
        one = self._scores[index][None, None]
        sampled: torch.Tensor = torch.nn.functional.grid_sample(
            one, self._grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        return sampled[0, 0]

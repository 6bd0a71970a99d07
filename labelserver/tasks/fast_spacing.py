"""Another voxel size without a volume of positions: MONAI's Spacingd, axis by axis.

Spacingd makes float64 copies of the image and of a position for every voxel, four times what the image itself takes.
Where the axes stay as they are (always, unless the affine is sheared) linear interpolation is separable. MONAI says
which grid comes out, and leaves the trace by which its own inverse undoes the step; voxels differ by rounding.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Spacingd
from monai.utils import TraceKeys

from labelserver.tasks.resampling import axis_at
from labelserver.tasks.separable import Axis

#: voxels by which an axis may drift sideways over its whole length
_MAX_DRIFT = 1e-5
#: slabs whose second neighbours are gathered at a time
_SLABS = 8


class SeparableSpacingd(MapTransform, InvertibleTransform):
    """As the Spacingd it stands for; what is not the usual case is left to that one."""

    def __init__(self, original: Spacingd) -> None:
        super().__init__(original.keys, original.allow_missing_keys)
        self.original = original

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        key = self.keys[0]
        image = data.get(key)
        spaced = _spaced(self.original, image) if isinstance(image, MetaTensor) else None
        return dict(self.original(data)) if spaced is None else {**data, key: spaced}

    def inverse(self, data: Any) -> Any:
        return self.original.inverse(data)


def is_usual(step: Any) -> bool:
    """Whether `step` is a Spacingd of one image with the options that most have."""
    if type(step) is not Spacingd or len(step.keys) != 1 or step.lazy:
        return False
    spacing = step.spacing_transform
    options = (str(step.mode[0]), str(step.padding_mode[0]), bool(step.align_corners[0]), bool(step.scale_extent[0]))
    plain = options == ("bilinear", "border", False, False) and not spacing.recompute_affine
    return plain and np.dtype(step.dtype[0]) == np.float64


def _spaced(step: Spacingd, image: MetaTensor) -> MetaTensor | None:
    """`image` in the new spacing; None if this is not the usual case."""
    usual = image.ndim == 4 and image.dtype == torch.float32 and image.device.type == "cpu"
    if not usual or image.pending_operations:
        return None
    shape, affine = _target(step, image)
    source = np.asarray(image.affine, dtype=np.float64)
    to_source = np.linalg.solve(source, affine)
    drift = np.abs(to_source[:3, :3]) * np.maximum(np.asarray(shape) - 1, 1)
    unchanged = shape == tuple(image.shape[1:]) and np.allclose(to_source, np.eye(4), atol=1e-2)
    if unchanged or (drift[~np.eye(3, dtype=bool)] > _MAX_DRIFT).any():
        return None  # nothing to do, or nothing that is separable: both are MONAI's
    voxels = image.as_tensor()
    order = sorted(range(3), key=lambda dim: shape[dim] / image.shape[1 + dim])  # what shrinks most goes first
    for dim in order:
        position = torch.arange(shape[dim], dtype=torch.float64) * to_source[dim, dim] + to_source[dim, 3]
        voxels = _along(voxels, axis_at(position, dim, image.shape[1 + dim], margin=None), dim + 1)
    result = MetaTensor(voxels, meta=deepcopy(image.meta), applied_operations=list(image.applied_operations))
    result.affine = torch.as_tensor(affine)
    result.push_applied_operation(_trace(step, image))
    return result


def _target(step: Spacingd, image: MetaTensor) -> tuple[tuple[int, ...], Any]:
    """Shape and affine that MONAI would give, from a stand-in of one voxel that is only planned for."""
    stand_in = MetaTensor(torch.zeros(()).expand(image.shape), affine=image.affine)
    planned = step.spacing_transform(stand_in, lazy=True)
    return tuple(int(n) for n in planned.peek_pending_shape()), np.asarray(planned.peek_pending_affine(), np.float64)


def _trace(step: Spacingd, image: MetaTensor) -> dict[str, Any]:
    """What MONAI notes about the step: its note about a volume of eight voxels, with the size of this one."""
    small = MetaTensor(torch.zeros(1, 2, 2, 2), affine=image.affine)
    noted = step.spacing_transform(small).applied_operations[-1]
    return {**noted, TraceKeys.ORIG_SIZE: tuple(image.shape[1:])}


def _along(voxels: torch.Tensor, axis: Axis, dim: int) -> torch.Tensor:
    lower = voxels.index_select(dim, axis.lower)
    if not bool(axis.weight.any()):
        return lower
    weight = axis.weight.view([-1 if d == dim else 1 for d in range(voxels.ndim)])
    for start in range(0, axis.size, _SLABS):
        count = min(_SLABS, axis.size - start)
        near = lower.narrow(dim, start, count)
        far = voxels.index_select(dim, axis.upper[start : start + count])
        near.lerp_(far, weight.narrow(dim, start, count).expand_as(near))
    return lower

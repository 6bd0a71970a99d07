"""What the inverses of known transforms of MONAI do to a volume, as one reading of three axes.

Orientation permutes and flips axes, spacing and resizing interpolate along each axis by itself. A chain of these with
at most one interpolation along an axis is a table per target axis (`separable.Axis`), and needs no volume to be made on
the way. Positions are rounded as the libraries round them: the tables of `resize` are those of
torch.nn.functional.interpolate (aten/native/UpSample.h, AdaptiveAveragePooling.cpp for "area"), those of spacing of
affine_grid and grid_sample in float64. Whatever is not known gives None, and the caller runs the inverses themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd, Resized, Spacingd
from monai.transforms.utils import allow_missing_keys_mode, scale_affine
from monai.utils import TraceKeys

from labelserver.domain.geometry import Affine
from labelserver.tasks.resampling import axis_at
from labelserver.tasks.separable import Axis

#: voxels by which an axis may drift sideways; more would move a score by more than rounding does
_MAX_DRIFT = 1e-5
#: as MONAI's spatial_resample decides that nothing has to be done
_AFFINE_TOLERANCE = 1e-3
#: a shape whose axes can be told apart
_PROBE = (2, 3, 5)
#: answers of the inverse of an orientation that are kept
_MOST_TURNS = 256
_FLIPS = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


@dataclass(frozen=True, slots=True)
class InverseAxes:
    """How each axis of the result reads the network's grid, and where the result lies."""

    axes: tuple[Axis, Axis, Axis]
    affine: Affine  #: (4, 4) voxel to mm of the result


def inverse_axes(
    image: MetaTensor, key: str, transforms: Sequence[Any], operations: Sequence[dict[str, Any]]
) -> InverseAxes | None:
    """The chain of inverses of `transforms`, last first, from the grid of `image` on.

    Args:
        image: (C, i, j, k) what the transforms made.
        key: the name under which they know it.
        transforms: those to invert, in the order in which they ran.
        operations: what they noted, in the same order.

    Returns:
        None if one of them, or their combination, is not known here.
    """
    if image.ndim != 4 or len(transforms) != len(operations) or tuple(image.affine.shape) != (4, 4):
        return None
    affine = np.asarray(image.affine.cpu(), dtype=np.float64)
    axes = tuple(_unchanged(source, size) for source, size in enumerate(image.shape[1:]))
    for transform, operation in zip(reversed(transforms), reversed(operations), strict=True):
        step = _STEPS.get((type(transform), str(operation.get(TraceKeys.CLASS_NAME))))
        done = step(axes, affine, transform, operation, key) if step is not None else None
        if done is None:
            return None
        axes, affine = done
    return InverseAxes((axes[0], axes[1], axes[2]), affine)


_Axes = tuple[Axis, ...]
_Done = tuple[_Axes, Affine] | None
_Operation = dict[str, Any]  #: as MONAI notes it


def _unchanged(source: int, size: int) -> Axis:
    index = torch.arange(size)
    return Axis(source, index, index, torch.zeros(size), 0, size)


def _read_through(table: Axis, under: Axis) -> Axis | None:
    """`table` reads positions of an axis that itself reads as `under` says; None if both interpolate."""
    if bool(under.weight.any()):
        if bool(table.weight.any()):
            return None
        taken = table.lower
        lower, upper, weight = under.lower[taken], under.upper[taken], under.weight[taken]
    else:
        lower, upper, weight = under.lower[table.lower], under.lower[table.upper], table.weight
    return Axis(under.source, lower, upper, weight, 0, len(lower))


def _through(tables: Sequence[Axis], axes: _Axes) -> _Axes | None:
    read = [_read_through(table, under) for table, under in zip(tables, axes, strict=True)]
    return tuple(axis for axis in read if axis is not None) if None not in read else None


def _orientation(axes: _Axes, affine: Affine, transform: Any, operation: dict[str, Any], key: str) -> _Done:
    """Permute and flip."""
    found = _turn(affine, transform, operation, key)
    if found is None:
        return None
    order, flips = found
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1.0
    result = []
    for dim, old in enumerate(order):
        axis, flipped = axes[old], dim in flips
        to_old[old, dim] = -1.0 if flipped else 1.0
        to_old[old, 3] = axis.size - 1 if flipped else 0
        result.append(axis.flipped() if flipped else axis)
    return tuple(result), affine @ to_old


_turns: dict[tuple[bytes, bytes, str], tuple[list[int], tuple[int, ...]] | None] = {}


def _turn(affine: Affine, transform: Any, operation: _Operation, key: str) -> tuple[list[int], tuple[int, ...]] | None:
    """Which old axis each new one is, and which new ones run the other way.

    The inverse itself is asked, on a volume of 30 voxels; its answers are kept, because they are the same for an image.
    """
    original = np.asarray(operation[TraceKeys.EXTRA_INFO]["original_affine"], dtype=np.float64)
    name = (affine.tobytes(), original.tobytes(), repr(transform.ornt_transform.labels))
    if name not in _turns:
        while len(_turns) >= _MOST_TURNS:
            _turns.pop(next(iter(_turns)), None)
        _turns[name] = _asked(affine, transform, operation, key)
    return _turns[name]


def _asked(affine: Affine, transform: Any, operation: _Operation, key: str) -> tuple[list[int], tuple[int, ...]] | None:
    voxels = torch.arange(float(np.prod(_PROBE))).reshape(1, *_PROBE)
    probe = MetaTensor(voxels, affine=torch.as_tensor(affine), applied_operations=[deepcopy(operation)])
    with allow_missing_keys_mode(transform):
        turned = torch.as_tensor(transform.inverse({key: probe})[key])[0]
    order = [_PROBE.index(size) for size in turned.shape]
    plain = voxels[0].permute(order)
    flips = next((dims for dims in _FLIPS if torch.equal(turned, plain.flip(dims))), None)
    return None if flips is None else (order, flips)


def _spacing(axes: _Axes, affine: Affine, transform: Any, operation: _Operation, key: str) -> _Done:
    extra = operation[TraceKeys.EXTRA_INFO]
    known = (extra.get("mode"), extra.get("padding_mode"), extra.get("dtype")) == ("bilinear", "border", "float64")
    aligned = extra.get("align_corners") in (False, TraceKeys.NONE)
    target = np.asarray(torch.as_tensor(extra["src_affine"]).cpu(), dtype=np.float64)
    if not known or not aligned or target.shape != (4, 4):
        return None
    sizes = [axis.size for axis in axes]
    new_sizes = [int(size) for size in operation[TraceKeys.ORIG_SIZE]]
    to_old = np.linalg.solve(affine, target)
    if sizes == new_sizes and (_close(affine, target) or _close(to_old, np.eye(4))):
        return axes, target
    drift = np.abs(to_old[:3, :3]) * np.maximum(np.asarray(new_sizes) - 1, 1)
    if (drift[~np.eye(3, dtype=bool)] > _MAX_DRIFT).any():
        return None
    tables = []
    for dim in range(3):
        position = torch.arange(new_sizes[dim], dtype=torch.float64) * to_old[dim, dim] + to_old[dim, 3]
        tables.append(axis_at(position, dim, sizes[dim], margin=None))
    read = _through(tables, axes)
    return None if read is None else (read, target)


def _close(first: Any, second: Any) -> bool:
    return bool(np.allclose(first, second, atol=_AFFINE_TOLERANCE))


def _resize(axes: _Axes, affine: Affine, transform: Any, operation: _Operation, key: str) -> _Done:
    extra = operation[TraceKeys.EXTRA_INFO]
    new_sizes = [int(size) for size in operation[TraceKeys.ORIG_SIZE]]
    sizes = [axis.size for axis in axes]
    corners = extra.get("align_corners")
    if extra.get("new_dim") != 0 or len(new_sizes) != 3 or extra.get("dtype") != "float32":
        return None
    tables = [
        _resize_table(str(getattr(extra["mode"], "value", extra["mode"])), corners is True, dim, size, new)
        for dim, (size, new) in enumerate(zip(sizes, new_sizes, strict=True))
    ]
    if any(table is None for table in tables):
        return None
    read = _through([table for table in tables if table is not None], axes)
    moved = affine @ scale_affine(tuple(sizes), tuple(new_sizes), align_corners=corners is True)
    return None if read is None else (read, moved)


def _resize_table(mode: str, corners: bool, dim: int, size: int, new: int) -> Axis | None:
    """One axis of torch.nn.functional.interpolate from `size` to `new` voxels."""
    if size == new:
        return _unchanged(dim, size)
    index = torch.arange(new)
    if mode in ("nearest", "nearest-exact"):
        line = torch.arange(size, dtype=torch.float32)[None, None]
        lower = torch.nn.functional.interpolate(line, size=new, mode=mode)[0, 0].long()
        return Axis(dim, lower, lower, torch.zeros(new), 0, new)
    if mode == "area":
        start = index * size // new
        end = -(-(index + 1) * size // new)
        if int((end - start).max()) > 2:
            return None
        return Axis(dim, start, end - 1, torch.where(end - start == 2, 0.5, 0.0), 0, new)
    if mode in ("trilinear", "bilinear", "linear"):
        steps = index.to(torch.float32)
        if corners:
            position = steps * (torch.tensor(size - 1.0) / max(new - 1, 1))
        else:
            position = ((steps + 0.5) * (torch.tensor(float(size)) / new) - 0.5).clamp(min=0)
        return axis_at(position.double(), dim, size, margin=None)
    return None


_STEPS = {
    (Orientationd, "Orientation"): _orientation,
    (Spacingd, "SpatialResample"): _spacing,
    (Resized, "Resize"): _resize,
}

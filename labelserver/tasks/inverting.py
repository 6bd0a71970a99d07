"""Bring a network's answer back to the image's grid by inverting the transforms that led away from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, TypeAlias

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform, MapTransform, Transform
from monai.transforms.utils import allow_missing_keys_mode, convert_applied_interp_mode
from monai.utils import TraceKeys

from labelserver.domain.errors import TaskFailed
from labelserver.tasks.transform_runs import stop_if_asked

logger = logging.getLogger(__name__)

#: None: no inversion; empty: all invertible ones; else class names or classes.
Names: TypeAlias = "Sequence[str | type] | None"


def inverted(
    pred: torch.Tensor, image: Any, key: str, transforms: Sequence[Callable[..., Any]], names: Sequence[str | type]
) -> MetaTensor:
    """`pred` after the inverses of the chosen `transforms`, last first.

    Args:
        pred: (C, ...) on the grid of `image`; floating answers are resampled as the image was, whole numbers to the
            nearest voxel.
        image: (C, ...) MetaTensor that the transforms made, with the trace of what they did.
        key: the name under which the transforms know the image.
        transforms: the pre transforms of this call, in order.
        names: class names or classes; empty means all.

    Raises:
        TaskFailed: the image carries no trace, for example after a transform to numpy.
    """
    chosen, operations = chosen_for_inversion(image, key, transforms, names)
    tensor = pred if isinstance(pred, MetaTensor) else MetaTensor(torch.as_tensor(pred))
    tensor = MetaTensor(tensor.as_tensor(), meta=deepcopy(image.meta))
    if not torch.is_floating_point(tensor):
        operations = convert_applied_interp_mode(operations, mode="nearest", align_corners=None)
    tensor.applied_operations = deepcopy(operations)
    data: dict[str, Any] = {key: tensor}
    by_key = Compose([t for t in chosen if isinstance(t, MapTransform | Compose)])
    with allow_missing_keys_mode(by_key) if by_key.transforms else nullcontext():
        for transform in reversed(chosen):
            stop_if_asked()
            data = dict(transform.inverse(data))
    result: MetaTensor = data[key]
    return result


def chosen_for_inversion(
    image: Any, key: str, transforms: Sequence[Callable[..., Any]], names: Sequence[str | type]
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Those of `transforms` that `names` choose and that left a trace in `image`, and their traces, in running order.

    Raises:
        TaskFailed: the image carries no trace, for example after a transform to numpy.
    """
    if not isinstance(image, MetaTensor):
        raise TaskFailed(f"data['{key}'] lost the trace of its transforms; keep it a MetaTensor, or invert nothing.")
    invertible = [t for t in transforms if isinstance(t, InvertibleTransform) and key in getattr(t, "keys", (key,))]
    named = [t for t in invertible if _is_named(t, names)]
    chosen = [t for t in named if any(_made_by(op, [t]) for op in image.applied_operations)]
    if len(chosen) < len(named):
        untraced = [type(t).__name__ for t in named if t not in chosen]
        logger.warning("transforms left no trace and are not inverted", extra={"transforms": untraced})
    return chosen, [op for op in image.applied_operations if _made_by(op, chosen)]


def _is_named(transform: Any, names: Sequence[str | type]) -> bool:
    if not names:
        return True
    return any(
        isinstance(transform, name) if isinstance(name, type) else type(transform).__name__ == name for name in names
    )


def _made_by(operation: dict[str, Any], transforms: Sequence[Any]) -> bool:
    """Whether one of `transforms`, or an array transform inside it, recorded `operation`."""
    parts = [part for transform in transforms for part in _parts(transform)]
    if operation.get(TraceKeys.ID) == TraceKeys.NONE:
        return any(type(part).__name__ == operation.get(TraceKeys.CLASS_NAME) for part in parts)
    return any(id(part) == operation.get(TraceKeys.ID) for part in parts)


def _parts(transform: Any) -> Iterator[Any]:
    yield transform
    if isinstance(transform, Compose):
        for part in transform.transforms:
            yield from _parts(part)
    for value in vars(transform).values():
        if isinstance(value, Transform):
            yield from _parts(value)

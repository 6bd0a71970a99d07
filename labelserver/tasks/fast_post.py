"""The way back that most apps take, done at once: inverse transforms, softmax or sigmoid, argmax or threshold.

As an author writes it, every class travels as floats at the image's size. Here the labels are read off the network's
scores through `inverse_axes` and `separable`. Labels are the same but where the two best scores at a voxel are equal up
to rounding: softmax and sigmoid keep the order, and interpolation is the same arithmetic in another order.

Recognised: ``[EnsureTyped,] [Activationsd(softmax or sigmoid),] AsDiscreted(argmax or threshold)`` on the answer alone,
of exactly these classes and without further options, after no inversion or that of Orientationd, Spacingd and Resized.
Everything else runs as its author wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Activationsd, AsDiscreted, EnsureTyped

from labelserver.tasks.inverse_axes import InverseAxes, inverse_axes
from labelserver.tasks.inverting import Names, chosen_for_inversion
from labelserver.tasks.known_transforms import LEAVES_INPUT
from labelserver.tasks.separable import Axis, Rule, labels_on_axes

Step = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Recognised:
    rule: Rule
    length: int  #: post transforms that it stands for


def labelled(
    pred: Any, image: Any, key: str, transforms: Sequence[Step], names: Names, post: Sequence[Step], pred_key: str
) -> tuple[torch.Tensor, list[Step]] | None:
    """Labels on the grid that the inversion leads to, and the post transforms that are left to run.

    Args:
        pred: the network's answer, (C, i, j, k) float.
        image: the network's input, with the trace of the pre transforms.
        key: its name.
        transforms: the pre transforms of this call.
        names: which of them to invert; None for none.
        post: the post transforms of this call.
        pred_key: the name of the answer.

    Returns:
        (1, I, J, K), uint8 if the remaining steps are known to take it, else float32; None if this is
        not the usual way back.
    """
    if not torch.is_tensor(pred) or pred.ndim != 4 or not torch.is_floating_point(pred):
        return None
    found = _recognised(post, pred_key, pred.shape[0])
    if found is None:
        return None
    rest = list(post[found.length :])
    plain = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
    labels: torch.Tensor
    if names is None:
        labels = labels_on_axes(plain, _same_grid(plain), found.rule)[None]
        if isinstance(pred, MetaTensor):
            labels = MetaTensor(labels, meta=deepcopy(pred.meta), applied_operations=pred.applied_operations)
    else:
        back = _way_back(plain, image, key, transforms, names)
        if back is None:
            return None
        placed = MetaTensor(labels_on_axes(plain, back.axes, found.rule)[None], meta=deepcopy(image.meta))
        placed.affine = torch.as_tensor(back.affine)
        labels = placed
    if all(type(step) in LEAVES_INPUT for step in rest):
        return labels, rest
    return labels.to(torch.float32), rest  # as AsDiscreted gives them


def recognised_rule(
    pred: Any, image: Any, key: str, transforms: Sequence[Step], names: Names, post: Sequence[Step], pred_key: str
) -> tuple[Rule, int] | None:
    """How `labelled` would decide and for how many post transforms that stands; None where it leaves them to run."""
    if not torch.is_tensor(pred) or pred.ndim != 4 or not torch.is_floating_point(pred):
        return None
    found = _recognised(post, pred_key, pred.shape[0])
    if found is None:
        return None
    plain = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
    if names is not None and _way_back(plain, image, key, transforms, names) is None:
        return None
    return found.rule, found.length


def _way_back(
    plain: torch.Tensor, image: Any, key: str, transforms: Sequence[Step], names: Sequence[str | type]
) -> InverseAxes | None:
    chosen, operations = chosen_for_inversion(image, key, transforms, names)
    if tuple(plain.shape[1:]) != tuple(image.shape[1:]):
        return None
    return inverse_axes(image, key, chosen, operations)


def _same_grid(plain: torch.Tensor) -> list[Axis]:
    axes = []
    for source, size in enumerate(plain.shape[1:]):
        index = torch.arange(size)
        axes.append(Axis(source, index, index, torch.zeros(size), 0, size))
    return axes


def _recognised(post: Sequence[Step], pred_key: str, channels: int) -> _Recognised | None:
    """What the first post transforms do, if it is the usual."""
    steps = list(post)
    position = 0
    if position < len(steps) and _harmless(steps[position], pred_key):
        position += 1
    sigmoid = softmax = False
    if position < len(steps) and type(steps[position]) is Activationsd and _on_answer(steps[position], pred_key):
        step: Any = steps[position]
        sigmoid, softmax = bool(step.sigmoid[0]), bool(step.softmax[0])
        if step.other[0] is not None or step.converter.kwargs or (sigmoid and softmax):
            return None
        position += 1
    if position >= len(steps) or type(steps[position]) is not AsDiscreted:
        return None
    rule = _rule(steps[position], pred_key, channels, sigmoid=sigmoid, softmax=softmax)
    return None if rule is None else _Recognised(rule, position + 1)


def _rule(last: Any, pred_key: str, channels: int, *, sigmoid: bool, softmax: bool) -> Rule | None:
    """How AsDiscreted decides, said of the scores before the activation."""
    if not _on_answer(last, pred_key) or last.converter.kwargs:
        return None
    if last.to_onehot[0] is not None or last.rounding[0] is not None:
        return None
    argmax, threshold = bool(last.argmax[0]), last.threshold[0]
    if argmax and threshold is None and channels > 1:
        return Rule()
    if argmax or threshold is None or channels != 1 or softmax:
        return None
    if not sigmoid:
        return Rule(from_logit=float(threshold))
    return Rule(from_logit=math.log(threshold / (1 - threshold))) if 0 < threshold < 1 else None


def _on_answer(step: Any, pred_key: str) -> bool:
    return tuple(step.keys) == (pred_key,)


def _harmless(step: Any, pred_key: str) -> bool:
    """A conversion to a tensor, which the answer is."""
    if type(step) is not EnsureTyped or not _on_answer(step, pred_key):
        return False
    converter = step.converter
    return str(converter.data_type) == "tensor" and step.dtype[0] in (None, torch.float32, np.float32)

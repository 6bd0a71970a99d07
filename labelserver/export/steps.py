"""Steps that only exports have: what the server does around an author's transforms, as transforms themselves.

These classes are cut out and shipped (`carrying`), so they import little.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform

from labelserver.tasks.fast_spacing import SeparableSpacingd
from labelserver.tasks.inverse_axes import inverse_axes
from labelserver.tasks.inverting import chosen_for_inversion, inverted
from labelserver.tasks.separable import Rule, labels_on_axes

_Data = dict[Hashable, Any]


def _steps(transform: Compose) -> list[Any]:
    """The single steps; a faster one stands for the step whose trace it leaves."""
    steps = list(transform.flatten().transforms)
    return [step.original if isinstance(step, SeparableSpacingd) else step for step in steps]


class InvertChosend(MapTransform):
    """Bring an answer back through the chosen transforms, as the server does.

    Args:
        keys: of the answer, (C, ...).
        ref_image: key of the network's input, which knows what was done to it.
        transform: what prepared the input.
        names: class names of the steps to invert; empty: all that can be.
    """

    def __init__(self, keys: Any, ref_image: str, transform: Compose, names: Sequence[str] = ()) -> None:
        super().__init__(keys)
        self.ref_image = ref_image
        self.transform = transform
        self.names = tuple(names)

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        steps = _steps(self.transform)
        for key in self.key_iterator(result):
            result[key] = inverted(result[key], result[self.ref_image], self.ref_image, steps, self.names)
        return result


class LabelsAtOnced(MapTransform):
    """From scores on the network's grid to labels on the image's, without scores of the image's size.

    Args:
        keys: of the scores, (C, i, j, k).
        ref_image: key of the network's input.
        transform: what prepared the input.
        names: class names of the steps to invert; None: none, the grid stays.
        from_logit: a single channel's value that counts as 1; None: the class of the highest score.
        otherwise: what does the same the long way, where the grids do not share their axes.
    """

    def __init__(
        self,
        keys: Any,
        ref_image: str,
        transform: Compose,
        names: Sequence[str] | None = (),
        from_logit: float | None = None,
        otherwise: Sequence[Callable[..., Any]] = (),
    ) -> None:
        super().__init__(keys)
        self.ref_image = ref_image
        self.transform = transform
        self.names = names
        self.rule = Rule() if from_logit is None else Rule(from_logit=from_logit)
        self.otherwise = list(otherwise)

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        for key in self.key_iterator(result):
            labels = self._labels(result[key], result[self.ref_image])
            if labels is None:
                return dict(Compose(self.otherwise)(result))
            result[key] = labels
        return result

    def _labels(self, scores: Any, image: Any) -> MetaTensor | None:
        plain = scores.as_tensor() if isinstance(scores, MetaTensor) else torch.as_tensor(scores)
        if plain.ndim != 4 or tuple(plain.shape[1:]) != tuple(image.shape[1:]):
            return None
        chosen: list[Any] = []
        operations: list[dict[str, Any]] = []
        if self.names is not None:
            steps = _steps(self.transform)
            chosen, operations = chosen_for_inversion(image, self.ref_image, steps, self.names)
        back = inverse_axes(image, self.ref_image, chosen, operations)
        if back is None:
            return None
        labels = MetaTensor(labels_on_axes(plain, back.axes, self.rule)[None], meta=deepcopy(image.meta))
        labels.affine = torch.as_tensor(back.affine)
        return labels


class AnswerOnImaged(MapTransform):
    """An answer as a label map that knows its place: (1, ...) with the affine and file name of the image.

    Args:
        keys: of the answer: (1, ...), or (...) of the image's own shape.
        ref_image: key of the image.
    """

    def __init__(self, keys: Any, ref_image: str) -> None:
        super().__init__(keys)
        self.ref_image = ref_image

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        meta = deepcopy(result[self.ref_image].meta)
        affine = torch.as_tensor(np.asarray(meta.get("original_affine", meta["affine"]), dtype=np.float64))
        axes = len(np.asarray(meta["spatial_shape"]).reshape(-1))
        for key in self.key_iterator(result):
            answer = result[key]
            plain = answer.as_tensor() if isinstance(answer, MetaTensor) else torch.as_tensor(answer)
            layered = plain if plain.ndim > axes else plain[None]
            placed = MetaTensor(layered, meta=deepcopy(meta))
            placed.affine = affine
            result[key] = placed
        return result

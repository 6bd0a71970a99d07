"""Mean Dice while training, straight from a network's output: what a trainer measures that asks for nothing else.

One-hot masks of each step cost a small network a third of its time and say little more than every fourth step does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from ignite.metrics import Metric
from monai.data import MetaTensor

from labelserver.domain.schema import NOT_ANNOTATED

#: One of so many steps is measured.
MEASURED_STEPS = 4


class SampledDice(Metric):
    """Mean over images of the mean over foreground classes that occur, as MONAI's, of every fourth step of an epoch.

    Reads ``pred`` (B, C, ...) scores and ``label`` (B, 1, ...) values, or (B, C, ...) one-hot. One channel is read as a
    sigmoid's input, more as classes with background first. Voxels of the value 255 are not counted.
    """

    def __init__(self) -> None:
        super().__init__(output_transform=lambda output: (output["pred"], output["label"]))

    def reset(self) -> None:
        self._seen, self._sum, self._count = 0, 0.0, 0

    def update(self, output: Any) -> None:
        self._seen += 1
        if (self._seen - 1) % MEASURED_STEPS:
            return
        pred, label = output
        plain = (as_plain(pred.detach()), as_plain(label))
        for scores, truth in zip(*plain, strict=True):
            found = _dice_by_class(scores, truth)
            if found:
                self._sum += sum(found) / len(found)
                self._count += 1

    def compute(self) -> float:
        return self._sum / self._count if self._count else math.nan


def as_plain(values: torch.Tensor) -> torch.Tensor:
    """The same voxels without MONAI's metadata, which each operation would carry along."""
    return values.as_tensor() if isinstance(values, MetaTensor) else values


def largest_channel(scores: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """(C, ...) -> (...) int64 with the channels along `axis`, as ``argmax``, which takes ten times as long on a CPU."""
    return as_plain(scores).max(axis).indices


def _dice_by_class(scores: torch.Tensor, truth: torch.Tensor) -> list[float]:
    """Dice of the classes that occur in one image. `scores` (C, ...), `truth` (1 or C, ...)."""
    channels = scores.shape[0]
    if channels == 1:
        answer, values = (scores[0] > 0).long(), (truth[0] > 0).long() + (truth[0] == NOT_ANNOTATED) * NOT_ANNOTATED
    else:
        answer = largest_channel(scores)
        values = truth[0].long() if truth.shape[0] == 1 else largest_channel(truth)
    unknown = values >= NOT_ANNOTATED
    if bool(unknown.any()):
        answer, values = answer[~unknown], values[~unknown]
    answer, values = answer.flatten(), values.flatten().clamp(max=max(2, channels))
    classes = max(2, channels) + 1
    matrix = torch.bincount(values * classes + answer, minlength=classes**2).reshape(classes, classes).tolist()
    found = []
    for index in range(1, classes - 1):
        in_truth = sum(matrix[index])
        if in_truth:
            in_answer = sum(row[index] for row in matrix)
            found.append(2 * matrix[index][index] / (in_truth + in_answer))
    return found

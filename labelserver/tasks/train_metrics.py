"""Metrics of a training: mean Dice over what the images hold, and the same for each label by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.metrics import Metric as IgniteMetric
from monai.handlers import MeanDice, RootMeanSquaredError, from_engine

from labelserver.domain.schema import NOT_ANNOTATED
from labelserver.tasks.train_sampled_dice import as_plain, largest_channel

Metrics = dict[str, Any]

TRAIN_MEAN_DICE = "train_mean_dice"
VAL_MEAN_DICE = "val_mean_dice"
TRAIN_ACCURACY = "train_acc"
VAL_ACCURACY = "val_acc"


#: One of so many steps is counted for the Dice on patches: the arg-max alone takes a third of a small network's step.
_COUNTED_STEPS = 4


def is_better(value: Any, best: Any) -> bool:
    """Whether the key metric improved. A value that is not a number never does, and never stays the best."""
    number = float(value)
    return math.isfinite(number) and (not math.isfinite(float(best)) or number > float(best))


def mean_dice(name: str) -> Metrics:
    """``{name: handler}`` over ``pred`` and ``label`` as one-hot channels, without background."""
    return {name: MeanDice(output_transform=from_engine(["pred", "label"]), include_background=False)}


def from_engine_idx(keys: str | Sequence[str], idx: int, first: bool = False) -> Callable[[Any], Any]:
    """An ignite output transform: channel `idx` of each of `keys`, as tensors (1, ...).

    With `first`, of the first image of the batch alone.
    """
    names = [keys] if isinstance(keys, str) else list(keys)

    def of_channel(output: Any) -> Any:
        if isinstance(output, dict):
            return tuple(output[name][:, idx : idx + 1] for name in names)
        items = output[:1] if first else output
        columns = tuple([item[name][idx : idx + 1] for item in items] for name in names)
        return tuple(column[0] for column in columns) if first else columns

    return of_channel


def numbered_regions(regions: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    """Name -> channel; a list counts from 1. Background is no region."""
    pairs = regions.items() if isinstance(regions, Mapping) else zip(regions, range(1, len(regions) + 1), strict=True)
    return {name: int(index) for name, index in pairs if name.lower() != "background"}


def region_wise_metrics(
    regions: Mapping[str, int] | Sequence[str],
    metric: str,
    prefix: str,
    keys: Sequence[str] = ("pred", "label"),
) -> Metrics:
    """Mean Dice under `metric`, and ``<prefix>_<region>_mean_dice`` for each region.

    Args:
        regions: name -> channel of the one-hot tensors, or names of the channels from 1 on.
        metric: name of the mean over all regions, the key metric.
        prefix: usually ``train`` or ``val``.
        keys: of prediction and truth in the engine's output.
    """
    found = {metric: MeanDice(output_transform=from_engine(list(keys)), include_background=False)}
    for region, index in numbered_regions(regions).items():
        found[f"{prefix}_{region}_mean_dice"] = MeanDice(
            output_transform=from_engine_idx(keys, index), include_background=True
        )
    return found


def region_wise_rmse(
    regions: Mapping[str, int] | Sequence[str],
    metric: str,
    prefix: str,
    keys: Sequence[str] = ("pred", "label"),
) -> Metrics:
    """As `region_wise_metrics`, with the root mean square error; names end in ``_rmse``."""
    found = {metric: RootMeanSquaredError(output_transform=from_engine(list(keys)))}
    for region, index in numbered_regions(regions).items():
        found[f"{prefix}_{region}_rmse"] = RootMeanSquaredError(output_transform=from_engine_idx(keys, index))
    return found


def patch_dice(regions: Mapping[str, int] | Sequence[str], metric: str, prefix: str) -> Metrics:
    """Dice over the patches of an epoch together, straight from a network's output; names as `region_wise_metrics`.

    Much cheaper than one-hot masks for each patch: every fourth step it counts a confusion matrix.
    """
    names = numbered_regions(regions)
    counts = _Confusion(max(names.values(), default=0) + 1)
    of_regions = {f"{prefix}_{name}_mean_dice": _DiceOf(counts, [index]) for name, index in names.items()}
    return {metric: _DiceOf(counts, list(names.values()), owner=True), **of_regions}


class _Confusion:
    """Voxels by (truth, prediction), summed over an epoch."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.matrix = torch.zeros(classes, classes, dtype=torch.int64)
        self.seen = 0

    def clear(self) -> None:
        self.matrix, self.seen = torch.zeros_like(self.matrix), 0

    def add(self, pred: torch.Tensor, label: torch.Tensor, annotated: torch.Tensor | None = None) -> None:
        """Count one step in `_COUNTED_STEPS`; `pred` (B, C, ...) scores, `label` (B, 1, ...) values.

        Voxels of the value 255 are not counted. `annotated` (B, C) is 0 for channels that nobody looked for in a case:
        such an answer counts as background.
        """
        self.seen += 1
        if (self.seen - 1) % _COUNTED_STEPS:
            return
        answer, truth = largest_channel(pred, 1), as_plain(label)[:, 0].long()
        if annotated is not None:
            looked = annotated.to(answer.device) > 0
            batch = torch.arange(len(answer), device=answer.device).reshape(-1, *[1] * (answer.ndim - 1))
            answer = answer * looked[batch, answer]
            known = truth != NOT_ANNOTATED
            answer, truth = answer[known], truth[known]
        pairs = truth * self.classes + answer
        found = torch.bincount(pairs.flatten(), minlength=self.classes**2)
        self.matrix = self.matrix.to(found.device) + found.reshape(self.classes, self.classes)


class _DiceOf(IgniteMetric):
    """Mean Dice of some classes, of those that occur. One metric of a family owns the counting."""

    def __init__(self, counts: _Confusion, classes: list[int], *, owner: bool = False) -> None:
        self._counts, self._classes, self._owner = counts, classes, owner
        super().__init__(output_transform=lambda output: (output["pred"], output["label"], output.get("annotated")))

    def reset(self) -> None:
        if self._owner:
            self._counts.clear()

    def update(self, output: Any) -> None:
        if self._owner:
            pred, label, annotated = output
            self._counts.add(pred.detach(), label, annotated)

    def compute(self) -> float:
        matrix = self._counts.matrix.double()
        sizes = matrix.sum(0) + matrix.sum(1)
        present = [index for index in self._classes if sizes[index] > 0]
        scores = [float(2 * matrix[index, index] / sizes[index]) for index in present]
        return sum(scores) / len(scores) if scores else math.nan


def plain_numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """What of an engine's metrics is a finite number; JSON knows no NaN."""
    numbers: dict[str, float] = {}
    for name, value in (metrics or {}).items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            numbers[str(name)] = number
    return numbers

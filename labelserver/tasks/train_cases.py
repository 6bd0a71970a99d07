"""What a validation measured on each single case, and which cases can tell two versions apart fairly."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any

import torch

from labelserver.domain.models import CaseMetrics
from labelserver.domain.splits import ImageSide
from labelserver.tasks.train_context import Context


def values_by_case(context: Context, state: Any) -> CaseMetrics:
    """Each metric of the held-out cases one by one, from what MONAI's metric handlers keep for every image.

    Args:
        context: names the cases; the validation's loader goes through them in order.
        state: of the evaluator, after a run.

    Returns:
        image id -> metric -> value; the mean over the channels that the case holds, and over parts of one image. A
        metric that keeps nothing by image, or that did not see each case once, is left out.
    """
    details = getattr(state, "metric_details", None)
    ids = [context.image_id_of(case) for case in context.val_datalist]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, rows in (details if isinstance(details, Mapping) else {}).items():
        if not isinstance(rows, torch.Tensor) or rows.ndim == 0 or len(rows) != len(ids) * context.world_size:
            continue
        rows = rows[: len(ids)]  # of several processes each has measured all
        means = torch.nanmean(rows.detach().to("cpu", torch.float64).reshape(len(ids), -1), dim=1).tolist()
        for image_id, value in zip(ids, means, strict=True):
            if math.isfinite(value):
                found[image_id][str(name)].append(value)
    return {image_id: {name: fmean(values) for name, values in row.items()} for image_id, row in found.items()}


def unseen(cases: CaseMetrics, learned: Collection[str], sides: Mapping[str, ImageSide]) -> CaseMetrics:
    """The cases of patients from whom none of the `learned` images comes."""
    subjects = {sides[image_id].subject for image_id in learned if image_id in sides}
    return {
        image_id: values
        for image_id, values in cases.items()
        if image_id not in learned and not (image_id in sides and sides[image_id].subject in subjects)
    }

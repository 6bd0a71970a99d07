"""Scores that need no network: Dice of a model's mask against a person's, and how much a mask holds. Torch-free.

A case that cannot be scored is skipped and named in the result; the others are scored all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.contracts.datastore import Datastore, DefaultLabelTag
from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import GridsDiffer, LabelServerError
from labelserver.imaging.volumes import read_volume
from labelserver.tasks.base import ScoringMethod

logger = logging.getLogger(__name__)


def dice_per_label(truth: NDArray[Any], found: NDArray[Any]) -> dict[int, float]:
    """Dice of each value above 0 that either map holds: 2 |A and B| / (|A| + |B|).

    Args:
        truth, found: whole-numbered label maps of one shape.
    """
    values = sorted({int(v) for v in (*np.unique(truth), *np.unique(found)) if v > 0})
    scores = {}
    for value in values:
        ours, theirs = truth == value, found == value
        both = np.count_nonzero(ours & theirs)
        scores[value] = float(2.0 * both / (np.count_nonzero(ours) + np.count_nonzero(theirs)))
    return scores


def mean_dice(truth: NDArray[Any], found: NDArray[Any]) -> float:
    """Mean over the labels that either map holds; two empty maps agree fully."""
    scores = dice_per_label(truth, found)
    return float(np.mean(list(scores.values()))) if scores else 1.0


class Dice(ScoringMethod):
    """Dice of the label made by a model against the accepted one"""

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Write ``dice`` into the info of every image that has both labels.

        Args:
            request: ``y`` (default ``final``) and ``y_pred`` (``original``) name the tags to compare.
            datastore: where labels and infos are.

        Returns:
            image id -> mean Dice; a skipped image has an object with ``skipped``: the reason.
        """
        wanted = str(request.get("y") or DefaultLabelTag.FINAL), str(request.get("y_pred") or DefaultLabelTag.ORIGINAL)
        result: dict[str, Any] = {}
        for image_id in datastore.list_images():
            if current_progress().should_stop():
                break
            truth_id, found_id = (datastore.get_label_by_image_id(image_id, tag) for tag in wanted)
            if not truth_id or not found_id:
                continue
            try:
                truth = read_volume(Path(datastore.get_label_uri(truth_id, wanted[0])))
                found = read_volume(Path(datastore.get_label_uri(found_id, wanted[1])))
                if truth.voxels.shape != found.voxels.shape:
                    raise GridsDiffer(f"The labels {wanted[0]} and {wanted[1]}: {truth.grid.difference(found.grid)}.")
                score = mean_dice(truth.voxels, found.voxels)
            except LabelServerError as error:
                result[image_id] = skipped(image_id, error)
                continue
            datastore.update_image_info(image_id, {"dice": round(score, 4)})
            result[image_id] = score
        return result


class Sum(ScoringMethod):
    """Sum of the voxel values of each label, and its slices"""

    def __init__(
        self, tags: Sequence[str] = (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL), description: str = ""
    ) -> None:
        super().__init__(description)
        self.tags = tuple(str(tag) for tag in tags)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Write ``sum`` and ``slices`` (indices along the first axis that hold anything) into the info of each label.

        Returns:
            tag -> label id -> what was written; a skipped label has ``skipped``: the reason.
        """
        result: dict[str, Any] = {}
        for tag in self.tags:
            for image_id in datastore.get_labeled_images(tag):
                if current_progress().should_stop():
                    return result
                label_id = datastore.get_label_by_image_id(image_id, tag)
                try:
                    voxels = read_volume(Path(datastore.get_label_uri(label_id, tag))).voxels
                except LabelServerError as error:
                    result.setdefault(tag, {})[label_id] = skipped(image_id, error)
                    continue
                held = np.flatnonzero(voxels.reshape(voxels.shape[0], -1).any(axis=1))
                info = {"sum": int(voxels.sum(dtype=np.int64)), "slices": [int(index) for index in held]}
                datastore.update_label_info(label_id, tag, info)
                result.setdefault(tag, {})[label_id] = info
        return result


def skipped(image_id: str, error: LabelServerError) -> dict[str, str]:
    """What a result says about an image without a score."""
    logger.warning("image not scored", extra={"image_id": image_id})
    current_progress().log(f"not scored: {image_id}: {error.message}")
    return {"skipped": error.message}

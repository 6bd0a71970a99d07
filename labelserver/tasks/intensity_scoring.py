"""Looks at images without a network: what tells groups of images apart before there is a model. Torch-free."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.progress import current_progress
from labelserver.contracts.scores import INTENSITY, Look, ScoreStore
from labelserver.domain.errors import LabelServerError
from labelserver.imaging.volumes import read_volume
from labelserver.learning.image_features import intensity_features
from labelserver.tasks.base import ScoringMethod
from labelserver.tasks.budgets import Budget

#: of the features; grows when they change
VERSION = "1"


class IntensityScoring(ScoringMethod):
    """Brightness, edges and coarse shape of every image"""

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Look at the images that were not looked at yet, or whose files have changed.

        Args:
            request: ``budget_s``: end after so many seconds; 0: no limit.
            datastore: images; only a `ScoreStore` can keep what was found.

        Returns:
            ``total``, ``fresh`` (known before), ``executed``, ``left``, ``failed``: image id -> reason.
        """
        if not isinstance(datastore, ScoreStore):
            return {"total": 0, "fresh": 0, "executed": 0, "left": 0, "failed": {}}
        images = datastore.list_images()
        budget = Budget.of(request)
        todo = datastore.stale(INTENSITY, VERSION, images)
        failed: dict[str, str] = {}
        done = 0
        for image_id in todo:
            if current_progress().should_stop() or budget.is_spent():
                break
            current_progress().yield_device("cpu")
            try:
                content, signature = datastore.content_of(image_id)
                volume = read_volume(Path(datastore.get_image_uri(image_id)))
                features = tuple(intensity_features(volume.voxels, volume.grid.spacing_mm))
            except LabelServerError as error:
                failed[image_id] = error.message
                continue
            datastore.put_look(
                Look(image_id, INTENSITY, VERSION, content, signature, time.time(), {}, embedding=features)
            )
            done += 1
            current_progress().report({"step": done + len(failed), "total_steps": len(todo)})
        left = len(todo) - done - len(failed)
        return {
            "total": len(images),
            "fresh": len(images) - len(todo),
            "executed": done,
            "left": left,
            "failed": failed,
        }

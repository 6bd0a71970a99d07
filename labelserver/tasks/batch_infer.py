"""Infer many images of the datastore and keep the answers as labels. Torch-free: the given `infer` does the work."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from enum import StrEnum
from pathlib import Path
from typing import Any

from labelserver.contracts.datastore import Datastore, DefaultLabelTag
from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import LabelServerError

logger = logging.getLogger(__name__)

#: What infers one image: ``infer(request, datastore) -> {"file", "label", "tag", "params"}``.
Infer = Callable[[dict[str, Any], Datastore], dict[str, Any]]


class BatchInferImageType(StrEnum):
    """Which images, where a request names none."""

    IMAGES_ALL = "all"
    IMAGES_LABELED = "labeled"
    IMAGES_UNLABELED = "unlabeled"


class BatchInferTask:
    """Subclass and override `get_images` to choose other images."""

    def get_images(self, request: dict[str, Any], datastore: Datastore) -> list[str]:
        """Ids that ``request["images"]`` names: ``all``, ``labeled``, ``unlabeled``, or a list."""
        images = request.get("images", BatchInferImageType.IMAGES_ALL)
        tag, labels = request.get("label_tag"), request.get("labels")
        if images == BatchInferImageType.IMAGES_LABELED:
            return datastore.get_labeled_images(tag, labels)
        if images == BatchInferImageType.IMAGES_UNLABELED:
            return datastore.get_unlabeled_images(tag, labels)
        if isinstance(images, str):
            return datastore.list_images() if images == BatchInferImageType.IMAGES_ALL else [images]
        return list(images)

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Infer) -> dict[str, dict[str, Any]]:
        """Infer each image, several at a time if ``max_workers`` allows, and save each answer as a label.

        Options of the request: ``images``, ``max_batch_size`` (0: no limit), ``label_tag``, ``max_workers``,
        ``multi_gpu`` and ``gpus`` ("0,1": those take turns; without it each task chooses its device).

        Returns:
            Image id -> what `infer` gave, without its file. A failed image has ``{"error": sentence}`` and leaves the
            others alone.
        """
        images = sorted(self.get_images(request, datastore))
        limit = int(request.get("max_batch_size") or 0)
        images = images[:limit] if limit > 0 else images
        devices = _devices(request)
        requests = [_one_request(request, image, devices, index) for index, image in enumerate(images)]
        workers = _worker_count(request, len(images))
        progress = current_progress()
        progress.report({"total": len(images), "done": 0, "failed": 0})
        results: dict[str, dict[str, Any]] = {}

        def run(one: dict[str, Any]) -> tuple[str, dict[str, Any]]:
            return one["image"], {} if progress.should_stop() else _infer_one(infer, one, datastore)

        with ThreadPoolExecutor(max_workers=workers) as pool:
            waiting = [pool.submit(copy_context().run, run, one) for one in requests]
            for future in waiting:
                image, result = future.result()
                results[image] = result
                failed = sum("error" in known for known in results.values())
                progress.report({"total": len(images), "done": len(results), "failed": failed})
        return results


def _infer_one(infer: Infer, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
    try:
        result = dict(infer(request, datastore))
    except LabelServerError as error:
        logger.warning("an image of the batch failed", extra={"image_id": request["image"], "error": error.code})
        return {"error": error.message}
    except Exception as error:  # the app's code; one image must not end the batch
        logger.warning("an image of the batch failed", extra={"image_id": request["image"]}, exc_info=True)
        return {"error": f"{type(error).__name__}: {error}"}
    file = result.pop("file", None)
    if isinstance(file, str | os.PathLike):
        Path(file).unlink(missing_ok=True)
    return result


def _one_request(request: dict[str, Any], image: str, devices: Sequence[str], index: int) -> dict[str, Any]:
    own = {key: value for key, value in request.items() if key not in ("images", "max_batch_size", "max_workers")}
    own.update({"image": image, "save_label": True, "label_tag": request.get("label_tag") or DefaultLabelTag.ORIGINAL})
    if devices:
        own["device"] = devices[index % len(devices)]
    return own


def _devices(request: dict[str, Any]) -> list[str]:
    """Torch names of the GPUs that the request lists; empty if it leaves the choice open."""
    gpus = request.get("gpus")
    if not request.get("multi_gpu", True) or gpus in (None, "", "all"):
        return []
    numbers = gpus.split(",") if isinstance(gpus, str) else list(gpus) if isinstance(gpus, Sequence) else [gpus]
    return [f"cuda:{int(number)}" for number in numbers]


def _worker_count(request: dict[str, Any], images: int) -> int:
    asked = int(request.get("max_workers") or 0) or max(1, (os.cpu_count() or 1) // 4)
    return max(1, min(asked, images))

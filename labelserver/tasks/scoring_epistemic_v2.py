"""How unsure a network is about an image: it looks several times with dropout active, and disagrees with itself.

The score is the entropy of the mean prediction, ``-p log p`` averaged over classes and voxels (Gal and
Ghahramani 2016, "Dropout as a Bayesian approximation"); a larger one means that labeling the image teaches more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import LabelServerError, TaskFailed
from labelserver.tasks.base import InferTask, ScoringMethod
from labelserver.tasks.image_places import cache_home_of, kept_as
from labelserver.tasks.scoring import skipped
from labelserver.tasks.train_request import whole_number

logger = logging.getLogger(__name__)

_TINY = 1e-12  #: keeps log finite


def as_probabilities(pred: Any) -> NDArray[np.float32]:
    """What an infer task left in ``pred`` as probabilities (C, ...).

    Values within [0, 1] are taken as they are. Others are scores: a softmax over several channels, a sigmoid of one. A
    map of whole numbers above 1 is one class a voxel, one-hot over the classes up to its largest.
    """
    tensor = torch.as_tensor(np.asarray(pred)).float() if not isinstance(pred, torch.Tensor) else pred.float()
    low, high = float(tensor.min()), float(tensor.max())
    if tensor.shape[0] == 1 and high > 1 and low >= 0 and bool((tensor == tensor.round()).all()):
        tensor = torch.nn.functional.one_hot(tensor[0].long()).movedim(-1, 0).float()
    elif low < 0 or high > 1:
        tensor = tensor.softmax(0) if tensor.shape[0] > 1 else tensor.sigmoid()
    return np.asarray(tensor.cpu().numpy(), dtype=np.float32)


class EpistemicScoring(ScoringMethod):
    """Entropy of a network with dropout, by an infer task"""

    def __init__(
        self,
        infer_task: InferTask,
        max_samples: int = 0,
        simulation_size: int = 5,
        use_variance: bool = False,
        key_output_entropy: str = "epistemic_entropy",
        key_output_ts: str = "epistemic_ts",
        description: str = "",
    ) -> None:
        """Describe the looking.

        Args:
            infer_task: made with ``train_mode=True, skip_writer=True``; its ``pred`` is averaged.
            max_samples: images of one run; 0: all.
            simulation_size: looks at each image, at least 2.
            use_variance: score by the variance between the looks instead of entropy.
            key_output_entropy: name of the score in the image's info.
            key_output_ts: name of the model's time stamp there; equal means already scored.
            description: for people.
        """
        super().__init__(description)
        self.infer_task = infer_task
        self.max_samples = max_samples
        self.simulation_size = simulation_size
        self.use_variance = use_variance
        self.key_output_entropy = key_output_entropy
        self.key_output_ts = key_output_ts

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score the images without an accepted label that were not scored with the present weights.

        Args:
            request: may override ``max_samples`` and ``simulation_size``; ``max_workers`` threads (default 1); the rest
                goes to the infer task (``device``, ...).
            datastore: images and infos.

        Returns:
            ``total``, ``skipped`` (scored before, or all while the model has no weights), ``executed``, ``failed``
            (image id -> reason), ``latency`` in s.
        """
        started = time.monotonic()
        limit = whole_number(request, "max_samples", self.max_samples, least=0)
        workers = whole_number(request, "max_workers", 1, least=1)
        stamp = self._model_ts()
        images = sorted(datastore.get_unlabeled_images())
        if not stamp and getattr(self.infer_task, "path", None):
            current_progress().log("nothing to score with yet: the model has no weights; train it first")
            return {"total": len(images), "skipped": len(images), "executed": 0, "failed": {}, "latency": 0.0}
        todo = [i for i in images if datastore.get_image_info(i).get(self.key_output_ts, 0) != stamp or not stamp]
        chosen = todo[:limit] if limit else todo
        failed: dict[str, str] = {}
        executed = 0
        for image_id, score, problem in self._scores(chosen, request, datastore, workers):
            if problem is not None:
                failed[image_id] = problem["skipped"]
                continue
            executed += 1
            datastore.update_image_info(image_id, {self.key_output_entropy: score, self.key_output_ts: stamp})
            current_progress().report({"step": executed + len(failed), "total_steps": len(chosen)})
        return {
            "total": len(images),
            "skipped": len(images) - len(todo),
            "executed": executed,
            "failed": failed,
            "latency": round(time.monotonic() - started, 3),
        }

    def run_scoring(self, image_id: str, request: dict[str, Any], datastore: Datastore) -> float:
        """Look at one image several times and return its score.

        Raises:
            TaskFailed: the infer task failed or gave no prediction.
        """
        looks = max(2, whole_number(request, "simulation_size", self.simulation_size, least=1))
        mean: NDArray[np.float32] | None = None
        spread: NDArray[np.float32] | None = None
        for number in range(1, looks + 1):
            found = self._look(image_id, request, datastore)
            if mean is None or spread is None:
                mean, spread = found, np.zeros_like(found)
                continue
            mean, found = _same_classes(mean, found)
            spread = _same_classes(spread, found)[0]
            before = found - mean
            mean = np.asarray(mean + before / number, dtype=np.float32)
            spread = spread + before * (found - mean)
        if mean is None or spread is None:
            raise TaskFailed(f"The model gave no prediction for {image_id}.")
        values = spread / looks if self.use_variance else _entropy(mean)
        return float(np.nanmean(values))

    def entropy_volume(self, vol_input: NDArray[Any]) -> NDArray[np.float32]:
        """Entropy per voxel, ``-p log p`` per class of the mean p.

        Args:
            vol_input: (N, ...) or (N, C, ...) probabilities, N looks.

        Returns:
            (...) or (C, ...)
        """
        return _entropy(np.asarray(vol_input, dtype=np.float32).mean(axis=0))

    def variance_volume(self, vol_input: NDArray[Any]) -> NDArray[np.float32]:
        """Variance per voxel between the looks; shapes as `entropy_volume`."""
        return np.asarray(np.asarray(vol_input, dtype=np.float32).var(axis=0), dtype=np.float32)

    def _model_ts(self) -> int:
        """Whole seconds of the weight file's modification; 0 without one."""
        path = self.infer_task.get_path()
        return int(Path(path).stat().st_mtime) if path and Path(path).is_file() else 0

    def _scores(
        self, images: list[str], request: dict[str, Any], datastore: Datastore, workers: int
    ) -> Iterable[tuple[str, float, dict[str, str] | None]]:
        def one(image_id: str) -> tuple[str, float, dict[str, str] | None]:
            try:
                return image_id, round(self.run_scoring(image_id, request, datastore), 6), None
            except LabelServerError as error:
                return image_id, 0.0, skipped(image_id, error)

        if workers == 1:
            for image_id in images:
                if current_progress().should_stop():
                    return
                yield one(image_id)
            return
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(copy_context().run, one, image_id) for image_id in images]
            for future in futures:
                yield future.result()
                if current_progress().should_stop():
                    pool.shutdown(cancel_futures=True)
                    return

    def _look(self, image_id: str, request: dict[str, Any], datastore: Datastore) -> NDArray[np.float32]:
        own = ("max_samples", "simulation_size", "max_workers", "method")
        asked = {key: value for key, value in request.items() if key not in own}
        asked |= {"image": datastore.get_image_uri(image_id), "skip_writer": True}
        try:
            with kept_as(image_id, cache_home_of(datastore), in_a_hurry=False):
                _, data = self.infer_task(asked)
            return as_probabilities(data["pred"])
        except LabelServerError:
            raise
        except Exception as error:
            raise TaskFailed(f"The model failed on {image_id}: {error}") from error


def _entropy(mean: NDArray[Any]) -> NDArray[np.float32]:
    p = np.clip(mean, _TINY, 1.0)
    return np.asarray(-p * np.log(p), dtype=np.float32)


def _same_classes(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two looks may have seen different largest classes; missing ones have probability 0."""
    channels = max(len(first), len(second))
    return _with_channels(first, channels), _with_channels(second, channels)


def _with_channels(array: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    missing = channels - len(array)
    return array if missing == 0 else np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))

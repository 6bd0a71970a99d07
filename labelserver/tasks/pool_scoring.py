"""Looks at the pool with a network: how unsure it is about each image, where, and what the image is like to it.

One image is a step: between two the job ends if asked to, and waits while people wait for the device. What is known for
these weights and these files is not looked at again, so a job that was killed does the rest when it is taken up, and
new weights make all looks stale.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.progress import current_progress
from labelserver.contracts.scores import Look, ScoreStore, SmallMap
from labelserver.domain.errors import LabelServerError, NotThereYet, TaskFailed
from labelserver.imaging.thumbnails import busiest_slice, overlay_png
from labelserver.imaging.volumes import read_grid
from labelserver.learning.small_maps import small_map
from labelserver.learning.uncertainty import Looks, entropy_map, gather, scores_of
from labelserver.storage.checksums import sha256_of
from labelserver.tasks.base import ScoringMethod
from labelserver.tasks.budgets import Budget
from labelserver.tasks.devices import name_to_device
from labelserver.tasks.feature_tap import FeatureTap
from labelserver.tasks.image_places import cache_home_of, kept_as
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.kept_heads import settle
from labelserver.tasks.pool_looks import class_probabilities
from labelserver.tasks.stages import CallBackTypes
from labelserver.tasks.train_request import whole_number

#: axes along which a look is mirrored, one after the other; the last axes are those of space
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-3,), (-1, -2))
_WAYS = ("dropout", "flips", "tasks")


class PoolScoring(ScoringMethod):
    """How unsure a network is about each image, and what the image is like to it"""

    def __init__(
        self,
        infer_task: BasicInferTask | Sequence[BasicInferTask],
        name: str,
        looks: int = 4,
        ways: str = "dropout",
        max_samples: int = 0,
        description: str = "",
    ) -> None:
        """Describe the looking.

        Args:
            infer_task: whose network looks. For dropout: made with ``train_mode=True``. Several tasks with weights of
                their own (snapshots of a training, folds) are one look each.
            name: of the model; looks of each are kept apart.
            looks: at each image; what they disagree about is the score ``bald``.
            ways: what makes looks differ: ``dropout``, ``flips`` (mirrored images; for labels that have no side) or
                ``tasks``.
            max_samples: images of one run; 0: all.
            description: for people.

        Raises:
            ValueError: for other ways.
        """
        super().__init__(description)
        if ways not in _WAYS:
            raise ValueError(f"ways is one of {', '.join(_WAYS)}")
        self.tasks = [infer_task] if isinstance(infer_task, BasicInferTask) else list(infer_task)
        self.name, self.looks, self.ways, self.max_samples = name, looks, ways, max_samples

    def version(self) -> str:
        """First 16 digits of the checksum of the weights (of several: of all); "" without any."""
        paths = [task.get_path() for task in self.tasks]
        if not all(paths):
            return ""
        sums = [_checksum(Path(str(p)), Path(str(p)).stat().st_mtime_ns, Path(str(p)).stat().st_size) for p in paths]
        return sums[0][:16] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()[:16]

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Look at what is stale: images without a label first, then the others, for their embeddings.

        Args:
            request: ``budget_s``, ``max_samples``, ``looks``; the rest goes to the infer task (``device``, ...).
            datastore: images; it must be a `ScoreStore`.

        Returns:
            ``version``, ``total``, ``fresh`` (known before), ``executed``, ``left``, ``failed``: image id -> reason.

        Raises:
            NotThereYet: the app's own store keeps no scores.
        """
        if not isinstance(datastore, ScoreStore):
            raise NotThereYet("The app's own datastore keeps no scores of this kind; use EpistemicScoring.")
        budget, limit = Budget.of(request), whole_number(request, "max_samples", self.max_samples, least=0)
        waiting = datastore.get_unlabeled_images()
        others = sorted(set(datastore.list_images()) - set(waiting))
        version = self.version()
        if not version:
            current_progress().log("nothing to look with yet: the model has no weights; train it first")
            total = len(waiting) + len(others)
            return {"version": "", "total": total, "fresh": 0, "executed": 0, "left": total, "failed": {}}
        todo = datastore.stale(self.name, version, [*waiting, *others])
        chosen = todo[:limit] if limit else todo
        failed: dict[str, str] = {}
        done = 0
        for image_id in chosen:
            if current_progress().should_stop() or budget.is_spent() or self.version() != version:
                break
            current_progress().yield_device(name_to_device(request.get("device")))
            try:
                datastore.put_look(self.look(image_id, version, request, datastore))
            except LabelServerError as error:
                failed[image_id] = error.message
                continue
            done += 1
            current_progress().report({"step": done + len(failed), "total_steps": len(chosen), "image": image_id})
        settle()
        total = len(waiting) + len(others)
        left = len(todo) - done - len(failed)
        counts = {"total": total, "fresh": total - len(todo), "executed": done, "left": left}
        return {"version": version, **counts, "failed": failed}

    def look(self, image_id: str, version: str, request: dict[str, Any], datastore: Datastore) -> Look:
        """Look at one image. Raises `TaskFailed`, `ImageNotFound`."""
        if not isinstance(datastore, ScoreStore):
            raise NotThereYet("The app's own datastore keeps no scores.")
        content, signature = datastore.content_of(image_id)
        own = ("max_samples", "looks", "budget_s", "method")
        asked = {key: value for key, value in request.items() if key not in own}
        asked |= {"image": datastore.get_image_uri(image_id), "skip_writer": True}
        count = max(1, whole_number(request, "looks", self.looks, least=1))
        seed = int(content[:8], 16)
        tap = FeatureTap()
        seen: dict[str, Any] = {}
        try:
            with kept_as(image_id, cache_home_of(datastore), in_a_hurry=False):
                looks = gather(self._looks(asked, count, seed, tap, seen))
        except LabelServerError:
            raise
        except Exception as error:
            raise TaskFailed(f"The model failed on {image_id}: {error}") from error
        found = scores_of(looks)
        scores = {"entropy": found.entropy, "margin": found.margin, "bald": found.bald, "foreground": found.foreground}
        return Look(
            image_id,
            self.name,
            version,
            content,
            signature,
            time.time(),
            {**scores, "epistemic_entropy": found.entropy},
            found.classes,
            tap.embedding(),
            _picture(seen.get("image"), looks),
            _doubt(seen.get("image"), looks, Path(str(asked["image"]))),
        )

    def _looks(
        self, asked: dict[str, Any], count: int, seed: int, tap: FeatureTap, seen: dict[str, Any]
    ) -> Iterator[NDArray[np.float32]]:
        tasks = self.tasks if self.ways == "tasks" else [self.tasks[0]] * count
        for number, task in enumerate(tasks):
            flips = _FLIPS[number % len(_FLIPS)] if self.ways == "flips" else ()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + number)
                with tap.listening(task, asked) if number == 0 else tap.deaf():
                    _, data = task(dict(asked), {CallBackTypes.PRE_TRANSFORMS: partial(_mirrored, flips=flips)})
            pred = torch.as_tensor(np.asarray(data["pred"])) if not torch.is_tensor(data["pred"]) else data["pred"]
            seen.setdefault("image", data.get("image"))
            yield class_probabilities(torch.flip(pred, flips) if flips else pred)


def _mirrored(data: Any, flips: tuple[int, ...]) -> Any:
    if flips:
        data["image"] = torch.flip(torch.as_tensor(data["image"]), flips)
    return data


def _picture(image: Any, looks: Looks) -> bytes:
    """The slice with most doubt, as far as image and probabilities lie on one grid of three axes."""
    doubt = entropy_map(looks.mean) / max(float(np.log(len(looks.mean))), 1e-6)
    if image is None or doubt.ndim != 3 or tuple(image.shape[1:]) != doubt.shape:
        return b""
    number = busiest_slice(doubt)
    shown = np.asarray(image[0, :, :, number].cpu() if torch.is_tensor(image) else image[0, :, :, number])
    return overlay_png(shown, doubt[:, :, number])


def _doubt(image: Any, looks: Looks, file: Path) -> SmallMap | None:
    """Where the doubt is, on the axes of the image's file; None if the transforms did not keep track of the place."""
    doubt = entropy_map(looks.mean)
    if not isinstance(image, MetaTensor) or doubt.ndim != 3 or tuple(image.shape[1:]) != doubt.shape:
        return None
    try:
        grid = read_grid(file)
    except LabelServerError:
        return None
    to_image = np.linalg.solve(grid.affine, np.asarray(image.affine, dtype=np.float64))
    return small_map(doubt, np.asarray(to_image, dtype=np.float64), grid.shape)


@lru_cache(maxsize=64)
def _checksum(path: Path, mtime_ns: int, size_bytes: int) -> str:
    """Of the file as it was then."""
    return sha256_of(path)

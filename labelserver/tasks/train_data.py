"""Cases for a training: checked before the first epoch, prepared once, kept in memory as far as it reaches.

`CaseDataset` computes the transforms before the first random one once per case. It keeps the results up to a byte
budget; cases beyond it are prepared again in each epoch, or read from the disk where a `case_cache` keeps them, which
the next run finds them in, too. Nothing is pickled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    RandCropByLabelClassesd,
    RandCropByPosNegLabeld,
    RandomizableTrait,
    RandSpatialCropd,
    RandSpatialCropSamplesd,
    RandWeightedCropd,
    Transform,
)
from torch.utils.data import get_worker_info

from labelserver import settings
from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import LabelServerError, TaskFailed, UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.domain.schema import NOT_ANNOTATED
from labelserver.imaging.volumes import read_grid
from labelserver.tasks.case_cache import CaseCache
from labelserver.tasks.kept_heads import FOLDER
from labelserver.tasks.prepared_cases import PreparedCases
from labelserver.tasks.split_cases import CaseMaker, SplitCases, WholeCases, split_of
from labelserver.tasks.train_context import BadCase, Case, Context
from labelserver.tasks.train_memory import DatasetKind, MemoryPlan, planned
from labelserver.tasks.train_sampled_dice import largest_channel
from labelserver.tasks.train_seeds import mixed
from labelserver.tasks.transform_code import code_hash

logger = logging.getLogger(__name__)

#: What a request may call a data set that reads from the disk what it does not hold.
BOUNDED_TYPES = ("PersistentDataset", "SmartCacheDataset")

#: They only look at what they get and hand out small views of it, so the whole volume need not be copied first.
_CROPS = (RandCropByPosNegLabeld, RandCropByLabelClassesd, RandSpatialCropd, RandSpatialCropSamplesd, RandWeightedCropd)


def as_transform(given: Any) -> Callable[[Any], Any] | None:
    """What an app's hook returned, as one callable: a list is composed, None stays None.

    Raises:
        TaskFailed: neither a list nor callable.
    """
    if isinstance(given, list | tuple):
        given = Compose(list(given))
    if given is None or callable(given):
        found: Callable[[Any], Any] | None = given
        return found
    raise TaskFailed(
        f"A transforms hook returned {type(given).__name__}; it must return a list, a Compose or a callable."
    )


class DiscreteOutputs:
    """``pred`` (C, ...) of a network and ``label`` (1, ...) to one-hot (C, ...), without being told C.

    One channel is read as a sigmoid's input, more as classes with background first. Where the label says that nobody
    looked (255), both become empty, so that no metric counts it.
    """

    def __call__(self, data: Any) -> Any:
        found = dict(data)
        pred, label = found["pred"], found["label"]
        channels = pred.shape[0]
        known = None
        if label.shape[0] == 1 and bool((unknown := label == NOT_ANNOTATED).any()):
            known = ~unknown
            label = label * known
        if channels == 1:
            found["pred"], found["label"] = (pred > 0).float(), (label > 0).float()
        else:
            found["pred"] = one_hot(largest_channel(pred)[None], channels, dim=0)
            found["label"] = one_hot(label, channels, dim=0) if label.shape[0] == 1 else label
        if known is not None:
            found["pred"], found["label"] = found["pred"] * known, found["label"] * known
        return found


def header_problem(case: Case) -> str | None:
    """What is wrong with a case as far as file headers tell: missing, unreadable, or label and image differ.

    Only keys that are paths are looked at; a type that imaging/ does not read is left to the app's own reader.
    """
    grids: dict[str, Grid] = {}
    for key in ("image", "label"):
        value = case.get(key)
        if not isinstance(value, str | PathLike):
            continue
        path = Path(value)
        if not path.exists():
            return f"The {key} file {path.name} does not exist."
        try:
            if path.is_file():
                grids[key] = read_grid(path)
        except UnsupportedFormat:
            continue
        except LabelServerError as error:
            return f"The {key} cannot be read: {error.message}"
    if len(grids) < 2:
        return None
    image, label = grids["image"], grids["label"]
    if image.same_place(label, tolerance_mm=max(image.spacing_mm)) or _only_picture_differs(image, label):
        return None
    return f"The label does not lie on its image: {image.difference(label)}."


def _only_picture_differs(image: Grid, label: Grid) -> bool:
    """A label map of a 2-D picture may be stored without the picture's position."""
    return image.shape == label.shape and image.shape[2] == 1


class CaseDataset(Dataset):
    """Cases through a transform; see the module's words. Not shared between threads.

    `epoch` is set by whoever runs the training; with it the random transforms of each access are seeded from
    (seed, epoch, index). While it is None they draw as their author left them.
    """

    def __init__(
        self,
        data: Sequence[Case],
        transform: Callable[[Any], Any] | None,
        *,
        budget_bytes: int,
        seed: int,
        prepared: Callable[[str], PreparedCases] | None = None,
    ) -> None:
        """
        Args:
            data: the cases.
            transform: of a case.
            budget_bytes: of memory for prepared cases; never exceeded.
            seed: of the run.
            prepared: gives the prepared cases on disk that these transforms (by their hash) made; None: none are kept.
        """
        super().__init__(data=list(data), transform=transform if transform is not None else dict)
        self.epoch: int | None = None
        self.cached_bytes = 0
        self._seed = seed
        self.budget_bytes = budget_bytes
        self._sizes: dict[int, int] = {}
        self._prepared: dict[int, Any] = {}
        self._first_random = _first_random(transform)
        self.on_disk: PreparedCases | None = None
        self._maker: CaseMaker = WholeCases(self.transform, None)
        if self._first_random is not None:
            self._maker = _maker(self.transform, self._first_random)
            if prepared is not None:
                code = code_hash(self.transform.transforms[: self._first_random])
                self.on_disk = prepared(code) if code is not None else None

    @property
    def keeps(self) -> bool:
        """Whether anything may stay in memory or on disk."""
        return self._first_random is not None and (self.budget_bytes > 0 or self.on_disk is not None)

    def prepare(self) -> Iterator[tuple[int, str | None]]:
        """Load every case once; yields (index, what is wrong with it or None)."""
        for index in range(len(self.data)):
            try:
                self._keep(index, self._fixed_part(index))
            except Exception as error:
                logger.warning("case cannot be loaded", exc_info=error)
                yield index, _sentence(error)
            else:
                yield index, None

    def drop(self, indices: set[int]) -> None:
        """Forget cases, by index."""
        kept = [index for index in range(len(self.data)) if index not in indices]
        self._prepared = {new: self._prepared[old] for new, old in enumerate(kept) if old in self._prepared}
        self._sizes = {new: self._sizes[old] for new, old in enumerate(kept) if old in self._sizes}
        self.data: list[Case] = [self.data[index] for index in kept]

    def sample(self) -> Any:
        """One item as the network gets it; None if there is none, or the app's transforms cannot make one."""
        try:
            self.epoch = 0
            return self._transform(0) if self.data else None
        except Exception as error:  # the app's code; the first epoch will meet it again, and say so
            logger.info("no sample of the data set", exc_info=error)
            return None
        finally:
            self.epoch = None

    def size_of(self, index: int) -> int:
        """Bytes of the case as it was prepared last; 0 before that."""
        return self._sizes.get(index, 0)

    @property
    def cached_cases(self) -> int:
        return len(self._prepared)

    def _transform(self, index: int) -> Any:
        """Overrides the base class: prepared part from memory, random part anew.

        An index beyond the end means a case again, with other random numbers.
        """
        if self.epoch is not None and get_worker_info() is None and hasattr(self.transform, "set_random_state"):
            self.transform.set_random_state(seed=mixed(self._seed, self.epoch, index))
        index %= len(self.data)
        if self._first_random is None:
            return self.transform(self.data[index])
        if index not in self._prepared:
            item = self._fixed_part(index)
            self._keep(index, item)
            if index not in self._prepared:
                return self._from_step(item, self._first_random)
        return self._random_part(self._prepared[index], self._first_random)

    def _fixed_part(self, index: int) -> Any:
        case = self.data[index]
        return (
            self._maker.made(case, None).item if self.on_disk is None else self.on_disk.get_or_make(case, self._maker)
        )

    def _random_part(self, item: Any, first: int) -> Any:
        """Run the random transforms so that they cannot change what is kept."""
        steps = self.transform.transforms
        if first < len(steps) and (isinstance(steps[first], _CROPS) or getattr(steps[first], "hands_out_views", False)):
            return self._from_step(_copied(self.transform(item, start=first, end=first + 1)), first + 1)
        return self._from_step(_copied(item), first)

    def _from_step(self, item: Any, start: int) -> Any:
        return self.transform(item, start=start) if start < len(self.transform.transforms) else item

    def _keep(self, index: int, item: Any) -> None:
        size = self._sizes[index] = _bytes_of(item)
        if self._first_random is None or index in self._prepared or self.cached_bytes + size > self.budget_bytes:
            return
        self._prepared[index] = item
        self.cached_bytes += size


def prepare_cases(context: Context, dataset: CaseDataset, what: str = "") -> None:
    """Load all cases of a data set once; what cannot be loaded is left out of the run and named.

    Before that it is said what they will take, and how they are held therefore.

    Raises:
        StopAsked: the job was asked to end meanwhile.
    """
    if not dataset.keeps:
        return
    progress, bad, last_s = current_progress(), set[int](), time.monotonic()
    plan = None
    for index, problem in dataset.prepare():
        if plan is None and problem is None:
            plan = _told_plan(context, dataset, index, what)
        if progress.should_stop():
            raise StopAsked
        if problem is not None:
            bad.add(index)
            leave_out(context, dataset.data[index], problem)
        if time.monotonic() - last_s > 1:
            last_s = time.monotonic()
            progress.report({"cases_loaded": index + 1, "cases": len(dataset.data)})
    if bad:
        gone = [dataset.data[index] for index in bad]
        dataset.drop(bad)
        for cases in (context.train_datalist, context.val_datalist):
            cases[:] = [case for case in cases if not any(case is other for other in gone)]
    if dataset.on_disk is not None:
        progress.report({"cases_prepared": dataset.on_disk.made, "cases_found": dataset.on_disk.found})
    if (plan is not None and plan.kind is DatasetKind.BOUNDED) or dataset.cached_cases < len(dataset.data):
        progress.log(f"{dataset.cached_cases} of {len(dataset.data)} cases stay in memory.")


def prepared_cases(context: Context) -> Callable[[str], PreparedCases] | None:
    """Where prepared cases of this run are kept between runs; None if nowhere."""
    limit = settings.current().case_cache_bytes
    if not context.cache_home or limit <= 0:
        return None
    cache = CaseCache(Path(context.cache_home) / FOLDER, limit)
    return lambda code: PreparedCases(cache, code, context.image_id_of)


def _told_plan(context: Context, dataset: CaseDataset, first: int, what: str) -> MemoryPlan:
    """Say what all cases will take, judging by the first."""
    plan = planned(
        dataset.data,
        dataset.size_of(first),
        dataset.budget_bytes,
        on_disk=dataset.on_disk is not None,
        wants_bounded=context.dataset_type in BOUNDED_TYPES,
    )
    current_progress().log(plan.sentence(what))
    current_progress().report({"memory_plan": plan.to_json()})
    return plan


def leave_out(context: Context, case: Case, reason: str) -> None:
    """Remember a case that is not trained on, and tell people."""
    bad = BadCase(context.image_id_of(case), reason)
    context.bad_cases.append(bad)
    current_progress().log(f"left out {bad.image}: {reason}")


class StopAsked(Exception):
    """A job was asked to end before its first step; nothing was begun that needs a checkpoint."""


def _maker(transform: Compose, first: int) -> CaseMaker:
    """Prepares cases by the steps before `first`: image and label apart, as far as that is known to be the same."""
    split = split_of(transform.transforms[:first])
    if split is None or transform.lazy:
        return WholeCases(transform, first)
    return SplitCases(split, transform, first)


def _first_random(transform: Any) -> int | None:
    """Index of the first step that may differ between two calls; None if nothing can be told about `transform`."""
    if not isinstance(transform, Compose):
        return None
    found = transform.get_index_of_first(lambda t: isinstance(t, RandomizableTrait) or not isinstance(t, Transform))
    return len(transform.transforms) if found is None else int(found)


def _copied(item: Any) -> Any:
    """Own tensors and arrays; a view is copied alone, without the volume behind it."""
    if isinstance(item, list):
        return [_copied(part) for part in item]
    if isinstance(item, dict):
        return {key: _copied(value) for key, value in item.items()}
    if isinstance(item, torch.Tensor):
        return item.clone()
    return item.copy() if isinstance(item, np.ndarray) else item


def _bytes_of(item: Any) -> int:
    if isinstance(item, list | tuple):
        return sum(_bytes_of(part) for part in item)
    if isinstance(item, dict):
        return sum(_bytes_of(value) for value in item.values())
    if isinstance(item, torch.Tensor):
        return item.numel() * item.element_size()
    return int(item.nbytes) if isinstance(item, np.ndarray) else 0


def _sentence(error: Exception) -> str:
    """The innermost cause in one line: MONAI wraps what a transform raised in its own error."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = cause.message if isinstance(cause, LabelServerError) else str(cause)
    return (text.strip().splitlines() or [type(cause).__name__])[0][:300]

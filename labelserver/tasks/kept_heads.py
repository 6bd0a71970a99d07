"""Prepared images on disk: what one process made of an image, inference, scoring and other workers find there.

They lie among the prepared cases of trainings (`case_cache`), under the same rule for names and within the same limit.
Whoever knows which image of a store is meant says so (`image_places.kept_as`); else nothing is read or written here.

Nobody who waits for a click waits for the disk: entries are written by a thread of its own, at most two wait for it,
and a call in a hurry does not read a file to find out its checksum. An image that is made as fast as it is read is not
written at all. A tensor may be in the hands of a call while it is written; if that call wrote into it, the entry is
thrown away.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import CastToTyped, DivisiblePadd, EnsureTyped, SpatialPadd, ToTensord
from monai.utils import TraceKeys
from torch.utils.data import get_worker_info

from labelserver import settings
from labelserver.tasks.case_cache import CaseCache
from labelserver.tasks.image_places import current_place
from labelserver.tasks.prepared_images import content_of, size_bytes_of

logger = logging.getLogger(__name__)

#: of the store's ``cache/``
FOLDER = "cases"

#: bytes per second and seconds; what a usual SATA disk reads when nothing is in memory, and how long it takes to begin
_READ_RATE, _READ_START_S = 400e6, 0.02
#: by how much making must take longer than reading
_WORTH = 2.0
#: seconds; a file may change twice within the tick of its clock, so what was read from a younger one is not kept
_SETTLED_S = 2.0
#: Steps that take no time worth mentioning; what comes before the last of the others is kept.
_CHEAP = frozenset({EnsureTyped, CastToTyped, ToTensord, SpatialPadd, DivisiblePadd})
#: entries that may wait for the disk; each holds an image in memory
_MOST_WAITING = 2


@dataclass(frozen=True, slots=True)
class Head:
    """What the kept steps made, and the image's shape and metadata before each step in between, in their order."""

    values: dict[str, Any]
    stand_ins: tuple[MetaTensor, ...]


def stand_in(shape: tuple[int, ...], dtype: torch.dtype, meta: Mapping[str, Any], steps: list[Any]) -> MetaTensor:
    """An image around a single voxel."""
    voxel = torch.zeros((), dtype=dtype)
    return MetaTensor(voxel.expand(shape), meta=dict(meta), applied_operations=list(steps))


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the prepared forms of one image lie."""

    cache: CaseCache
    image_id: str
    in_a_hurry: bool  #: somebody waits for an answer

    def find(self, input_key: str, path: str, code: str) -> Head | None:
        """What was kept of the file at `path` by steps of this `code`."""
        case = {input_key: path}
        key = self.cache.key_of(case, self.image_id, code, in_a_hurry=self.in_a_hurry)
        found = self.cache.load(key, self.image_id, case, elsewhere=not self.in_a_hurry) if key is not None else None
        return _unpacked(found) if found is not None else None

    def keep(
        self,
        input_key: str,
        path: str,
        code: str,
        content: Hashable,
        head: Head,
        made_s: float,
        *,
        whatever_it_takes: bool = False,
    ) -> None:
        """Bring `head` to the disk soon, if that is worth it.

        Args:
            input_key, path: of the image.
            code: of the steps.
            content: of the file when it was read (`prepared_images.content_of`).
            head: is not changed any more, but for what a call does to tensors that it borrowed.
            made_s: how long it took.
            whatever_it_takes: a copy, also if it is not worth it or the file is young; a training counts on finding it.
        """
        worth = is_worth_reading(made_s, size_bytes_of(head)) and _was_settled(path, made_s)
        if not worth and not whatever_it_takes:
            return
        head = _snapshot(head, copy=whatever_it_takes)
        versions = [(tensor, tensor._version) for tensor in map(_plain, head.values.values()) if tensor is not None]
        case = {input_key: path}

        def is_as_it_was() -> bool:
            return content_of(path) == content and all(tensor._version == version for tensor, version in versions)

        def write() -> None:
            try:
                bring_to_disk()
            except Exception as error:  # nobody asks this thread; what cannot be kept is made again
                logger.warning("a prepared image could not be kept", exc_info=error)

        def bring_to_disk() -> None:
            key = self.cache.key_of(case, self.image_id, code)  # hashes the file where nobody remembers it
            entry = self.cache.entry_of(case, _packed(head), copy=False)
            if key is None or entry is None:
                return
            self.cache.write(key, self.image_id, entry, is_as_it_was)
            if not Path(path).exists():  # erased meanwhile, and its folder with it
                self.cache.forget(key, self.image_id)

        if get_worker_info() is not None:  # a process of a training's loader has no threads of ours
            write()
        else:
            _writer.submit(write, wait=not self.in_a_hurry)


class _Writer:
    """The thread that writes; not begun before there is something to write. `_lock` guards the two fields."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Future[None]] = []
        self._lock = threading.Lock()

    def submit(self, write: Callable[[], None], *, wait: bool) -> None:
        """Have `write` called; if too much waits already, wait for it or leave it."""
        while (first := self._first_waiting(_MOST_WAITING)) is not None:
            if not wait:
                return
            _awaited(first)
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="kept-heads")
            self._waiting.append(self._pool.submit(write))

    def settle(self) -> None:
        while (first := self._first_waiting(1)) is not None:
            _awaited(first)

    def _first_waiting(self, count: int) -> Future[None] | None:
        """The first of at least `count` that wait."""
        with self._lock:
            self._waiting = [future for future in self._waiting if not future.done()]
            return self._waiting[0] if len(self._waiting) >= count else None


def _awaited(future: Future[None]) -> None:
    futures.wait([future])


_writer = _Writer()


def current_shelf() -> Shelf | None:
    """Of the image at work in this call; None if nothing of it is kept."""
    place, limit = current_place(), settings.current().case_cache_bytes
    if place is None or limit <= 0:
        return None
    return Shelf(CaseCache(Path(place.home) / FOLDER, limit), place.image_id, place.in_a_hurry)


def settle() -> None:
    """Wait until everything is on the disk."""
    _writer.settle()


def is_worth_reading(made_s: float, size_bytes: int) -> bool:
    """Whether an image that took `made_s` is better read again than made again, even by a slow disk."""
    return made_s > _WORTH * (_READ_START_S + size_bytes / _READ_RATE)


def cut_after(steps: Sequence[Any]) -> int:
    """How many of the steps to keep: up to the last that costs much. Trainings and inference differ in the others."""
    costly = [index for index, step in enumerate(steps) if type(step) not in _CHEAP]
    return costly[-1] + 1 if costly else 0


def code_of(steps_code: str, input_key: str, count: int, looking: tuple[int, ...]) -> str:
    """The code of a head.

    Args:
        steps_code: `transform_code.code_hash` of its steps.
        input_key: that they work on.
        count: of the steps.
        looking: after how many of them each step in between looks at the image.
    """
    return sha256(json.dumps(["head", steps_code, input_key, count, looking]).encode()).hexdigest()


def without_ids(data: Mapping[str, Any]) -> dict[str, Any]:
    """With traces that newly built transforms can invert, told by class."""
    for value in data.values():
        if isinstance(value, MetaTensor):
            value.applied_operations = [{**op, TraceKeys.ID: TraceKeys.NONE} for op in value.applied_operations]
    return dict(data)


def _was_settled(path: str, made_s: float) -> bool:
    """Whether the file had not been touched lately when the making began."""
    try:
        status = Path(path).stat()
    except OSError:
        return False
    return time.time() - made_s - max(status.st_mtime, status.st_ctime) > _SETTLED_S


def _snapshot(head: Head, *, copy: bool) -> Head:
    """With metadata of its own, as later steps may add to it; unless `copy` around the same voxels."""
    values = {}
    for name, value in head.values.items():
        if copy and torch.is_tensor(value):
            values[name] = value.clone()
        elif isinstance(value, MetaTensor):
            meta, steps = deepcopy(value.meta), deepcopy(value.applied_operations)
            values[name] = MetaTensor(value.as_tensor(), meta=meta, applied_operations=steps)
        else:
            values[name] = value
    return Head(values, head.stand_ins)


def _plain(value: Any) -> torch.Tensor | None:
    if isinstance(value, MetaTensor):
        value = value.as_tensor()
    return value if isinstance(value, torch.Tensor) else None


def _packed(head: Head) -> dict[str, Any]:
    """As arrays and plain values; a stand-in without its voxels."""
    return {
        "values": dict(head.values),
        "devices": {name: str(value.device) for name, value in head.values.items() if torch.is_tensor(value)},
        "stand_ins": [
            [list(image.shape), str(image.dtype), dict(image.meta), list(image.applied_operations)]
            for image in head.stand_ins
        ],
    }


def _unpacked(found: Any) -> Head | None:
    values, devices = dict(found["values"]), found["devices"]
    try:
        for name, device in devices.items():
            values[name] = values[name].to(device)
    except RuntimeError:  # a device that is not here, or full
        return None
    stand_ins = tuple(
        stand_in(tuple(shape), getattr(torch, dtype.removeprefix("torch.")), meta, steps)
        for shape, dtype, meta, steps in found["stand_ins"]
    )
    return Head(values, stand_ins)

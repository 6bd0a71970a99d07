"""The prepared cases on disk as one data set sees them. Written by a thread of its own while the next is prepared."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.utils.data import get_worker_info

from labelserver.tasks import kept_heads
from labelserver.tasks.case_cache import CaseCache
from labelserver.tasks.kept_heads import Shelf
from labelserver.tasks.split_cases import CaseMaker
from labelserver.tasks.train_context import Case


class PreparedCases:
    """The cache with the transforms of one data set and whose cases they are. Not shared between threads.

    At most two entries wait for the thread that writes.
    """

    def __init__(self, cache: CaseCache, code: str, image_id_of: Callable[[Case], str]) -> None:
        self._cache, self._code, self._image_id_of = cache, code, image_id_of
        self._keys: dict[int, str | None] = {}  #: by the identity of the case, which lives as long as the data set
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="prepared-cases")
        self._writing: OrderedDict[str, Future[bool]] = OrderedDict()
        self.found = 0
        self.made = 0

    def get_or_make(self, case: Case, maker: CaseMaker) -> Any:
        """What the transforms make of `case`. Raises whatever they raise."""
        image_id = self._image_id_of(case)
        shelf = Shelf(self._cache, image_id, in_a_hurry=False)
        if id(case) not in self._keys:
            self._keys[id(case)] = self._cache.key_of(case, image_id, self._code)
        key = self._keys[id(case)]
        if key is not None and key in self._writing:
            self._writing.pop(key).result()
        kept = self._cache.load(key, image_id, case) if key is not None else None
        if kept is not None:
            self.found += 1
            return maker.restored(case, kept, shelf)
        made = maker.made(case, shelf)
        self.made += 1
        if key is not None:
            self._save(key, image_id, case, made.kept)
        return made.item

    def settle(self) -> None:
        """Wait until everything is written."""
        while self._writing:
            self._writing.popitem()[1].result()
        kept_heads.settle()

    def _save(self, key: str, image_id: str, case: Case, kept: Any) -> None:
        entry = self._cache.entry_of(case, kept)
        if entry is None:
            return
        if get_worker_info() is not None:  # a process of the loader's has no threads of ours
            self._cache.write(key, image_id, entry)
            return
        while len(self._writing) > 1:
            self._writing.popitem(last=False)[1].result()
        self._writing[key] = self._writer.submit(self._cache.write, key, image_id, entry)

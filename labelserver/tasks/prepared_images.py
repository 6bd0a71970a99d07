"""What was made of an image stays in memory for the next click: one budget for all tasks and interactive sessions.

`PreparedImages` is a table from a key to whatever `make` gave, least recently used out first. Whoever builds a key puts
into it everything that the value depends on (`content_of` tells which file it is), so an entry never has to be changed:
a changed image or option simply has another key. Values are shared: nobody writes into one (see `lending`).

Locks: `_lock` guards table, sizes and counters and is never held while a value is made. Each key under work has a lock
of its own, so that two first requests for one image make it once; a thread holds at most one of these at a time unless
`make` itself asks for another key, and keys must then not ask for each other in a circle.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from labelserver import settings
from labelserver.storage.memory import available_memory_bytes

_Value = TypeVar("_Value")

#: share of the memory that is free at the first use, where no setting says how much
DEFAULT_SHARE = 0.125
#: bytes; what a value without arrays is counted as
SMALL_BYTES = 1024
#: files of a folder that tell one series from another; more are not looked at one by one
_MOST_FILES = 20_000


@dataclass(frozen=True, slots=True)
class Counters:
    """What happened since the table was made; for tests and for people who tune the budget."""

    made: int = 0  #: values that had to be made
    found: int = 0  #: values that were there
    evicted: int = 0  #: values that made room for others
    held: int = 0  #: values in memory now
    held_bytes: int = 0


class PreparedImages:
    """A table with a budget in bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()  # Any: the values of all callers
        self._making: dict[Hashable, tuple[threading.Lock, int]] = {}
        self._made = self._found = self._evicted = self._bytes = 0

    def get_or_make(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value of `key`, made now if it is not there. A value larger than the budget is not kept.

        Raises whatever `make` raises; then nothing is kept and the next caller makes it.
        """
        found, value = self._lookup(key)
        if found:
            return value  # type: ignore[no-any-return]  # a key has one type of value, its maker's
        with self._alone(key):
            found, value = self._lookup(key)
            if found:
                return value  # type: ignore[no-any-return]
            made = make()
            with self._lock:
                self._made += 1
            self.put(key, made)
            return made

    def find(self, key: Hashable) -> Any | None:
        """The value of `key` if it is there."""
        return self._lookup(key)[1]

    def put(self, key: Hashable, value: object) -> None:
        """Keep `value`, and let go of what was not used for longest."""
        size = size_bytes_of(value)
        with self._lock:
            self._drop(key)
            if size > self.budget_bytes:
                return
            self._entries[key] = (value, size)
            self._bytes += size
            while self._bytes > self.budget_bytes:
                self._drop(next(iter(self._entries)))
                self._evicted += 1

    def forget(self, key: Hashable) -> None:
        """Let go of one value."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def counters(self) -> Counters:
        with self._lock:
            return Counters(self._made, self._found, self._evicted, len(self._entries), self._bytes)

    def _lookup(self, key: Hashable) -> tuple[bool, Any]:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return False, None
            self._entries.move_to_end(key)
            self._found += 1
            return True, entry[0]

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]

    @contextmanager
    def _alone(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of `key`; it exists while anybody holds or awaits it."""
        with self._lock:
            lock, waiting = self._making.get(key, (threading.Lock(), 0))
            self._making[key] = (lock, waiting + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, waiting = self._making[key]
                if waiting == 1:
                    del self._making[key]
                else:
                    self._making[key] = (lock, waiting - 1)


def size_bytes_of(value: object) -> int:
    """Bytes of the tensors and arrays inside `value`: alone, in mappings, sequences and dataclasses.

    A tensor that is a view counts with all that it keeps in memory.
    """
    storage = getattr(value, "untyped_storage", None)
    if storage is not None:
        return int(storage().nbytes())
    if hasattr(value, "nbytes"):
        base = getattr(value, "base", None)
        return int(max(value.nbytes, getattr(base, "nbytes", 0)))
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if isinstance(value, Mapping):
        return SMALL_BYTES + sum(size_bytes_of(part) for part in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return SMALL_BYTES + sum(size_bytes_of(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return SMALL_BYTES + sum(size_bytes_of(getattr(value, part.name)) for part in fields(value))
    return SMALL_BYTES


def content_of(path: str | Path) -> Hashable | None:
    """What tells the content of a file, or of all files in a folder, from any other; None if it cannot be told.

    Device, inode, size, and the times of the last change of content (ns) and of anything (ns), which no program can
    set back. Links count as what they point to.
    """
    here = Path(path)
    try:
        if not here.is_dir():
            return (_extension(here), _identity(here.stat()))
        found = []
        for folder, _, names in os.walk(here):
            found += [(name, _identity(Path(folder, name).stat())) for name in names]
            if len(found) > _MOST_FILES:
                return None
    except OSError:
        return None
    return tuple(sorted(found))


def _identity(stat: os.stat_result) -> tuple[int, int, int, int, int]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _extension(path: Path) -> str:
    """Readers choose by the name's end, so the same bytes under another extension are another image."""
    return "".join(path.suffixes[-2:]).lower()


_shared: PreparedImages | None = None
_sharing = threading.Lock()


def shared() -> PreparedImages:
    """The table of this process, with the budget that its settings say."""
    global _shared
    with _sharing:
        if _shared is None:
            chosen = settings.current().prepared_images_bytes
            _shared = PreparedImages(chosen or int(available_memory_bytes() * DEFAULT_SHARE))
        return _shared

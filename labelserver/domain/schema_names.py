"""Which entry of a label schema a name, an id or a voxel value means, found without walking through all entries."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labelserver.domain.schema import SchemaEntry

PLAIN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+ -]{0,62}$")

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.+-]+")
#: What viewers call a segment that nobody named; two of them are not the same thing.
_GENERIC_ID = re.compile(r"^(segment[_ ]?\d+|\d+(\+\d+)?)$", re.IGNORECASE)


class SchemaNames:
    """The entries of one schema by what they are called. Where two share a former name, the first one given has it."""

    __slots__ = ("_folded", "_former", "_lowest_free", "_named", "by_id", "by_value")

    def __init__(self, entries: Iterable[SchemaEntry] = ()) -> None:
        self.by_id: dict[str, SchemaEntry] = {}
        self.by_value: dict[int, SchemaEntry] = {}
        self._named: dict[str, SchemaEntry] = {}
        self._former: dict[str, SchemaEntry] = {}
        self._folded: dict[str, SchemaEntry] = {}
        self._lowest_free = 1
        for entry in entries:
            self.add(entry)

    def copy(self) -> SchemaNames:
        """To grow, while the older schema keeps its own."""
        new = SchemaNames()
        new.by_id, new.by_value = self.by_id.copy(), self.by_value.copy()
        new._named, new._former, new._folded = self._named.copy(), self._former.copy(), self._folded.copy()
        new._lowest_free = self._lowest_free
        return new

    def add(self, entry: SchemaEntry) -> None:
        """Know one more entry."""
        self.by_id.setdefault(entry.id, entry)
        self.by_value.setdefault(entry.value, entry)
        self._named.setdefault(entry.name, entry)
        self._folded.setdefault(entry.name.casefold(), entry)
        for former in entry.former_names:
            self._former.setdefault(former.casefold(), entry)

    def find(self, name: str, segment_id: str) -> SchemaEntry | None:
        """By name, by a former name, by either without regard to case, by a viewer's id that is one of ours."""
        exact = self._named.get(name)
        if exact is not None:
            return exact
        folded = name.casefold()
        found = self._former.get(folded) or self._folded.get(folded)
        if found is None and segment_id and not _GENERIC_ID.match(segment_id):
            found = self.by_id.get(segment_id)
        return found

    def lowest_free(self, reserved: int) -> int:
        """The lowest voxel value from 1 on that no entry has, other than `reserved`."""
        while self._lowest_free in self.by_value or self._lowest_free == reserved:
            self._lowest_free += 1
        return self._lowest_free

    def free_id(self, name: str) -> str:
        """An id for an entry of this name."""
        base = name if PLAIN_ID.match(name) else _NOT_PLAIN.sub("-", name).strip("-_.+")[:50] or "label"
        number, chosen = 1, base
        while chosen in self.by_id:
            number += 1
            chosen = f"{base}-{number}"
        return chosen

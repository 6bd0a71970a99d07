"""The store as a strategy sees it that chooses for one person: what others have does not exist.

An image is offered to a person if somebody should still be given it (`open`), fewer people have or read it than should,
he is none of its readers, has not skipped it, and it is of none but his own groups.
"""
# ruff: noqa: S608  statements are put together from constants alone; what people wrote is bound

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from labelserver.datastore.catalog import Catalog
from labelserver.datastore.image_lists import ImageLists
from labelserver.datastore.index import Index
from labelserver.datastore.plain_json import load_object
from labelserver.datastore.work_schema import FIRST_AUTHOR, IS_READING
from labelserver.domain.ids import FINAL
from labelserver.domain.json_types import JsonObject
from labelserver.domain.work import Workflow

#: Images read at once while a strategy walks along a list: few at first, because most strategies take the first.
_STEP, _LONGEST_STEP = 8, 512

#: Random rows looked at per image wanted, before all open images are listed instead: then they are rare.
_TRIES = 16

_TAKEN = (
    "SELECT tag FROM leases WHERE leases.image_id = images.id AND until_ts > :now "
    f"UNION SELECT tag FROM labels WHERE labels.image_id = images.id AND shown = 1 AND tag {IS_READING}"
)

_OWN_READING = (
    f"SELECT 1 FROM labels WHERE labels.image_id = images.id AND shown = 1 AND tag {IS_READING} "
    f"AND {FIRST_AUTHOR} = :person"
)

#: "+" keeps SQLite to the image's leases: somebody who stands for many (all programs behind one address) has hundreds.
_NOT_HIS_NOW = (
    "NOT EXISTS (SELECT 1 FROM leases WHERE leases.image_id = images.id AND +person = :person AND until_ts > :now)"
)

_NOT_SKIPPED = "NOT EXISTS (SELECT 1 FROM skips WHERE skips.image_id = images.id AND skips.person = :person)"

_HAS_PLACE = (
    "((stage = 'unlabeled' AND NOT EXISTS ("
    "SELECT 1 FROM leases WHERE leases.image_id = images.id AND until_ts > :now)) OR "
    f"(readers > 1 AND {_NOT_HIS_NOW} AND (SELECT COUNT(*) FROM ({_TAKEN})) < readers AND NOT EXISTS ({_OWN_READING})))"
)

Params = dict[str, str | float | int]


@dataclass(frozen=True, slots=True)
class Offered:
    """Which images are offered to `person`. `again`: also those that he skipped."""

    workflow: Workflow
    person: str
    now: float
    again: bool = False

    @property
    def where(self) -> str:
        """A condition on `images`, for `params`; without the returned ones."""
        skipped = [] if self.again else [_NOT_SKIPPED]
        return " AND ".join(("images.open = 1 AND stage <> 'returned'", *skipped, _HAS_PLACE, self.mine))

    @property
    def mine(self) -> str:
        """A condition on `images`: none of other people's groups alone."""
        own, all_patterns = self._patterns()
        if not all_patterns:
            return "1"
        his = " OR ".join(f"images.id GLOB :own{n}" for n in range(len(own))) or "0"
        groups = " OR ".join(f"images.id GLOB :group{n}" for n in range(len(all_patterns)))
        return f"({his} OR NOT ({groups}))"

    def params(self, **more: str | float | int) -> Params:
        own, all_patterns = self._patterns()
        patterns: Params = {f"own{n}": p for n, p in enumerate(own)}
        patterns |= {f"group{n}": p for n, p in enumerate(all_patterns)}
        return {"person": self.person, "now": self.now, **patterns, **more}

    def _patterns(self) -> tuple[list[str], list[str]]:
        own = [p for group in self.workflow.groups_of(self.person) for p in group.images]
        return own, [p for group in self.workflow.groups for p in group.images]

    def includes(self, connection: sqlite3.Connection, image_id: str) -> bool:
        """Is this image offered?"""
        return bool(
            connection.execute(
                f"SELECT 1 FROM images WHERE images.id = :id AND {self.where}", self.params(id=image_id)
            ).fetchone()
        )


class OfferedLists(ImageLists):
    """Lists of unlabeled images without those that are not offered."""

    def __init__(self, index: Index, prefix: str, offered: Offered) -> None:
        super().__init__(index, prefix)
        self._offered = offered

    def unlabeled(self, *, last_first: bool = False) -> Iterator[tuple[str, JsonObject]]:
        order, compare, image_id = ("DESC", "<", "\U0010ffff") if last_first else ("ASC", ">", "")
        statement = (
            f"SELECT id, info FROM images WHERE {self._offered.where} AND id {compare} :id "
            f"ORDER BY id {order} LIMIT :step"
        )
        step = _STEP
        while True:
            with self._index.reading() as connection:
                rows = connection.execute(statement, self._offered.params(id=image_id, step=step)).fetchall()
            for image_id, info in rows:
                yield image_id, load_object(info)
            if len(rows) < step:
                return
            step = min(2 * step, _LONGEST_STEP)

    def unlabeled_by_score(self, key: str) -> Iterator[tuple[str, float, JsonObject]]:
        value, image_id = math.inf, ""
        statement = (
            "SELECT images.id, value, images.info FROM scores CROSS JOIN images ON images.id = scores.image_id "
            "WHERE key = :key AND scores.open = 1 AND value <= :value AND (value < :value OR scores.image_id > :id) "
            f"AND {self._offered.where} ORDER BY value DESC, scores.image_id LIMIT :step"
        )
        step = _STEP
        while True:
            params = self._offered.params(key=key, value=value, id=image_id, step=step)
            with self._index.reading() as connection:
                rows = connection.execute(statement, params).fetchall()
            for image_id, value, info in rows:
                yield image_id, value, load_object(info)
            if len(rows) < step:
                return
            step = min(2 * step, _LONGEST_STEP)

    def sample_unlabeled(self, count: int) -> list[tuple[str, JsonObject]]:
        where, params = self._offered.where, self._offered.params()
        with self._index.reading() as connection:
            highest = int(connection.execute("SELECT COALESCE(MAX(rowid), 0) FROM images").fetchone()[0])
            found: dict[str, str] = {}
            for _ in range(count * _TRIES if highest > count * _TRIES else 0):
                row = connection.execute(
                    f"SELECT id, info FROM images WHERE rowid = :row AND {where}",
                    {**params, "row": random.randint(1, highest)},
                ).fetchone()
                if row is not None:
                    found[row[0]] = row[1]
                    if len(found) == count:
                        return [(image_id, load_object(info)) for image_id, info in found.items()]
            ids = [row[0] for row in connection.execute(f"SELECT id FROM images WHERE {where}", params)]
            chosen = ids if len(ids) <= count else random.sample(ids, count)
            infos = [connection.execute("SELECT info FROM images WHERE id = ?", (i,)).fetchone()[0] for i in chosen]
        return [(image_id, load_object(info)) for image_id, info in zip(chosen, infos, strict=True)]


class OfferedCatalog(Catalog):
    """Whole lists without images that others have or that are flagged."""

    def __init__(self, index: Index, offered: Offered) -> None:
        super().__init__(index)
        self._offered = offered

    def list_images(self) -> list[str]:
        condition = f"state = 'present' AND stage <> 'flagged' AND (open = 0 OR {self._offered.where})"
        with self._index.reading() as connection:
            rows = connection.execute(f"SELECT id FROM images WHERE {condition} ORDER BY id", self._offered.params())
            return [row[0] for row in rows]

    def unlabeled(self, tag: str, labels: Collection[str] = ()) -> list[str]:
        if tag != FINAL or labels:
            there = set(self.list_images())
            return [image_id for image_id in super().unlabeled(tag, labels) if image_id in there]
        with self._index.reading() as connection:
            rows = connection.execute(
                f"SELECT id FROM images WHERE {self._offered.where} ORDER BY id", self._offered.params()
            )
            return [row[0] for row in rows]

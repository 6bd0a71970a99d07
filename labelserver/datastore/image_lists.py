"""Lists of images in pages that cost the same in a store of any size: each continues along an index of SQLite.

No connection is held between two pages, so that a reader may take its time. An image that changes its place meanwhile
may be seen twice or missed; all others are seen once.
"""
# ruff: noqa: S608  statements are put together from constants alone

from __future__ import annotations

import math
import random
import sqlite3
import time
from collections.abc import Iterator

from labelserver.datastore.image_work import works_in
from labelserver.datastore.index import Index
from labelserver.datastore.plain_json import load_object
from labelserver.datastore.sides import sides_in
from labelserver.domain.errors import InvalidParams
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.image_lists import ImagePage, ImageQuery, LabelState, ListedImage
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ImageKind, ImageRecord
from labelserver.domain.splits import ImageSide
from labelserver.domain.work import ImageWork

#: images read at once while somebody walks along a list
_STEP = 64

#: Random rows looked at per image wanted, before all waiting images are listed instead: then they are rare.
_TRIES = 16

_COLUMNS = "id, path, kind, ext, info"
_HAS_LABEL = "EXISTS (SELECT 1 FROM labels WHERE image_id = id AND tag = :tag AND shown = 1)"

#: By id: what is listed from, and the condition, for each state. The tag ``final`` has an index of its own.
_BY_ID = {
    LabelState.ALL: ("images", "state = 'present'"),
    LabelState.LABELED: ("labels CROSS JOIN images ON id = image_id", "tag = :tag AND shown = 1"),
    LabelState.UNLABELED: ("images", f"state = 'present' AND NOT {_HAS_LABEL}"),
}
_WAITING = ("images", "waiting = 1")

#: By score: which halves of the index are walked (1: waiting), and the condition.
_BY_SCORE = {
    LabelState.ALL: ((1, 0), "state = 'present'"),
    LabelState.LABELED: ((1, 0), f"state = 'present' AND {_HAS_LABEL}"),
    LabelState.UNLABELED: ((1, 0), f"state = 'present' AND NOT {_HAS_LABEL}"),
}
_BY_SCORE_FINAL = {
    **_BY_SCORE,
    LabelState.LABELED: ((0,), f"state = 'present' AND {_HAS_LABEL}"),
    LabelState.UNLABELED: ((1,), "state = 'present'"),
}

#: An unlabeled image that somebody has now is shown as a draft; no trigger can know when a lease ends.
_HELD = "EXISTS (SELECT 1 FROM leases WHERE leases.image_id = images.id AND until_ts > :now)"
_STAGE = f"""(CASE WHEN :stage = 'draft' THEN (stage = 'draft' OR (stage = 'unlabeled' AND {_HELD}))
    WHEN :stage = 'unlabeled' THEN (stage = 'unlabeled' AND NOT {_HELD}) ELSE stage = :stage END)"""

_Row = tuple[str, str, str, str, str, float | None]  #: id, path, kind, ext, info, score


class ImageLists:
    """Pages and walks over the present images of one store."""

    def __init__(self, index: Index, prefix: str) -> None:
        """`prefix` leads from the studies folder to the images folder."""
        self._index = index
        self._prefix = prefix

    def page(self, query: ImageQuery) -> ImagePage:
        """One page. Raises `InvalidParams` for an `after` that is of no page in this order."""
        with self._index.reading() as connection:
            rows = _by_score(connection, query) if query.score else _by_id(connection, query)
            more, rows = len(rows) > query.limit, rows[: query.limit]
            tags = _tags(connection, [row[0] for row in rows])
            sides = sides_in(connection, [row[0] for row in rows])
            works = works_in(connection, [row[0] for row in rows], time.time())
        listed = tuple(self._listed(row, tags.get(row[0], []), sides.get(row[0]), works.get(row[0])) for row in rows)
        if not more:
            return ImagePage(listed)
        last = rows[-1]
        return ImagePage(listed, f"{last[5]!r}/{last[0]}" if query.score else last[0])

    def unlabeled(self, *, last_first: bool = False) -> Iterator[tuple[str, JsonObject]]:
        """(id, info) of images without a final label, by id."""
        order, compare, image_id = ("DESC", "<", "\U0010ffff") if last_first else ("ASC", ">", "")
        statement = (
            f"SELECT id, info FROM images WHERE waiting = 1 AND id {compare} ? ORDER BY id {order} LIMIT {_STEP}"
        )
        while True:
            with self._index.reading() as connection:
                rows = connection.execute(statement, (image_id,)).fetchall()
            for image_id, info in rows:
                yield image_id, load_object(info)
            if len(rows) < _STEP:
                return

    def unlabeled_by_score(self, key: str) -> Iterator[tuple[str, float, JsonObject]]:
        """(id, score, info) of images without a final label that have the score, the highest first; ties by id."""
        value, image_id = math.inf, ""
        while True:
            with self._index.reading() as connection:
                rows = _range(connection, key, 1, "state = 'present'", FINAL, (value, image_id), True, _STEP)
            for row in rows:
                value, image_id = float(row[5] or 0.0), row[0]
                yield image_id, value, load_object(row[4])
            if len(rows) < _STEP:
                return

    def sample_unlabeled(self, count: int) -> list[tuple[str, JsonObject]]:
        """(id, info) of up to `count` images without a final label, each as likely as any other."""
        with self._index.reading() as connection:
            highest = int(connection.execute("SELECT COALESCE(MAX(rowid), 0) FROM images").fetchone()[0])
            found: dict[str, str] = {}
            for _ in range(count * _TRIES if highest > count * _TRIES else 0):
                row = connection.execute(
                    "SELECT id, info FROM images WHERE rowid = ? AND waiting = 1", (random.randint(1, highest),)
                ).fetchone()
                if row is not None:
                    found[row[0]] = row[1]
                    if len(found) == count:
                        return [(image_id, load_object(info)) for image_id, info in found.items()]
            ids = [row[0] for row in connection.execute("SELECT id FROM images WHERE waiting = 1")]
            chosen = ids if len(ids) <= count else random.sample(ids, count)
            infos = [connection.execute("SELECT info FROM images WHERE id = ?", (i,)).fetchone()[0] for i in chosen]
        return [(image_id, load_object(info)) for image_id, info in zip(chosen, infos, strict=True)]

    def _listed(self, row: _Row, tags: list[str], side: ImageSide | None, work: ImageWork | None) -> ListedImage:
        image_id, path, kind, ext, info, score = row
        record = ImageRecord(ImageId(image_id), ImageKind(kind), ext, f"{self._prefix}{path}", load_object(info))
        return ListedImage(record, tuple(tags), score, side, work)


def _by_id(connection: sqlite3.Connection, query: ImageQuery) -> list[_Row]:
    waiting = query.state is LabelState.UNLABELED and query.tag == FINAL
    source, condition = _WAITING if waiting else _BY_ID[query.state]
    condition = f"{condition} AND {_STAGE}" if query.stage is not None else condition
    column = "image_id" if query.state is LabelState.LABELED else "id"
    columns = ", ".join(f"images.{name}" for name in _COLUMNS.split(", "))
    return connection.execute(
        f"SELECT {columns}, NULL FROM {source} WHERE {condition} AND {column} > :after ORDER BY {column} LIMIT :limit",
        {"tag": query.tag, "after": query.after, "limit": query.limit + 1, **_staged(query)},
    ).fetchall()


def _by_score(connection: sqlite3.Connection, query: ImageQuery) -> list[_Row]:
    halves, condition = (_BY_SCORE_FINAL if query.tag == FINAL else _BY_SCORE)[query.state]
    condition = f"{condition} AND {_STAGE}" if query.stage is not None else condition
    after = _place(query)
    rows = [
        row
        for waiting in halves
        for row in _range(
            connection,
            query.score,
            waiting,
            condition,
            query.tag,
            after,
            query.highest_first,
            query.limit + 1,
            _staged(query),
        )
    ]
    sign = -1.0 if query.highest_first else 1.0
    return sorted(rows, key=lambda row: (sign * float(row[5] or 0.0), row[0]))


def _range(
    connection: sqlite3.Connection,
    key: str,
    waiting: int,
    condition: str,
    tag: str,
    after: tuple[float, str],
    highest_first: bool,
    limit: int,
    staged: dict[str, str | float] | None = None,
) -> list[_Row]:
    """Rows with the score `key` behind `after`, along one half of the index ``scores_by_value``."""
    compare, order = ("<", "DESC") if highest_first else (">", "ASC")
    columns = ", ".join(f"images.{name}" for name in _COLUMNS.split(", "))
    return connection.execute(
        f"SELECT {columns}, value FROM scores CROSS JOIN images ON id = scores.image_id "
        f"WHERE key = :key AND scores.waiting = :waiting AND value {compare}= :value "
        f"AND (value {compare} :value OR scores.image_id > :id) AND {condition} "
        f"ORDER BY value {order}, scores.image_id LIMIT :limit",
        {
            "key": key,
            "waiting": waiting,
            "value": after[0],
            "id": after[1],
            "tag": tag,
            "limit": limit,
            **(staged or {}),
        },
    ).fetchall()


def _staged(query: ImageQuery) -> dict[str, str | float]:
    return {} if query.stage is None else {"stage": query.stage.value, "now": time.time()}


def _place(query: ImageQuery) -> tuple[float, str]:
    """Score and id after which the page begins."""
    if not query.after:
        return (math.inf if query.highest_first else -math.inf), ""
    value, slash, image_id = query.after.partition("/")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not slash or not math.isfinite(number):
        raise InvalidParams("'after' does not come from a page in this order. Send the 'next' of the page before.")
    return number, image_id


def _tags(connection: sqlite3.Connection, image_ids: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    marks = ", ".join("?" * len(image_ids))
    for image_id, tag in connection.execute(
        f"SELECT image_id, tag FROM labels WHERE shown = 1 AND image_id IN ({marks}) ORDER BY image_id, position",
        image_ids,
    ):
        found.setdefault(image_id, []).append(tag)
    return found

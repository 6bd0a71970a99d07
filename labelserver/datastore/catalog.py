"""What the index answers about images and labels together: lists, counts, scores, the whole index as one document."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection, Iterator
from typing import Any

from labelserver.datastore.image_rows import present_image
from labelserver.datastore.index import Index
from labelserver.datastore.plain_json import dump, label_names, load_object, scores_of
from labelserver.datastore.rebuilding import put_scores
from labelserver.datastore.work_schema import VERDICT_OF_LABEL
from labelserver.domain.ids import FINAL
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import StoreProblem
from labelserver.domain.work import Stage, Verdict, Withheld


class Catalog:
    """Questions to the index, and infos of images."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def list_images(self) -> list[str]:
        with self._index.reading() as connection:
            return [row[0] for row in connection.execute("SELECT id FROM images WHERE state = 'present' ORDER BY id")]

    def labeled(self, tag: str, labels: Collection[str] = ()) -> list[str]:
        """Ids with a shown label under `tag`; of those whose segment names are known, only with all of `labels`."""
        with self._index.reading() as connection:
            if not labels:
                rows = connection.execute(
                    "SELECT image_id FROM labels WHERE tag = ? AND shown = 1 ORDER BY image_id", (tag,)
                )
                return [row[0] for row in rows]
            rows = connection.execute(
                "SELECT image_id, info FROM labels WHERE tag = ? AND shown = 1 ORDER BY image_id", (tag,)
            )
            wanted = frozenset(labels)
            return [row[0] for row in rows if not (names := label_names(load_object(row[1]))) or wanted <= names]

    def unlabeled(self, tag: str, labels: Collection[str] = ()) -> list[str]:
        """The other present ids."""
        if labels:
            labeled = set(self.labeled(tag, labels))
            return [image_id for image_id in self.list_images() if image_id not in labeled]
        with self._index.reading() as connection:
            rows = connection.execute(
                "SELECT id FROM images WHERE state = 'present' AND NOT EXISTS (SELECT 1 FROM labels "
                "WHERE tag = ? AND image_id = images.id AND shown = 1) ORDER BY id",
                (tag,),
            )
            return [row[0] for row in rows]

    def tags_of(self, image_id: str) -> list[str]:
        """In the order in which they were first saved."""
        with self._index.reading() as connection:
            rows = connection.execute(
                "SELECT tag FROM labels WHERE image_id = ? AND shown = 1 ORDER BY position", (image_id,)
            )
            return [row[0] for row in rows]

    def status(self) -> JsonObject:
        with self._index.reading() as connection:
            total = connection.execute("SELECT COUNT(*) FROM images WHERE state = 'present'").fetchone()[0]
            rows = connection.execute("SELECT tag, COUNT(*) FROM labels WHERE shown = 1 GROUP BY tag ORDER BY tag")
            tags = dict(rows.fetchall())
        return {"total": total, "completed": tags.get(FINAL, 0), "label_tags": tags}

    def objects(self) -> dict[str, Any]:
        """``objects`` of the whole index in the peer's shape."""
        found: dict[str, Any] = {}
        with self._index.reading() as connection:
            for image_id, ext, info in connection.execute(
                "SELECT id, ext, info FROM images WHERE state = 'present' ORDER BY id"
            ):
                found[image_id] = {"image": {"ext": ext, "info": load_object(info)}, "labels": {}}
            for image_id, tag, ext, info in connection.execute(
                "SELECT image_id, tag, ext, info FROM labels WHERE shown = 1 ORDER BY image_id, position"
            ):
                found[image_id]["labels"][tag] = {"ext": ext, "info": load_object(info)}
        return found

    def final_labels(self, *, approved_only: bool = False) -> list[tuple[str, str]]:
        """(image id, file below ``labels/final/``) of all images with a label to learn from, by id.

        That is a label that was submitted, or with `approved_only` approved; never a returned one or one of a flagged
        image.
        """
        stages = (Stage.APPROVED, Stage.APPROVED if approved_only else Stage.SUBMITTED)
        with self._index.reading() as connection:
            return list(
                connection.execute(
                    "SELECT image_id, file FROM labels CROSS JOIN images ON images.id = image_id "
                    "WHERE tag = ? AND shown = 1 AND stage IN (?, ?) ORDER BY image_id",
                    (FINAL, *stages),
                )
            )

    def withheld_labels(self, *, approved_only: bool = False) -> dict[tuple[str, str], Withheld]:
        """(image id, tag) of each shown label that nobody should learn from, and why.

        Of the final labels these are what `final_labels` leaves out. Labels of other tags wait for no approval.
        """
        with self._index.reading() as connection:
            rows = connection.execute(
                f"SELECT image_id, tag, stage, {VERDICT_OF_LABEL} FROM labels "  # noqa: S608  a constant
                "JOIN images ON images.id = image_id WHERE shown = 1"
            ).fetchall()
        found: dict[tuple[str, str], Withheld] = {}
        for image_id, tag, stage, verdict in rows:
            if stage == Stage.FLAGGED:
                found[image_id, tag] = Withheld.FLAGGED
            elif verdict == Verdict.RETURNED:
                found[image_id, tag] = Withheld.RETURNED
            elif approved_only and tag == FINAL and verdict != Verdict.APPROVED:
                found[image_id, tag] = Withheld.UNAPPROVED
        return found

    def update_image_info(self, image_id: str, info: JsonObject) -> None:
        """Shallow merge; numbers become scores. Raises `ImageNotFound`."""
        with self._index.writing() as connection:
            row = present_image(connection, image_id)
            connection.execute("UPDATE images SET info = ? WHERE id = ?", (dump({**row.record.info, **info}), image_id))
            scores = scores_of(info)
            put_scores(connection, image_id, scores)
            connection.executemany(
                "DELETE FROM scores WHERE image_id = ? AND key = ?", [(image_id, k) for k in info if k not in scores]
            )

    def waiting_by_score(self, key: str, *, highest_first: bool) -> Iterator[tuple[str, float]]:
        """(image id, value) of present images without a final label in the order of the score `key`; ties by id.

        Read page by page along an index, so that the first costs the same in a store of any size.
        """
        statement = _HIGHEST if highest_first else _LOWEST
        value, image_id = math.inf if highest_first else -math.inf, ""
        while True:
            with self._index.reading() as connection:
                page: list[tuple[str, float]] = connection.execute(
                    statement, {"key": key, "value": value, "id": image_id}
                ).fetchall()
            yield from page
            if len(page) < _PAGE:
                return
            image_id, value = page[-1]

    def all_by_score(self, key: str, *, highest_first: bool) -> list[tuple[str, float]]:
        """(image id, value) of all present images with the score `key`, in its order; ties by id."""
        with self._index.reading() as connection:
            rows: list[tuple[str, float]] = connection.execute(
                "SELECT image_id, value FROM scores JOIN images ON images.id = image_id "
                "WHERE key = ? AND state = 'present'",
                (key,),
            ).fetchall()
        return sorted(rows, key=lambda row: (-row[1] if highest_first else row[1], row[0]))

    def score_names(self) -> list[str]:
        """Names of all scores that there are, of any image, by name. A step along the index for each."""
        with self._index.reading() as connection:
            return [str(row[0]) for row in connection.execute(_SCORE_NAMES)]

    def problems(self) -> list[StoreProblem]:
        with self._index.reading() as connection:
            rows = connection.execute("SELECT path, reason FROM problems ORDER BY path, origin")
            return [StoreProblem(path, reason) for path, reason in rows]

    def meta(self, key: str, default: str) -> str:
        with self._index.reading() as connection:
            return meta(connection, key) or default

    def set_meta(self, key: str, value: str) -> None:
        with self._index.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def meta(connection: sqlite3.Connection, key: str) -> str:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row is not None else ""


_PAGE = 256

_SCORE_NAMES = """
WITH RECURSIVE names (key) AS (
    SELECT min(key) FROM scores
    UNION ALL SELECT (SELECT min(key) FROM scores WHERE key > names.key) FROM names WHERE key IS NOT NULL
)
SELECT key FROM names WHERE key IS NOT NULL
"""

#: Both run along the index scores_by_value and continue after the last row seen.
_HIGHEST = """
SELECT image_id, value FROM scores
WHERE key = :key AND waiting = 1 AND value <= :value AND (value < :value OR image_id > :id)
ORDER BY value DESC, image_id LIMIT 256
"""
_LOWEST = """
SELECT image_id, value FROM scores
WHERE key = :key AND waiting = 1 AND value >= :value AND (value > :value OR image_id > :id)
ORDER BY value, image_id LIMIT 256
"""

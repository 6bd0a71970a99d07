"""Findings about labels, in the file of the scores: both can be made again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence

from labelserver.contracts.quality import FoundOddity
from labelserver.datastore.score_shelf import ScoreShelf
from labelserver.domain.oddities import Finding, Oddity


class OddityShelf:
    """Findings of one store."""

    def __init__(self, shelf: ScoreShelf) -> None:
        self._shelf = shelf

    def key(self, image_id: str) -> str:
        with self._shelf.opened() as db:
            row = db.execute("SELECT key FROM quality WHERE image_id = ?", (image_id,)).fetchone()
        return str(row[0]) if row else ""

    def put(self, image_id: str, key: str, found: Sequence[FoundOddity], volumes_mm3: dict[str, float]) -> None:
        with self._shelf.opened() as db, db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT OR REPLACE INTO quality VALUES (?, ?, ?)", (image_id, key, json.dumps(volumes_mm3)))
            db.execute("DELETE FROM oddities WHERE image_id = ? AND compared = 0", (image_id,))
            _insert(db, found, compared=False)

    def put_compared(self, found: Sequence[FoundOddity]) -> None:
        with self._shelf.opened() as db, db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM oddities WHERE compared = 1")
            _insert(db, found, compared=True)

    def volumes(self, images: Collection[str]) -> dict[str, dict[str, float]]:
        """Of those of `images` that were looked at."""
        wanted = set(images)
        with self._shelf.opened() as db:
            rows = db.execute("SELECT image_id, volumes FROM quality ORDER BY image_id").fetchall()
        return {image_id: json.loads(volumes) for image_id, volumes in rows if image_id in wanted}

    def listed(self, kind: str = "", image_id: str = "") -> list[FoundOddity]:
        """The most severe first, without pictures."""
        with self._shelf.opened() as db:
            rows = db.execute(
                "SELECT number, image_id, kind, label, severity, place, detail FROM oddities "
                "WHERE (kind = ?1 OR ?1 = '') AND (image_id = ?2 OR ?2 = '') ORDER BY severity DESC, image_id, number",
                (kind, image_id),
            ).fetchall()
        found = []
        for number, image, what, label, severity, place, detail in rows:
            i, j, k = json.loads(place)
            finding = Finding(Oddity(what), label, float(severity), k, (i, j, k), detail)
            found.append(FoundOddity(image, finding, number=number))
        return found

    def picture(self, number: int) -> bytes:
        with self._shelf.opened() as db:
            row = db.execute("SELECT png FROM oddities WHERE number = ?", (number,)).fetchone()
        return bytes(row[0]) if row else b""


def _insert(db: sqlite3.Connection, found: Sequence[FoundOddity], *, compared: bool) -> None:
    db.executemany(
        "INSERT INTO oddities (image_id, compared, kind, label, severity, place, detail, png) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                one.image_id,
                int(compared),
                one.finding.kind.value,
                one.finding.label,
                one.finding.severity,
                json.dumps([*one.finding.center_ijk[:2], one.finding.slice_k]),
                one.finding.detail,
                one.picture,
            )
            for one in found
        ],
    )

"""Looks at images (scores, embeddings, small maps) in a SQLite file of their own beside the index.

They can be made again, so they burden neither the index nor its backups; a damaged file is set aside and the scoring
begins anew. Columns for strategies are read once for each state of the file and kept as arrays.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelserver.contracts.scores import INTENSITY, Look, SmallMap
from labelserver.domain.json_types import JsonObject

_VERSION = 2
_BUSY_S = 60.0
_CHUNK = 500  #: values in one statement of SQLite

_TABLES = """
CREATE TABLE IF NOT EXISTS looks (
    image_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    version TEXT NOT NULL,
    content TEXT NOT NULL,
    signature TEXT NOT NULL,
    ts REAL NOT NULL,
    scores TEXT NOT NULL,
    classes BLOB NOT NULL,                 -- float32
    embedding BLOB NOT NULL,               -- float32
    PRIMARY KEY (image_id, kind)
);
CREATE INDEX IF NOT EXISTS looks_by_version ON looks (kind, version, ts);
CREATE TABLE IF NOT EXISTS pictures (image_id TEXT NOT NULL, kind TEXT NOT NULL, png BLOB NOT NULL,
    PRIMARY KEY (image_id, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS doubts (image_id TEXT NOT NULL, kind TEXT NOT NULL,
    shape TEXT NOT NULL,                   -- [[I, J, K], [A, B, C]]: voxels, cells
    cells BLOB NOT NULL,                   -- zlib
    PRIMARY KEY (image_id, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quality (image_id TEXT PRIMARY KEY, key TEXT NOT NULL, volumes TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS oddities (
    number INTEGER PRIMARY KEY,
    image_id TEXT NOT NULL,
    compared INTEGER NOT NULL,             -- 1: comes of comparing images
    kind TEXT NOT NULL,
    label TEXT NOT NULL,
    severity REAL NOT NULL,
    place TEXT NOT NULL,                   -- [i, j, k]
    detail TEXT NOT NULL,
    png BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS oddities_by_image ON oddities (image_id);
CREATE INDEX IF NOT EXISTS oddities_by_severity ON oddities (severity DESC);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """All looks of one kind and version."""

    kind: str
    version: str
    rows: dict[str, int]  #: image id -> row
    scores: dict[str, NDArray[np.float64]]
    classes: NDArray[np.float64]  #: (N, C)
    embeddings: NDArray[np.float32]  #: (N, D)


class ScoreShelf:
    """The looks of one store. Any process may read and write."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._guard = threading.Lock()
        self._kept: tuple[int, dict[tuple[str, str], Columns]] = (-1, {})

    def put(self, look: Look) -> None:
        with self._connected() as db, db:
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                "INSERT OR REPLACE INTO looks (image_id, kind, version, content, signature, ts, scores, classes, "
                "embedding) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    look.image_id,
                    look.kind,
                    look.version,
                    look.content,
                    look.signature,
                    look.ts,
                    json.dumps(look.scores),
                    np.asarray(look.classes, dtype="<f4").tobytes(),
                    np.asarray(look.embedding, dtype="<f4").tobytes(),
                ),
            )
            db.execute("DELETE FROM pictures WHERE image_id = ? AND kind = ?", (look.image_id, look.kind))
            if look.picture:
                db.execute("INSERT INTO pictures VALUES (?, ?, ?)", (look.image_id, look.kind, look.picture))
            db.execute("DELETE FROM doubts WHERE image_id = ? AND kind = ?", (look.image_id, look.kind))
            if look.doubt is not None:
                shape = json.dumps([look.doubt.shape, look.doubt.cells])
                cells = zlib.compress(look.doubt.values)
                db.execute("INSERT INTO doubts VALUES (?, ?, ?, ?)", (look.image_id, look.kind, shape, cells))
            _count(db)

    def touch(self, image_id: str, kind: str, signature: str) -> None:
        """The files are others in time, not in content."""
        with self._connected() as db, db:
            db.execute("UPDATE looks SET signature = ? WHERE image_id = ? AND kind = ?", (signature, image_id, kind))

    def forget(self, image_ids: Sequence[str]) -> None:
        """The images are gone, and nobody shall read anything of them here."""
        if not self._file.exists():
            return
        with self._connected() as db:
            for image_id in image_ids:
                for table in ("looks", "pictures", "doubts", "quality", "oddities"):
                    db.execute(f"DELETE FROM {table} WHERE image_id = ?", (image_id,))  # noqa: S608  constants
            _count(db)
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def known(self, kind: str, version: str, image_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """(content, signature) of the images that the version has looked at."""
        found: dict[str, tuple[str, str]] = {}
        with self._connected() as db:
            for start in range(0, len(image_ids), _CHUNK):
                part = list(image_ids[start : start + _CHUNK])
                marks = ", ".join("?" * len(part))
                rows = db.execute(
                    f"SELECT image_id, content, signature FROM looks WHERE kind = ? AND version = ? "  # noqa: S608
                    f"AND image_id IN ({marks})",
                    (kind, version, *part),
                )
                found |= {image_id: (content, signature) for image_id, content, signature in rows}
        return found

    def look(self, image_id: str, kind: str = "") -> Look | None:
        """The newest look of the kind; without one of any model, else of intensities."""
        with self._connected() as db:
            row = db.execute(
                "SELECT kind, version, content, signature, ts, scores, classes, embedding FROM looks "
                "WHERE image_id = ?1 AND (kind = ?2 OR ?2 = '') ORDER BY kind = ?3, ts DESC LIMIT 1",
                (image_id, kind, INTENSITY),
            ).fetchone()
            if row is None:
                return None
            picture = db.execute("SELECT png FROM pictures WHERE image_id = ? AND kind = ?", (image_id, row[0]))
            png = picture.fetchone()
            doubt = db.execute("SELECT shape, cells FROM doubts WHERE image_id = ? AND kind = ?", (image_id, row[0]))
            map_row = doubt.fetchone()
        return Look(
            image_id,
            kind=row[0],
            version=row[1],
            content=row[2],
            signature=row[3],
            ts=row[4],
            scores=json.loads(row[5]),
            classes=tuple(np.frombuffer(row[6], "<f4").tolist()),
            embedding=tuple(np.frombuffer(row[7], "<f4").tolist()),
            picture=bytes(png[0]) if png else b"",
            doubt=_small_map(*map_row) if map_row else None,
        )

    def summary(self) -> list[JsonObject]:
        """Kinds and versions, the newest first."""
        with self._connected() as db:
            rows = db.execute(
                "SELECT kind, version, COUNT(*), MAX(ts) FROM looks GROUP BY kind, version ORDER BY MAX(ts) DESC"
            ).fetchall()
        return [{"kind": kind, "version": version, "images": n, "last_ts": ts} for kind, version, n, ts in rows]

    @property
    def revision(self) -> int:
        """Grows with every change."""
        if not self._file.exists():
            return 0
        with self._connected() as db:
            row = db.execute("SELECT number FROM state WHERE name = 'revision'").fetchone()
        return int(row[0]) if row else 0

    def columns(self, kind: str, version: str) -> Columns:
        """As arrays; read from the file only if it has changed since the last time."""
        revision = self.revision
        with self._guard:
            if self._kept[0] != revision:
                self._kept = (revision, {})
            found = self._kept[1].get((kind, version))
            if found is None:
                found = self._kept[1][kind, version] = self._read(kind, version)
            return found

    def _read(self, kind: str, version: str) -> Columns:
        """Row by row, with SQLite parsing the scores: a server answers meanwhile, and has other uses for its memory."""
        where = "FROM looks WHERE kind = ?1 AND version = ?2"
        with self._connected() as db:
            db.execute("BEGIN")  # one state of the file for all that follows
            first = db.execute(f"SELECT scores, classes, embedding {where} LIMIT 1", (kind, version)).fetchone()
            count = db.execute(f"SELECT COUNT(*) {where}", (kind, version)).fetchone()[0]
            names = sorted(json.loads(first[0])) if first else []
            rows: dict[str, int] = {}
            scores = np.full((len(names), count), np.nan)
            blobs = first[1:] if first else (b"", b"")
            classes, embeddings = (np.full((count, len(blob) // 4), np.nan, np.float32) for blob in blobs)
            asked = "".join(f", json_extract(scores, ?{n + 3})" for n in range(len(names)))
            paths = (f"$.{json.dumps(name)}" for name in names)
            for row in db.execute(f"SELECT image_id, classes, embedding{asked} {where}", (kind, version, *paths)):
                number = rows[row[0]] = len(rows)
                scores[:, number] = row[3:]
                for table, blob in ((classes, row[1]), (embeddings, row[2])):
                    if len(blob) == table.shape[1] * 4:  # of another length than the first: NaN
                        table[number] = np.frombuffer(blob, "<f4")
        named = dict(zip(names, scores, strict=True))
        return Columns(kind, version, rows, named, classes.astype(np.float64), embeddings)

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """The file, for what else is kept in it."""
        with self._connected() as db:
            yield db

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        fresh = not self._file.exists()
        try:
            db = self._opened()
        except sqlite3.DatabaseError:
            self._file.replace(self._file.with_name(f"{self._file.name}.damaged-{time.time_ns()}"))
            fresh, db = True, self._opened()
        try:
            if fresh:
                db.executescript(_TABLES)
            yield db
        finally:
            db.close()

    def _opened(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._file, timeout=_BUSY_S, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            if db.execute("PRAGMA user_version").fetchone()[0] < _VERSION:  # later versions only added tables
                db.executescript(_TABLES)
                db.execute(f"PRAGMA user_version={_VERSION}")
        except BaseException:
            db.close()
            raise
        return db


def _count(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO state VALUES ('revision', 1) ON CONFLICT (name) DO UPDATE SET number = number + 1")


def _small_map(shape: str, cells: bytes) -> SmallMap:
    voxels, counts = json.loads(shape)
    return SmallMap((voxels[0], voxels[1], voxels[2]), (counts[0], counts[1], counts[2]), zlib.decompress(cells))

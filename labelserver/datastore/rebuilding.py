"""Fill a new index from what survives beside it: the newest readable backup, then every revision file.

Ids, infos, flags, skips, times and the audit chain come from the backup; labels, provenance, reviews and the ids of
labeled images from the files beside the revisions, which win. Scores are derived from infos, leases are not worth
keeping. All images begin as absent; the look at the folder that follows finds them by their place and so gives them
their ids back.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import defaultdict
from pathlib import Path

from labelserver.datastore import audit, revision_files, sides
from labelserver.datastore.index import Index
from labelserver.datastore.label_rows import LabelRow, Placing, insert_revision, put_label
from labelserver.datastore.layout import Layout, label_name
from labelserver.datastore.plain_json import dump, load_object, scores_of
from labelserver.datastore.reviewing import insert as insert_review
from labelserver.datastore.reviewing import stored_reviews
from labelserver.datastore.revision_files import StoredRevision
from labelserver.domain.labels import StoreProblem

logger = logging.getLogger(__name__)

_KEPT_TABLES = ("folders", "reviews", "flags", "skips", "time_log", "audit")


def fill(connection: sqlite3.Connection, layout: Layout, backups: list[Path]) -> None:
    """Called inside the transaction that makes a new index; an empty state folder leaves it empty."""
    problems: list[StoreProblem] = []
    label_infos = _from_backup(connection, backups, problems, layout)
    by_label: dict[tuple[str, str], list[StoredRevision]] = defaultdict(list)
    for stored in revision_files.read_all(layout, problems):
        by_label[stored.revision.image_id, stored.revision.tag].append(stored)
    labels = sorted(by_label.values(), key=lambda group: min(s.revision.created_ts for s in group))
    for group in labels:
        _insert_label(connection, sorted(group, key=lambda s: s.revision.number), label_infos)
    for review in stored_reviews(layout):
        insert_review(connection, review)
    audit.refill(connection, layout)
    sides.refill(connection, layout)
    for image_id, text in connection.execute("SELECT id, info FROM images").fetchall():
        put_scores(connection, image_id, scores_of(load_object(text)))
    connection.executemany(
        "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'state', ?)",
        [(p.path, p.reason) for p in problems],
    )
    if labels or label_infos:
        logger.warning("index rebuilt", extra={"labels": len(labels), "problems": len(problems)})


def index_of(layout: Layout) -> Index:
    """The index of a store, which is filled again from what survives if it is lost."""
    index = Index(
        layout.index_file,
        layout.index_lock,
        layout.backups,
        layout.quarantine,
        lambda connection: fill(connection, layout, index.backups()),
    )
    return index


def put_scores(connection: sqlite3.Connection, image_id: str, scores: dict[str, float]) -> None:
    """Make numbers of an info look-ups in order; `waiting` is kept in step by triggers from then on."""
    connection.executemany(
        """INSERT INTO scores (image_id, key, value, waiting) VALUES (:id, :key, :value,
            EXISTS (SELECT 1 FROM images WHERE id = :id AND state = 'present') AND NOT EXISTS (
                SELECT 1 FROM labels WHERE image_id = :id AND tag = 'final' AND shown = 1))
        ON CONFLICT (image_id, key) DO UPDATE SET value = excluded.value""",
        [{"id": image_id, "key": key, "value": value} for key, value in scores.items()],
    )


def _from_backup(
    connection: sqlite3.Connection, backups: list[Path], problems: list[StoreProblem], layout: Layout
) -> dict[tuple[str, str, int], str]:
    """Copy from the newest readable backup. Returns label infos by image, tag and revision."""
    for path in backups:
        backup = sqlite3.connect(path)
        try:
            return _copy_backup(connection, backup)
        except sqlite3.DatabaseError:
            connection.execute("DELETE FROM images")
            problems.append(StoreProblem(layout.below_studies(path), "This backup of the index is damaged."))
        finally:
            backup.close()
    return {}


def _copy_backup(connection: sqlite3.Connection, backup: sqlite3.Connection) -> dict[tuple[str, str, int], str]:
    rows = backup.execute(
        "SELECT id, path, series, kind, ext, state, size_bytes, mtime_ns, added_ts, info FROM images"
    ).fetchall()
    infos = backup.execute("SELECT image_id, tag, current, info FROM labels").fetchall()
    meta = backup.execute("SELECT key, value FROM meta WHERE key <> 'looked'").fetchall()
    tables = {
        name: (shared, _rows(backup, name, shared))
        for name in _KEPT_TABLES
        if (shared := _shared(connection, backup, name))
    }
    readers = _rows(backup, "images", ["readers", "id"]) if "readers" in _columns(backup, "images") else []
    connection.executemany(
        "INSERT INTO images (id, path, series, kind, ext, state, size_bytes, mtime_ns, added_ts, info) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*row[:5], "removed" if row[5] == "removed" else "absent", *row[6:]) for row in rows],
    )
    connection.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", meta)
    for name, (columns, content) in tables.items():
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT OR REPLACE INTO {name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608  constants
        connection.executemany(statement, content)
    connection.executemany("UPDATE images SET readers = ? WHERE id = ?", readers)
    return {(image_id, tag, int(current)): info for image_id, tag, current, info in infos}


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]


def _shared(connection: sqlite3.Connection, backup: sqlite3.Connection, table: str) -> list[str]:
    """Columns of `table` that the backup, perhaps of an older layout, has as well; none unless it has what must be."""
    there = _columns(backup, table)
    needed = [
        str(row[1])
        for row in connection.execute(f"PRAGMA table_info({table})")
        if row[3] and row[4] is None and not row[5]
    ]
    return [name for name in _columns(connection, table) if name in there] if set(needed) <= set(there) else []


def _rows(backup: sqlite3.Connection, table: str, columns: list[str]) -> list[tuple[object, ...]]:
    return backup.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()  # noqa: S608  constants


def _insert_label(
    connection: sqlite3.Connection, group: list[StoredRevision], infos: dict[tuple[str, str, int], str]
) -> None:
    newest = group[-1]
    image, revision = newest.image, newest.revision
    connection.execute(
        "INSERT OR IGNORE INTO images (id, path, series, kind, ext, state, added_ts, info) "
        "VALUES (?, ?, ?, ?, ?, 'absent', ?, ?)",
        (
            image.image_id,
            image.path,
            newest.series,
            image.kind,
            image.ext,
            time.time(),
            dump({"ts": int(group[0].revision.created_ts), "name": Path(image.path).name}),
        ),
    )
    for stored in group:
        insert_revision(connection, stored.revision)
    told = newest.revision.info.get("readers")
    if isinstance(told, int):
        connection.execute("UPDATE images SET readers = MAX(readers, ?) WHERE id = ?", (told, image.image_id))
    name = label_name(revision.image_id, revision.ext)
    kept = infos.get((revision.image_id, revision.tag, revision.number))
    fresh = {**revision.info, "ts": int(revision.created_ts), "name": name.rpartition("/")[2]}
    put_label(
        connection,
        LabelRow(
            image_id=revision.image_id,
            tag=revision.tag,
            current=revision.number,
            active=not newest.removed,
            placing=Placing.PROMISED,
            file=name,
            ext=revision.ext,
            size_bytes=0,
            mtime_ns=0,
            info=load_object(kept) if kept else fresh,
        ),
    )

"""Fill a new index from what survives beside it: the newest readable backup, then every revision file.

Ids, infos, reviews, times and the audit chain come from the backup; labels, provenance and the ids of labeled images
from the revision files, which win. Scores are derived from infos, leases are not worth keeping. All images begin as
absent; the look at the folder that follows finds them by their place and so gives them their ids back.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import defaultdict
from pathlib import Path

from labelserver.datastore import audit, revision_files
from labelserver.datastore.label_rows import LabelRow, Placing, insert_revision, put_label
from labelserver.datastore.layout import Layout, label_name
from labelserver.datastore.plain_json import dump, load_object, scores_of
from labelserver.datastore.revision_files import StoredRevision
from labelserver.domain.labels import StoreProblem

logger = logging.getLogger(__name__)

_KEPT_TABLES = ("folders", "reviews", "time_log", "audit")


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
    audit.refill(connection, layout)
    for image_id, text in connection.execute("SELECT id, info FROM images").fetchall():
        put_scores(connection, image_id, scores_of(load_object(text)))
    connection.executemany(
        "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'state', ?)",
        [(p.path, p.reason) for p in problems],
    )
    if labels or label_infos:
        logger.warning("index rebuilt", extra={"labels": len(labels), "problems": len(problems)})


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
    tables = {name: backup.execute(f"SELECT * FROM {name}").fetchall() for name in _KEPT_TABLES}  # noqa: S608  constants
    connection.executemany(
        "INSERT INTO images (id, path, series, kind, ext, state, size_bytes, mtime_ns, added_ts, info) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*row[:5], "removed" if row[5] == "removed" else "absent", *row[6:]) for row in rows],
    )
    connection.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", meta)
    for name, content in tables.items():
        for row in content:
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT OR REPLACE INTO {name} VALUES ({marks})", row)  # noqa: S608  constants
    return {(image_id, tag, int(current)): info for image_id, tag, current, info in infos}


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
            placing=Placing.FRESH,
            file=name,
            ext=revision.ext,
            size_bytes=0,
            mtime_ns=0,
            info=load_object(kept) if kept else fresh,
        ),
    )

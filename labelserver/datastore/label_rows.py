"""Labels and revisions as rows of the index, and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from labelserver.datastore.plain_json import dump, load_object
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import LabelSource, Provenance, Revision


class Placing(IntEnum):
    """How sure it is that the file below ``labels/`` is the current revision."""

    SETTLED = 0  #: it is; if it is missing now, somebody deleted it
    PROMISED = 1  #: it is put there right after the commit: a file of the row's size and time shows that it was


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A label as the index keeps it."""

    image_id: ImageId
    tag: Tag
    current: int
    active: bool
    placing: Placing
    file: str  #: below ``labels/<tag>/``
    ext: str
    size_bytes: int
    mtime_ns: int
    info: JsonObject


_LABELS = "SELECT image_id, tag, current, active, pending, file, ext, size_bytes, mtime_ns, info FROM labels"
_REVISIONS = (
    "SELECT image_id, tag, number, ext, sha256, size_bytes, parent, created_ts, person, client, source, model, "
    "model_version, schema_version, info FROM revisions"
)


def label_row(connection: sqlite3.Connection, image_id: str, tag: str) -> LabelRow | None:
    row = connection.execute(f"{_LABELS} WHERE image_id = ? AND tag = ?", (image_id, tag)).fetchone()
    return None if row is None else _as_label(row)


def label_row_of_file(connection: sqlite3.Connection, tag: str, file: str) -> LabelRow | None:
    row = connection.execute(f"{_LABELS} WHERE tag = ? AND file = ?", (tag, file)).fetchone()
    return None if row is None else _as_label(row)


def all_label_rows(connection: sqlite3.Connection) -> Iterator[LabelRow]:
    for row in connection.execute(_LABELS):
        yield _as_label(row)


def revisions_of(connection: sqlite3.Connection, image_id: str, tag: str) -> list[Revision]:
    """Oldest first."""
    rows = connection.execute(f"{_REVISIONS} WHERE image_id = ? AND tag = ? ORDER BY number", (image_id, tag))
    return [_as_revision(row) for row in rows]


def revision_of(connection: sqlite3.Connection, image_id: str, tag: str, number: int) -> Revision | None:
    row = connection.execute(
        f"{_REVISIONS} WHERE image_id = ? AND tag = ? AND number = ?",
        (image_id, tag, number),
    ).fetchone()
    return None if row is None else _as_revision(row)


def insert_revision(connection: sqlite3.Connection, revision: Revision) -> None:
    made_by = revision.provenance
    connection.execute(
        "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            revision.image_id,
            revision.tag,
            revision.number,
            revision.ext,
            revision.sha256,
            revision.size_bytes,
            revision.parent,
            revision.created_ts,
            made_by.person,
            made_by.client,
            made_by.source,
            made_by.model,
            made_by.model_version,
            revision.schema_version,
            dump(revision.info),
        ),
    )


def put_label(connection: sqlite3.Connection, row: LabelRow) -> None:
    """Insert or replace the row; a tag that was removed moves to the end of its image's tags when it comes back."""
    connection.execute(
        """INSERT INTO labels (image_id, tag, position, current, active, shown, pending, file, ext, size_bytes,
                               mtime_ns, info)
        VALUES (:image_id, :tag, (SELECT COALESCE(MAX(position), 0) + 1 FROM labels WHERE image_id = :image_id),
                :current, :active,
                :active AND EXISTS (SELECT 1 FROM images WHERE id = :image_id AND state = 'present'),
                :pending, :file, :ext, :size_bytes, :mtime_ns, :info)
        ON CONFLICT (image_id, tag) DO UPDATE SET
            position = CASE WHEN labels.active THEN labels.position ELSE excluded.position END,
            current = excluded.current, active = excluded.active, shown = excluded.shown,
            pending = excluded.pending, file = excluded.file, ext = excluded.ext,
            size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns, info = excluded.info""",
        {
            "image_id": row.image_id,
            "tag": row.tag,
            "current": row.current,
            "active": int(row.active),
            "pending": int(row.placing),
            "file": row.file,
            "ext": row.ext,
            "size_bytes": row.size_bytes,
            "mtime_ns": row.mtime_ns,
            "info": dump(row.info),
        },
    )


#: seconds after which a rename has surely reached the disk; ext4 and xfs write their journal every 5 to 30 s.
SETTLED_AFTER_S = 60.0


def settle(connection: sqlite3.Connection, labels: Path, now: float) -> None:
    """Copies below `labels` that were put in place long enough ago are believed to be there for good."""
    rows = connection.execute(
        "SELECT tag, file, size_bytes, mtime_ns, image_id FROM labels WHERE pending <> 0 AND mtime_ns < ?",
        (int((now - SETTLED_AFTER_S) * 1e9),),
    ).fetchall()
    for tag, file, size_bytes, mtime_ns, image_id in rows:
        if is_copy_of(labels / tag / file, size_bytes, mtime_ns):
            connection.execute(
                "UPDATE labels SET pending = ? WHERE image_id = ? AND tag = ?", (Placing.SETTLED, image_id, tag)
            )


def is_copy_of(path: Path, size_bytes: int, mtime_ns: int) -> bool:
    """Is the file at `path` the one whose size and time a row notes?"""
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (size_bytes, mtime_ns)


def newest_number(connection: sqlite3.Connection, image_id: str, tag: str) -> int:
    row = connection.execute(
        "SELECT MAX(number) FROM revisions WHERE image_id = ? AND tag = ?", (image_id, tag)
    ).fetchone()
    return int(row[0] or 0)


def _as_label(row: tuple[object, ...]) -> LabelRow:
    image_id, tag, current, active, pending, file, ext, size_bytes, mtime_ns, info = row
    return LabelRow(
        ImageId(str(image_id)),
        Tag(str(tag)),
        int(str(current)),
        bool(active),
        Placing.PROMISED if pending else Placing.SETTLED,
        str(file),
        str(ext),
        int(str(size_bytes)),
        int(str(mtime_ns)),
        load_object(str(info)),
    )


def _as_revision(row: tuple[object, ...]) -> Revision:
    (
        image_id,
        tag,
        number,
        ext,
        sha256,
        size,
        parent,
        created,
        person,
        client,
        source,
        model,
        version,
        schema,
        info,
    ) = row
    return Revision(
        image_id=ImageId(str(image_id)),
        tag=Tag(str(tag)),
        number=int(str(number)),
        ext=str(ext),
        sha256=str(sha256),
        size_bytes=int(str(size)),
        parent=None if parent is None else int(str(parent)),
        created_ts=float(str(created)),
        provenance=Provenance(
            person=str(person),
            client=str(client),
            source=LabelSource(str(source)),
            model=str(model),
            model_version=str(version),
        ),
        schema_version=int(str(schema)),
        info=load_object(str(info)),
    )

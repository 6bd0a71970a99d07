"""Who did what to which label: an append-only chain in which every edited line shows.

An entry is written in the transaction of the change it tells of, so that it costs a save no further wait for the disk.
Its hash covers its content and the hash before it. ``audit.jsonl`` beside the index is a copy, one entry a line, that
outlives the index (`keep`); what a crash keeps out of both is told again from the revision files as ``recovered``.

Erasing a person's images blanks the entries about them: only their hashes stay, and an ``erase`` entry names the lines
(`blank`). Each entry carries a random number, so that nobody can find out a blanked content by trying.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from labelserver.datastore.index import Index
from labelserver.datastore.label_rows import revision_of
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import dump, load_object
from labelserver.domain.errors import StorageFailed
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import Revision
from labelserver.storage import atomic
from labelserver.storage.append import JsonLinesReader, read_json_lines
from labelserver.storage.locks import exclusive

logger = logging.getLogger(__name__)

#: The hash before the first entry.
BEGINNING = "0" * 64

#: An entry of which only the hash is left.
BLANKED = "erased"

#: Revisions that no entry tells of, in the order in which they came to be.
_UNNAMED = """
SELECT image_id, tag, number FROM revisions AS made WHERE NOT EXISTS (
    SELECT 1 FROM audit WHERE audit.image_id = made.image_id AND audit.tag = made.tag
    AND audit.revision = made.number AND action IN ('save', 'recovered'))
ORDER BY created_ts, image_id, tag, number
"""

_AUDIT = "SELECT number, created_ts, person, action, image_id, tag, revision, detail, previous_hash, hash FROM audit"
_INSERT = "INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did. `detail` is free."""

    action: str
    person: str
    image_id: str = ""
    tag: str = ""
    revision: int | None = None
    detail: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """An act in the chain."""

    number: int
    created_ts: float
    act: Act
    previous_hash: str
    hash: str

    @property
    def content_hash(self) -> str:
        """64 hex digits; of a blanked entry, what it was."""
        if self.act.action == BLANKED:
            return str(self.act.detail.get("content", ""))
        act = self.act
        content = [self.number, self.created_ts, act.person, act.action, act.image_id, act.tag, act.revision]
        return _digest(json.dumps([*content, act.detail], sort_keys=True, ensure_ascii=False))

    @property
    def is_whole(self) -> bool:
        """Does the hash fit the content?"""
        return self.hash == chained(self.previous_hash, self.content_hash)

    def to_json(self) -> JsonObject:
        """A line of ``audit.jsonl``."""
        act = self.act
        return {
            "number": self.number,
            "created_ts": self.created_ts,
            "person": act.person,
            "action": act.action,
            "image_id": act.image_id,
            "tag": act.tag,
            "revision": act.revision,
            "detail": act.detail,
            "previous_hash": self.previous_hash,
            "hash": self.hash,
        }

    @classmethod
    def from_json(cls, line: JsonObject) -> Entry:
        """Raises KeyError, TypeError or ValueError on another document."""
        detail, revision = line["detail"], line["revision"]
        if not isinstance(detail, dict):
            raise TypeError("detail is no object")
        act = Act(
            str(line["action"]),
            str(line["person"]),
            str(line["image_id"]),
            str(line["tag"]),
            None if revision is None else int(str(revision)),
            detail,
        )
        return cls(
            int(str(line["number"])), float(str(line["created_ts"])), act, str(line["previous_hash"]), str(line["hash"])
        )


def chained(previous_hash: str, content_hash: str) -> str:
    """The hash of an entry."""
    return _digest(f"{previous_hash}\n{content_hash}")


def record(connection: sqlite3.Connection, act: Act) -> None:
    """Append an entry inside the write transaction of what it tells of."""
    last = connection.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    number, previous = (int(last[0]) + 1, str(last[1])) if last is not None else (1, BEGINNING)
    salted = Act(
        act.action, act.person, act.image_id, act.tag, act.revision, {**act.detail, "salt": secrets.token_hex(8)}
    )
    bare = Entry(number, round(time.time(), 3), salted, previous, "")
    _insert(connection, Entry(number, bare.created_ts, salted, previous, chained(previous, bare.content_hash)))


def saved(layout: Layout, revision: Revision, action: str = "save", *, description: bytes | None = None) -> Act:
    """The act of a revision whose files are written; their hashes go into it. `description`: the bytes of its JSON."""
    if description is None:
        path = layout.revision_folder(revision.image_id, revision.tag) / f"{revision.number}.json"
        with atomic.storage_errors(path.name):
            description = path.read_bytes()
    described = hashlib.sha256(description).hexdigest()
    made_by = revision.provenance
    detail: JsonObject = {"source": made_by.source.value, "sha256": revision.sha256, "description": described}
    if made_by.client:
        detail["client"] = made_by.client
    if revision.schema_version:
        detail["schema"] = revision.schema_version
    return Act(action, made_by.person, revision.image_id, revision.tag, revision.number, detail)


def entries(connection: sqlite3.Connection, after: int = 0) -> Iterator[Entry]:
    """Oldest first, from number `after` + 1 on."""
    for row in connection.execute(f"{_AUDIT} WHERE number > ? ORDER BY number", (after,)):
        yield _entry(row)


def newest(connection: sqlite3.Connection, count: int, image_id: str = "") -> list[Entry]:
    """The newest `count` entries (of one image), oldest first."""
    where, values = ("WHERE image_id = ?", [image_id]) if image_id else ("", [])
    rows = connection.execute(f"{_AUDIT} {where} ORDER BY number DESC LIMIT ?", (*values, count)).fetchall()
    return [_entry(row) for row in reversed(rows)]


def of_revision(connection: sqlite3.Connection, image_id: str, tag: str, number: int) -> Entry | None:
    """The entry that tells how this revision came to be."""
    row = connection.execute(
        f"{_AUDIT} WHERE image_id = ? AND tag = ? AND revision = ? AND action IN ('save', 'recovered') LIMIT 1",
        (image_id, tag, number),
    ).fetchone()
    return None if row is None else _entry(row)


def blank(connection: sqlite3.Connection, image_ids: Iterable[str]) -> list[int]:
    """Leave only the hashes of all entries about these images. Returns their numbers."""
    numbers: list[int] = []
    for image_id in image_ids:
        rows = connection.execute(f"{_AUDIT} WHERE image_id = ?", (image_id,)).fetchall()
        for entry in map(_entry, rows):
            numbers.append(entry.number)
            connection.execute(
                "UPDATE audit SET person = '', action = ?, image_id = '', tag = '', revision = NULL, detail = ? "
                "WHERE number = ?",
                (BLANKED, dump({"content": entry.content_hash}), entry.number),
            )
    return sorted(numbers)


def refill(connection: sqlite3.Connection, layout: Layout) -> None:
    """For an index made again: after its backup's entries those of the file, then revisions that no entry names."""
    for entry in read_file(layout.audit_file):
        connection.execute(f"INSERT OR IGNORE {_INSERT}", _values(entry))
    for image_id, tag, number in connection.execute(_UNNAMED).fetchall():
        revision = revision_of(connection, image_id, tag, number)
        if revision is not None:
            record(connection, saved(layout, revision, "recovered"))


def read_file(path: Path) -> list[Entry]:
    """The entries of ``audit.jsonl``; torn and foreign lines are left out."""
    return _entries_in(read_json_lines(path))


def _read_from(path: Path, offset: int) -> tuple[list[Entry], bool]:
    """The entries after the first `offset` bytes, and whether the last line is whole."""
    reader = JsonLinesReader(path, offset)
    return _entries_in(reader.read_new()), reader.offset == path.stat().st_size


def _entries_in(lines: Iterable[JsonObject]) -> list[Entry]:
    found = []
    for line in lines:
        try:
            found.append(Entry.from_json(line))
        except (KeyError, TypeError, ValueError):
            continue
    return found


class AuditFile:
    """``audit.jsonl``: the copy of the chain that outlives the index. Several processes may keep it at once.

    It waits for no disk: until the system has written it, the index has the entries.
    """

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index
        self._known: tuple[int, int, int] = (-1, 0, 0)  #: inode, size, number of the last line

    def keep(self) -> None:
        """Append what the index has and the file has not. Trouble is logged: the index has it all."""
        try:
            with exclusive(self._layout.audit_lock):
                self._append(self._last())
        except (StorageFailed, OSError) as error:
            logger.warning("the copy of the audit log could not be written", extra={"reason": str(error)})

    def rewrite(self) -> None:
        """Write the whole file from the index."""
        with exclusive(self._layout.audit_lock):
            self._write_whole()

    def _last(self) -> int:
        """The number up to which the file surely is the index's chain; -1 if it is not."""
        path = self._layout.audit_file
        try:
            status = path.stat()
        except FileNotFoundError:
            return 0
        inode, size_bytes, number = self._known
        if (status.st_ino, status.st_size) == (inode, size_bytes):
            return number
        if status.st_ino != inode or status.st_size < size_bytes:  # else only what other processes added is read
            size_bytes, number = 0, 0
        lines, complete = _read_from(path, size_bytes)
        if not lines or not complete:
            return -1
        with self._index.reading() as connection:
            last = lines[-1]
            row = connection.execute("SELECT hash FROM audit WHERE number = ?", (last.number,)).fetchone()
        known = row is not None and row[0] == last.hash and number + len(lines) == last.number
        return last.number if known else -1

    def _append(self, last: int) -> None:
        path = self._layout.audit_file
        if last < 0:
            kept = self._layout.quarantine / f"{time.time_ns()}-{path.name}"
            atomic.move_file(path, kept)
            logger.warning("the copy of the audit log differs from the index; it is set aside and written again")
            self._note_replaced(kept)
            self._write_whole()
            return
        with self._index.reading() as connection:
            fresh = list(entries(connection, last))
        if not fresh:
            self._remember(last)
            return
        with atomic.storage_errors(path.name):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                atomic.write_all(descriptor, b"".join(_line(entry) for entry in fresh))
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        self._known = (status.st_ino, status.st_size, fresh[-1].number)

    def _write_whole(self) -> None:
        number = 0
        with atomic.replacing(self._layout.audit_file) as stream, self._index.reading() as connection:
            for entry in entries(connection):
                number = entry.number
                stream.write(_line(entry))
        self._remember(number)

    def _remember(self, number: int) -> None:
        try:
            status = self._layout.audit_file.stat()
            self._known = (status.st_ino, status.st_size, number)
        except FileNotFoundError:
            self._known = (-1, 0, 0)

    def _note_replaced(self, kept: Path) -> None:
        reason = f"This copy of the audit log was damaged or edited; it was set aside as {kept.name} and written again."
        with self._index.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'audit', ?)",
                (self._layout.below_studies(self._layout.audit_file), reason),
            )


def _line(entry: Entry) -> bytes:
    return dump(entry.to_json()).encode() + b"\n"


def _insert(connection: sqlite3.Connection, entry: Entry) -> None:
    connection.execute(f"INSERT {_INSERT}", _values(entry))


def _values(entry: Entry) -> tuple[object, ...]:
    act = entry.act
    made = (entry.number, entry.created_ts, act.person, act.action, act.image_id, act.tag, act.revision)
    return (*made, dump(act.detail), entry.previous_hash, entry.hash)


def _entry(row: tuple[object, ...]) -> Entry:
    number, created, person, action, image_id, tag, revision, detail, previous, digest = row
    try:
        read = load_object(str(detail))
    except ValueError:  # somebody edited it; the hash will say so
        read = {"unreadable": str(detail)}
    act = Act(str(action), str(person), str(image_id), str(tag), None if revision is None else int(str(revision)), read)
    return Entry(int(str(number)), float(str(created)), act, str(previous), str(digest))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

"""Fixes for each image, when it is first seen, whether trainings may learn from it; see `domain/splits.py`.

The index has a row for each image ever seen, found there through a trigger that queues new images. ``sides.jsonl``
beside it says the same and outlives the index; ``split.json`` keeps the project's key and share, written once. The
same voxels under two names are found by a hash of them: at once where few small files arrive, else before they are
trained on or while the server looks after the store. Lock order: the split's lock, then the index.
"""

from __future__ import annotations

import copy
import logging
import secrets
import sqlite3
import time
from collections.abc import Collection, Iterable
from dataclasses import replace

from labelserver.datastore.image_rows import ImageFiles, ImageRow, image_row
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.pacing import Pace
from labelserver.datastore.plain_json import dump
from labelserver.datastore.split_rule import rule_as_text, rule_from_text
from labelserver.domain.errors import LabelServerError
from labelserver.domain.ids import FINAL
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ImageKind
from labelserver.domain.splits import ImageSide, Known, Side, SplitRule, fixed_sides, subject_of
from labelserver.imaging.content_hashes import content_hash
from labelserver.imaging.dicom_patient import patient_id_of
from labelserver.storage import atomic
from labelserver.storage.append import read_json_lines
from labelserver.storage.locks import exclusive

logger = logging.getLogger(__name__)

#: So many labels may come before one is of a held-out image.
_LABELS_BEFORE_HELD_OUT = 3

#: Arriving images are compared with the others at once up to so many files and bytes: about a second of reading.
_COMPARED_FILES = 500
_COMPARED_BYTES = 64 * 2**20

#: What a hash of voxels is that cannot be read.
_UNREADABLE = "-"

#: Keys of an image's info that name its patient.
_PATIENT_KEYS = ("PatientID", "patient_id", "patient")

#: With the earliest present image of the same voxels.
_SIDES = """
SELECT image_id, side, subject, CASE WHEN content IS NULL OR content = '-' THEN NULL ELSE (
    SELECT other.image_id FROM sides AS other JOIN images ON images.id = other.image_id
    WHERE other.content = sides.content AND other.number < sides.number AND images.state = 'present'
    ORDER BY other.number LIMIT 1) END
FROM sides"""

_COUNT_LABELLED = """
SELECT side, COUNT(DISTINCT subject) FROM sides
WHERE image_id IN (SELECT image_id FROM labels WHERE tag = 'final' AND shown = 1) GROUP BY side"""

_CHUNK = 500  #: values in one statement of SQLite


class Sides:
    """The sides of one store's images."""

    def __init__(
        self, layout: Layout, index: Index, images: ImageFiles, *, share: float = 0.2, patient_pattern: str = ""
    ) -> None:
        """`share` and `patient_pattern` count where the project has no ``split.json`` yet."""
        self._layout = layout
        self._index = index
        self._images = images
        self._given = (share, patient_pattern)
        self._rule: SplitRule | None = None
        self._settles = True

    def inside(self, index: Index) -> Sides:
        """The same, read through `index` alone, as inside a transaction: what has no side yet has none."""
        view = copy.copy(self)
        view._index = index
        view._settles = False
        return view

    def rule(self) -> SplitRule:
        """The project's rule, made when it is first asked for. Raises `InvalidSetting` for a broken pattern."""
        if self._rule is None:
            with exclusive(self._layout.state / "locks" / "split"):
                self._rule = self._with_given_pattern(self._read_rule() or self._new_rule())
        return self._rule

    def settle(self) -> None:
        """Fix the side of every image that has none yet. Costs a look-up where there is none."""
        if not self._settles:
            return
        with self._index.reading() as connection:
            if connection.execute("SELECT 1 FROM unsided LIMIT 1").fetchone() is None:
                return
        rule = self.rule()
        while self._settle_some(rule):
            continue

    def sides(self, image_ids: Iterable[str]) -> dict[str, ImageSide]:
        """See `contracts.splits.SplitStore`."""
        self.settle()
        found: dict[str, ImageSide] = {}
        with self._index.reading() as connection:
            for ids in _chunks(list(image_ids)):
                found.update(sides_in(connection, ids))
        return found

    def compare_contents(self, image_ids: Iterable[str], *, until: float | None = None) -> None:
        """See `contracts.splits.SplitStore`; `until` on the monotonic clock ends it early."""
        self.settle()
        by_shape: dict[object, list[ImageRow]] = {}
        for image_id in image_ids:
            with self._index.reading() as connection:
                row = image_row(connection, image_id)
            if row is not None and row.state == "present":
                by_shape.setdefault(self._shape_of(row), []).append(row)
        for row in (row for rows in by_shape.values() if len(rows) > 1 for row in rows):
            if until is not None and time.monotonic() > until:
                return
            with self._index.reading() as connection:
                query = "SELECT content FROM sides WHERE image_id = ?"
                known = connection.execute(query, (row.record.image_id,)).fetchone()
            if known is not None and known[0] is None:
                self._note_content(row.record.image_id, self._content_of(row))

    def _shape_of(self, row: ImageRow) -> object:
        """From the header; images of other shapes need not be read to know that they differ."""
        try:
            grid = self._images.grid(row)
        except (LabelServerError, OSError):
            return None
        return None if grid is None else grid.shape

    def compare_some(self, seconds: float, pace: Pace) -> None:
        """Compare small image files that nobody compared yet, for so long. Raises `LeftUndone`."""
        with self._index.reading() as connection:
            ids = connection.execute(
                "SELECT image_id FROM sides JOIN images ON images.id = image_id WHERE content IS NULL "
                "AND state = 'present' AND kind <> ? AND size_bytes <= ? ORDER BY number LIMIT 200",
                (ImageKind.DICOM_SERIES, _COMPARED_BYTES),
            ).fetchall()
            rows = [row for (image_id,) in ids if (row := image_row(connection, image_id)) is not None]
        until = time.monotonic() + seconds
        for row in pace.through(rows):
            self._note_content(row.record.image_id, self._content_of(row))
            if time.monotonic() > until:
                return

    def side_due(self) -> Side | None:
        """See `contracts.splits.SplitStore`."""
        self.settle()
        with self._index.reading() as connection:
            labelled = connection.execute(
                "SELECT COUNT(*) FROM (SELECT 1 FROM labels WHERE tag = ? AND shown = 1 LIMIT ?)",
                (FINAL, _LABELS_BEFORE_HELD_OUT),
            ).fetchone()[0]
            if labelled < _LABELS_BEFORE_HELD_OUT:
                return None
            has_one = connection.execute(
                "SELECT 1 FROM labels JOIN sides USING (image_id) WHERE tag = ? AND shown = 1 AND side = ? LIMIT 1",
                (FINAL, Side.HELD_OUT),
            ).fetchone()
        return None if has_one is not None else Side.HELD_OUT

    def forget(self, image_ids: Collection[str]) -> None:
        """Leave nothing about erased images in ``sides.jsonl``; their rows are gone already."""
        path = self._layout.sides_file
        if path.exists():
            with exclusive(self._layout.state / "locks" / "split"):
                kept = [line for line in read_json_lines(path) if line.get("image") not in image_ids]
                atomic.write_bytes(path, b"".join(_line(line) for line in kept))

    def _settle_some(self, rule: SplitRule) -> bool:
        """Fix up to some thousands. False once nothing is left."""
        with self._index.reading() as connection:
            queued = connection.execute("SELECT image_id FROM unsided ORDER BY rowid LIMIT 5000").fetchall()
            rows = [row for (image_id,) in queued if (row := image_row(connection, image_id)) is not None]
        if not queued:
            return False
        subjects: dict[str, str] = {row.record.image_id: self._subject_of(rule, row) for row in rows}
        contents = self._contents_of(rows)
        with self._index.writing() as connection:
            fresh = _insert(connection, rule, subjects, contents)
            connection.executemany("DELETE FROM unsided WHERE image_id = ?", queued)
            self._append(fresh)  # before the commit: a side in the file alone is taken up with the index's next making
        return True

    def _subject_of(self, rule: SplitRule, row: ImageRow) -> str:
        told = next((str(row.record.info[key]) for key in _PATIENT_KEYS if row.record.info.get(key)), "")
        if not told and row.record.kind is ImageKind.DICOM_SERIES:
            first = next((file for file in self._images.own_files(row) if file.is_file()), None)
            told = patient_id_of(first) if first is not None else ""
        return subject_of(rule, row.record.image_id, row.path, told)

    def _contents_of(self, rows: list[ImageRow]) -> dict[str, str]:
        """Hashes of the voxels, if these are few and small files."""
        files = [row for row in rows if row.state == "present" and row.record.kind is not ImageKind.DICOM_SERIES]
        paths = [self._layout.images / row.path for row in files]
        if len(rows) > _COMPARED_FILES or sum(p.stat().st_size for p in paths if p.is_file()) > _COMPARED_BYTES:
            return {}
        return {row.record.image_id: self._content_of(row) for row in files}

    def _content_of(self, row: ImageRow) -> str:
        if row.record.ext.lower() == ".svs":
            return _UNREADABLE
        try:
            return content_hash(self._images.file(row))
        except (LabelServerError, OSError, MemoryError) as error:
            logger.info("voxels not compared", extra={"image_id": row.record.image_id, "reason": str(error)})
            return _UNREADABLE

    def _note_content(self, image_id: str, content: str) -> None:
        """Keep the hash; an image whose voxels were seen under another name before goes to that one's side."""
        moved: list[JsonObject] = []
        with self._index.writing(relaxed=True) as connection:  # lost, it is found out again
            connection.execute("UPDATE sides SET content = ? WHERE image_id = ?", (content, image_id))
            same = _same_content(connection, content)
            for later, side, subject in same[1:]:
                if side != same[0][1]:
                    connection.execute("UPDATE sides SET side = ? WHERE image_id = ?", (same[0][1], later))
                    moved.append({"image": later, "subject": subject, "side": same[0][1]})
            self._append(moved)

    def _append(self, lines: list[JsonObject]) -> None:
        if not lines or self._layout.labels is None:
            return
        with atomic.storage_errors(self._layout.sides_file.name):
            self._layout.state.mkdir(parents=True, exist_ok=True)
            with self._layout.sides_file.open("ab") as stream:
                stream.write(b"".join(_line(line) for line in lines))

    def _read_rule(self) -> SplitRule | None:
        """From ``split.json``; where that is gone or damaged, from the index, which keeps a copy."""
        try:
            text = self._layout.split_file.read_text()
            return rule_from_text(text)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        with self._index.reading() as connection:
            kept = connection.execute("SELECT value FROM meta WHERE key = 'split'").fetchone()
        if kept is None:
            return None
        self._write_rule(kept[0])
        return rule_from_text(kept[0])

    def _new_rule(self) -> SplitRule:
        return self._keep_rule(SplitRule(new_key(), *self._given))

    def _with_given_pattern(self, rule: SplitRule) -> SplitRule:
        """A pattern that somebody sets later counts for the images that are first seen from then on."""
        pattern = self._given[1]
        return (
            rule if pattern in ("", rule.patient_pattern) else self._keep_rule(replace(rule, patient_pattern=pattern))
        )

    def _keep_rule(self, rule: SplitRule) -> SplitRule:
        text = rule_as_text(rule)
        rule_from_text(text)
        with self._index.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('split', ?)", (text,))
        self._write_rule(text)
        return rule

    def _write_rule(self, text: str) -> None:
        if self._layout.labels is not None:
            atomic.write_bytes(self._layout.split_file, text.encode())


def new_key() -> bytes:
    """32 bytes by chance: of a project's sides, subjects and images for several people."""
    return secrets.token_bytes(32)


def sides_in(connection: sqlite3.Connection, ids: list[str]) -> dict[str, ImageSide]:
    """Sides of some ids, with the earliest present image of the same voxels."""
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(f"{_SIDES} WHERE image_id IN ({marks})", ids)
    return {row[0]: ImageSide(Side(row[1]), row[2], row[3] or "") for row in rows}


def refill(connection: sqlite3.Connection, layout: Layout) -> None:
    """For an index made again: every side that was ever fixed; the newest line about an image counts."""
    for line in read_json_lines(layout.sides_file):
        image_id, subject, side = (str(line.get(key, "")) for key in ("image", "subject", "side"))
        if image_id and subject and side in tuple(Side):
            connection.execute(
                "INSERT INTO sides (image_id, subject, side) VALUES (?, ?, ?) "
                "ON CONFLICT (image_id) DO UPDATE SET subject = excluded.subject, side = excluded.side",
                (image_id, subject, side),
            )
    connection.execute("DELETE FROM unsided WHERE image_id IN (SELECT image_id FROM sides)")


def _insert(
    connection: sqlite3.Connection, rule: SplitRule, subjects: dict[str, str], contents: dict[str, str]
) -> list[JsonObject]:
    """Rows for those that have none, in their order. Returns what was fixed."""
    known: set[str] = set()
    for ids in _chunks(list(subjects)):
        known |= sides_in(connection, ids).keys()
    wanted = {image_id: subject for image_id, subject in subjects.items() if image_id not in known}
    by_subject: dict[str, str] = {}
    for chunk in _chunks(sorted(set(wanted.values()))):
        marks = ", ".join("?" * len(chunk))
        query = f"SELECT subject, side FROM sides WHERE subject IN ({marks}) ORDER BY number DESC"  # noqa: S608
        by_subject.update(connection.execute(query, chunk).fetchall())
    groups = _Groups()
    for image_id, subject in wanted.items():
        content = contents.get(image_id, _UNREADABLE)
        groups.add(subject, content)
        same = _same_content(connection, content)
        if subject not in by_subject and same:
            by_subject[subject] = same[0][1]
    by_group = {
        groups.first(subject): by_subject[subject] for subject in reversed(wanted.values()) if subject in by_subject
    }
    new = [group for subject in wanted.values() if (group := groups.first(subject)) not in by_group]
    labelled = {groups.first(wanted[image_id]) for image_id in _labelled(connection, list(wanted))}
    drawn = fixed_sides(new, rule, _known(connection), labelled, _known(connection, labelled=True))
    by_group.update({group: side.value for group, side in drawn.items()})
    lines: list[JsonObject] = []
    for image_id, subject in wanted.items():
        side = by_subject.get(subject) or by_group[groups.first(subject)]
        connection.execute(
            "INSERT INTO sides (image_id, subject, side, content) VALUES (?, ?, ?, ?)",
            (image_id, subject, side, contents.get(image_id)),
        )
        lines.append({"image": image_id, "subject": subject, "side": side})
    return lines


def _known(connection: sqlite3.Connection, *, labelled: bool = False) -> Known:
    """Subjects on each side; those with a final label alone."""
    query = _COUNT_LABELLED if labelled else "SELECT side, COUNT(DISTINCT subject) FROM sides GROUP BY side"
    counted = dict(connection.execute(query).fetchall())
    return Known(counted.get(Side.TRAINING, 0), counted.get(Side.HELD_OUT, 0))


def _labelled(connection: sqlite3.Connection, image_ids: list[str]) -> list[str]:
    """Those with a final label."""
    found: list[str] = []
    for ids in _chunks(image_ids):
        marks = ", ".join("?" * len(ids))
        query = f"SELECT image_id FROM labels WHERE tag = ? AND shown = 1 AND image_id IN ({marks})"  # noqa: S608
        found += [row[0] for row in connection.execute(query, (FINAL, *ids))]
    return found


class _Groups:
    """Subjects of which images hold the same voxels: one draw decides for all of them."""

    def __init__(self) -> None:
        self._before: dict[str, str] = {}
        self._of_content: dict[str, str] = {}

    def add(self, subject: str, content: str) -> None:
        """An image of `subject` holds `content`."""
        self._before.setdefault(subject, subject)
        if content != _UNREADABLE:
            mine, theirs = self.first(subject), self.first(self._of_content.setdefault(content, subject))
            self._before[mine] = theirs

    def first(self, subject: str) -> str:
        """The subject that stands for the group."""
        while self._before[subject] != subject:
            subject = self._before[subject]
        return subject


def _same_content(connection: sqlite3.Connection, content: str) -> list[tuple[str, str, str]]:
    """(image id, side, subject) of the images with these voxels, the first seen first."""
    if content == _UNREADABLE:
        return []
    return connection.execute(
        "SELECT image_id, side, subject FROM sides WHERE content = ? ORDER BY number", (content,)
    ).fetchall()


def _chunks(values: list[str]) -> list[list[str]]:
    return [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]


def _line(value: JsonObject) -> bytes:
    return dump(value).encode() + b"\n"

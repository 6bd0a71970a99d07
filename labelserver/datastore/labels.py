"""Labels: accepted as revisions, shown below ``labels/<tag>/``, removed without losing a revision.

Order of a save, all under the image's lock (which orders the savers of all threads and processes):

1. the copy for ``labels/<tag>/`` of a small file is written beside;
2. the revision's file and its JSON are written beside, synced, renamed, the folder synced; a large file's copy follows;
3. the index commits: **that commit is the acceptance**; the row says `PROMISED` and tells the copy's size and time;
4. the copy is renamed into place. Nothing is noted then: a file of that size and time shows that it was.

A crash before 3 leaves files that nobody was promised; between 3 and 4 it leaves a promised copy, which whoever asks
for the label, or the next look at the folder (`label_scan.py`), makes from the revision.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from labelserver.datastore import audit, revision_files
from labelserver.datastore.added_part import added_to
from labelserver.datastore.annotating import recorded_part, stored_mask
from labelserver.datastore.image_rows import ImageFiles, ImageRow, present_image
from labelserver.datastore.index import Index
from labelserver.datastore.label_check import CHECK_NOTES, CheckedLabel, check_label
from labelserver.datastore.label_copies import LabelCopies
from labelserver.datastore.label_rows import (
    LabelRow,
    Placing,
    insert_revision,
    label_row,
    label_row_of_file,
    newest_number,
    put_label,
    revision_of,
)
from labelserver.datastore.label_values import Assigner, stored_as_told
from labelserver.datastore.layout import Layout, label_name
from labelserver.datastore.plain_json import dump
from labelserver.datastore.project import Project
from labelserver.domain.annotation import AnnotatedPart
from labelserver.domain.errors import (
    ImageNotFound,
    LabelChanged,
    LabelNotFound,
    LabelServerError,
    StoredDataInvalid,
)
from labelserver.domain.ids import ImageId, Tag, folder_key
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ANY_LABEL, Expected, LabelSource, Numbering, Provenance, Revision
from labelserver.storage import atomic
from labelserver.storage.atomic import Taken, storage_errors
from labelserver.storage.checksums import sha256_of
from labelserver.storage.locks import exclusive

logger = logging.getLogger(__name__)

#: bytes; a file up to this size is read once for all that is made of it
_READ_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How one upload is to be taken (`contracts.datastore.RevisionStore.accept_label`)."""

    expected: Expected
    numbering: Numbering
    floats: bool
    annotated: AnnotatedPart | None = None
    take: bool = False


class Labels:
    """Accepts, shows and removes labels of one store."""

    def __init__(self, layout: Layout, index: Index, images: ImageFiles, project: Project) -> None:
        self._layout = layout
        self._index = index
        self._images = images
        self._project = project
        self.copies = LabelCopies(layout, index)
        #: called inside the transaction that accepts a label
        self.on_accept: Callable[[sqlite3.Connection, Revision], None] = lambda connection, revision: None

    def accept(
        self,
        image_id: ImageId,
        file: Path,
        ext: str,
        tag: Tag,
        provenance: Provenance,
        info: JsonObject,
        options: SaveOptions,
        take_up: Callable[[Path], None],
    ) -> Revision:
        """Check `file` and store it as the newest revision (see the module's docstring for the order).

        `info` as the caller gives it; what was found out about the voxels is added (`CHECK_NOTES`). `take_up` is called
        for a file in the label's place that another program has changed.
        """
        self._layout.tag_folder(tag)
        with self._index.reading() as connection:
            image = present_image(connection, image_id)
            shown = label_row(connection, image_id, tag)
        edited = self.copies.edited(shown)
        if edited is not None:
            take_up(edited)
        expected, before, part = options.expected, None, options.annotated
        if expected is not None:
            with self._index.reading() as connection:
                before = check_expected(connection, image_id, tag, expected)
        adds = part is not None and part.adds and before is not None and before.sha256 in (expected or ())
        blank = part is not None and part.voxels_255
        assigner = Assigner(self._project, info, options.numbering, voxels_255=blank)
        grid, spool = self._images.grid(image), self._layout.spool
        kind = image.record.kind
        told = part
        if part is not None and part.adds:
            told = replace(part, labels=None if part.says_nothing else part.labels, adds=False)
        checked = check_label(file, ext, kind, grid, spool, assigner, floats=options.floats, annotated=told)
        kept, take = _without_notes(info), options.take
        try:
            if adds and before is not None and part is not None:
                checked = added_to(before, checked, ext, part, self._layout, self._project.schema())
                expected = frozenset({before.sha256})
            with self.locked(image_id):
                return self._store(image, checked, ext, tag, provenance, kept, expected, take=take)
        finally:
            checked.discard()

    def restore(self, image_id: ImageId, tag: Tag, number: int, provenance: Provenance, expected: Expected) -> Revision:
        """Store the content of an older revision once more, byte for byte, as the newest.

        Raises:
            LabelNotFound: there is no such revision.
            StoredDataInvalid: its file is not what was stored.
            LabelChanged: as `expected` says.
        """
        with self.locked(image_id):
            with self._index.reading() as connection:
                image = present_image(connection, image_id)
                check_expected(connection, image_id, tag, expected)
                old = revision_of(connection, image_id, tag, number)
            if old is None:
                raise LabelNotFound(f"The label {tag!r} of {image_id!r} has no revision {number}.")
            file = self._layout.file_of(old)
            if not file.is_file() or sha256_of(file) != old.sha256:
                raise StoredDataInvalid(f"The file of revision {number} is damaged or gone; it cannot be restored.")
            stored = CheckedLabel(file, False, {}, old.schema_version, stored_mask(self._layout, old))
            return self._store(image, stored, old.ext, tag, provenance, {**old.info, "restored_from": number}, expected)

    @contextmanager
    def locked(self, image_id: str) -> Iterator[None]:
        """Alone, among threads and processes, with this image's labels. Not re-entrant."""
        with exclusive(self._layout.image_lock(image_id)):
            yield

    def _store(
        self,
        image: ImageRow,
        checked: CheckedLabel,
        ext: str,
        tag: Tag,
        provenance: Provenance,
        info: JsonObject,
        expected: Expected = None,
        *,
        take: bool = False,
    ) -> Revision:
        """Store a checked file; with `take`, it may be moved away. The caller holds the image's lock."""
        image_id, file = image.record.image_id, checked.file
        folder = self._layout.tag_folder(tag)
        with self._index.reading() as connection:
            before = label_row(connection, image_id, tag)
            newest = newest_number(connection, image_id, tag)
            name = label_name(image_id, ext)
            if before is None or before.file != name:
                holder = label_row_of_file(connection, tag, name)
                if holder is not None and holder.image_id != image_id:  # "a" + ".seg.nrrd" and "a.seg" + ".nrrd"
                    name = f"{folder_key(image_id)}{ext}"
        now = time.time()
        with storage_errors("the label"):
            size_bytes = file.stat().st_size
            content: Path | bytes = file.read_bytes() if size_bytes <= _READ_ONCE else file
            digest = sha256_of(file) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        revision = Revision(
            image_id=image_id,
            tag=tag,
            number=revision_files.next_number(self._layout.revision_folder(image_id, tag), newest),
            ext=ext,
            sha256=digest,
            size_bytes=size_bytes,
            parent=before.current if before is not None and before.active else None,
            created_ts=now,
            provenance=provenance,
            schema_version=checked.schema_version,
            info={**info, **checked.note},
        )
        target = folder / name
        copy: Path | None = None
        try:
            if isinstance(content, bytes):  # what the file system notes of it goes to the disk with the revision's wait
                copy = atomic.copy_beside(content, target, mtime_ns=time.time_ns())
            given = Taken(file) if take or checked.temporary else content
            description = revision_files.write(self._layout, revision, image.record, image.series, given, checked.mask)
            if copy is None:  # of the revision: somebody may be writing the file that was given
                copy = atomic.copy_beside(self._layout.file_of(revision), target, mtime_ns=time.time_ns())
            row = self._row_for(revision, name, copy)
            with self._index.writing() as connection:
                present_image(connection, image_id)
                check_expected(connection, image_id, tag, expected)
                insert_revision(connection, revision)
                put_label(connection, row)
                self.on_accept(connection, revision)
                self.copies.settle_now_and_then(connection)
                audit.record(connection, audit.saved(self._layout, revision, description=description))
        except (LabelServerError, OSError, sqlite3.Error):
            if copy is not None:
                copy.unlink(missing_ok=True)
            revision_files.discard(self._layout, revision)
            raise
        try:
            self.copies.show(row, before, copy)
        except (LabelServerError, OSError) as error:
            logger.warning(
                "the label is accepted; its copy below labels/ waits for the next look",
                extra={"image_id": image_id, "tag": tag, "number": revision.number, "reason": str(error)},
            )
        return revision

    def _row_for(self, revision: Revision, name: str, copy: Path) -> LabelRow:
        status = copy.stat()
        info = {**revision.info, "ts": int(revision.created_ts), "name": name.rpartition("/")[2]}
        return LabelRow(
            image_id=revision.image_id,
            tag=revision.tag,
            current=revision.number,
            active=True,
            placing=Placing.PROMISED,
            file=name,
            ext=revision.ext,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            info=info,
        )

    def remove(self, image_id: ImageId, tag: Tag, person: str = "", expected: Expected = None) -> None:
        """Take the label out of ``labels/``; its revisions stay. Nothing happens if there is none.

        Raises:
            LabelChanged: as `expected` says.
        """
        with self.locked(image_id):
            with self._index.reading() as connection:
                check_expected(connection, image_id, tag, expected)
                row = label_row(connection, image_id, tag)
            if row is not None and row.active:
                self.withdraw(row, person)
                with storage_errors(row.file):
                    (self._layout.tag_folder(tag) / row.file).unlink(missing_ok=True)

    def withdraw(self, row: LabelRow, person: str = "") -> None:
        """Mark the label removed, on disk beside its revisions and in the index. The caller holds the lock."""
        revision_files.mark_removed(self._layout, row.image_id, row.tag, row.current)
        with self._index.writing() as connection:
            connection.execute(
                "UPDATE labels SET active = 0, shown = 0, pending = 0 WHERE image_id = ? AND tag = ?",
                (row.image_id, row.tag),
            )
            audit.record(connection, audit.Act("withdraw", person, row.image_id, row.tag, row.current))

    def current(self, image_id: ImageId, tag: Tag) -> Revision:
        """Raises `LabelNotFound`."""
        with self._index.reading() as connection:
            row = label_row(connection, image_id, tag)
            revision = revision_of(connection, image_id, tag, row.current) if row and row.active else None
        if revision is None:
            raise LabelNotFound(f"The image {image_id!r} has no label under the tag {tag!r}.")
        return revision

    def update_info(self, image_id: ImageId, tag: Tag, info: JsonObject) -> None:
        """Shallow merge in one transaction. Raises `LabelNotFound`."""
        with self._index.writing() as connection:
            row = label_row(connection, image_id, tag)
            if row is None or not row.active:
                raise LabelNotFound(f"The image {image_id!r} has no label under the tag {tag!r}.")
            connection.execute(
                "UPDATE labels SET info = ? WHERE image_id = ? AND tag = ?", (dump({**row.info, **info}), image_id, tag)
            )

    def stored_as_told(self, info: JsonObject) -> int | None:
        """The schema's version if a label with this info surely holds its values; None if somebody must look."""
        return self._project.schema().version if stored_as_told(self._project, info) else None

    def image_of(self, image_id: str) -> ImageRow | None:
        """The present image, or None."""
        with self._index.reading() as connection:
            try:
                return present_image(connection, image_id)
            except ImageNotFound:
                return None

    def store_outside_edit(
        self, image: ImageRow, file: Path, ext: str, tag: Tag, source: LabelSource, info: JsonObject | None
    ) -> Revision:
        """Check and store what another program put below ``labels/``. The caller holds the image's lock.

        `info` is what the peer's index tells about it; without it, the label's info so far is kept, whose numbers are
        those of an earlier upload and say nothing about this file: it holds the schema's values. Which part of the
        image is annotated stays as it was, because a label file cannot say so, but for what was changed.
        """
        assigner = Assigner(self._project, info or {}, Numbering.SCHEMA)
        exported = self._layout.exported_region(tag, image.record.image_id)
        part = recorded_part(info, exported) if info is not None else None
        grid, spool = self._images.grid(image), self._layout.spool
        checked = check_label(file, ext, image.record.kind, grid, spool, assigner, annotated=part)
        try:
            with self._index.reading() as connection:
                row = label_row(connection, image.record.image_id, tag)
                before = revision_of(connection, image.record.image_id, tag, row.current) if row is not None else None
            told = info if info is not None else (row.info if row is not None else {})
            if info is None and before is not None:
                nothing = AnnotatedPart(labels=(), adds=True)
                checked = added_to(before, checked, ext, nothing, self._layout, self._project.schema())
            kept = {k: v for k, v in _without_notes(told).items() if k not in ("ts", "name")}
            return self._store(image, checked, ext, tag, imported(info, source), kept)
        finally:
            checked.discard()


def _without_notes(info: JsonObject) -> JsonObject:
    return {key: value for key, value in info.items() if key not in CHECK_NOTES}


def check_expected(connection: sqlite3.Connection, image_id: ImageId, tag: Tag, expected: Expected) -> Revision | None:
    """Raises `LabelChanged`, naming the current revision, unless the label is as `expected`.

    Returns:
        The current revision; None if there is none, or nothing was expected.
    """
    if expected is None:
        return None
    row = label_row(connection, image_id, tag)
    current = revision_of(connection, image_id, tag, row.current) if row is not None and row.active else None
    if current is None:
        if not expected:
            return None
        raise LabelChanged(f"The image {image_id!r} has no label under the tag {tag!r} any more; it was removed.")
    if current.sha256 in expected or ANY_LABEL in expected:
        return current
    when = datetime.fromtimestamp(current.created_ts, tz=UTC).isoformat(timespec="seconds")
    author = current.provenance.person or "somebody"
    raise LabelChanged(
        f"This label is at revision {current.number} by {author} of {when}, which is not the one you started from. "
        "Fetch it, compare, and try again; nothing was changed.",
        number=current.number,
        author=current.provenance.person,
        time=when,
        created_ts=current.created_ts,
        sha256=current.sha256,
    )


def imported(info: JsonObject | None, source: LabelSource) -> Provenance:
    """Provenance of a label that lay in the folder, as far as the peer's info tells."""
    told = info or {}
    person = told.get("user") or told.get("client_id") or ""
    return Provenance(
        person=str(person), client=str(told.get("client_id") or ""), source=source, model=str(told.get("model") or "")
    )

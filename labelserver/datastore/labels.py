"""Labels: accepted as revisions, shown below ``labels/<tag>/``, removed without losing a revision.

Order of a save, all under the image's lock (which orders the savers of all threads and processes):

1. the revision's file and its JSON are written beside, synced, renamed, the folder synced;
2. the copy for ``labels/<tag>/`` is written beside;
3. the index commits: **that commit is the acceptance**; the row says `PROMISED`;
4. the copy is renamed into place, which is noted without waiting for the disk.

A crash before 3 leaves files that nobody was promised; between 3 and 4 it leaves a promised copy, which the next look
at the folder (`label_scan.py`) makes from the revision.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from labelserver.datastore import audit, revision_files
from labelserver.datastore.image_rows import ImageFiles, ImageRow, present_image
from labelserver.datastore.index import Index
from labelserver.datastore.label_check import CHECK_NOTES, CheckedLabel, check_label
from labelserver.datastore.label_rows import (
    LabelRow,
    Placing,
    insert_revision,
    label_row,
    label_row_of_file,
    newest_number,
    put_label,
    revision_of,
    settle,
)
from labelserver.datastore.label_values import Assigner, stored_as_told
from labelserver.datastore.layout import Layout, label_name
from labelserver.datastore.plain_json import dump
from labelserver.datastore.project import Project
from labelserver.domain.errors import (
    DiskFull,
    ImageNotFound,
    InvalidSetting,
    LabelChanged,
    LabelNotFound,
    LabelServerError,
    StoredDataInvalid,
)
from labelserver.domain.ids import ImageId, Tag, folder_key
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ANY_LABEL, Expected, LabelSource, Numbering, Provenance, Revision
from labelserver.storage import atomic
from labelserver.storage.atomic import storage_errors
from labelserver.storage.checksums import sha256_of
from labelserver.storage.locks import exclusive

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How one upload is to be taken (`contracts.datastore.RevisionStore.accept_label`)."""

    expected: Expected
    numbering: Numbering
    floats: bool


class Labels:
    """Accepts, shows and removes labels of one store."""

    def __init__(self, layout: Layout, index: Index, images: ImageFiles, project: Project) -> None:
        self._layout = layout
        self._index = index
        self._images = images
        self._project = project

    def accept(
        self,
        image_id: ImageId,
        file: Path,
        ext: str,
        tag: Tag,
        provenance: Provenance,
        info: JsonObject,
        options: SaveOptions,
    ) -> Revision:
        """Check `file` and store it as the newest revision (see the module's docstring for the order).

        `info` as the caller gives it; what was found out about the voxels is added (`CHECK_NOTES`).
        """
        self.tag_folder(tag)
        with self._index.reading() as connection:
            image = present_image(connection, image_id)
            check_expected(connection, image_id, tag, options.expected)
        assigner = Assigner(self._project, info, options.numbering)
        grid, spool = self._images.grid(image), self._layout.spool
        checked = check_label(file, ext, image.record.kind, grid, spool, assigner, floats=options.floats)
        try:
            with self.locked(image_id):
                return self._store(image, checked, ext, tag, provenance, _without_notes(info), options.expected)
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
            file = self.file_of(old)
            if not file.is_file() or sha256_of(file) != old.sha256:
                raise StoredDataInvalid(f"The file of revision {number} is damaged or gone; it cannot be restored.")
            stored = CheckedLabel(file, False, {}, old.schema_version)
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
    ) -> Revision:
        """Store a checked file. The caller holds the image's lock."""
        image_id, file = image.record.image_id, checked.file
        folder = self.tag_folder(tag)
        with self._index.reading() as connection:
            before = label_row(connection, image_id, tag)
            newest = newest_number(connection, image_id, tag)
            name = label_name(image_id, ext)
            holder = label_row_of_file(connection, tag, name)
            if holder is not None and holder.image_id != image_id:  # "a" + ".seg.nrrd" and "a.seg" + ".nrrd"
                name = f"{folder_key(image_id)}{ext}"
        now = time.time()
        with storage_errors("the label"):
            digest, size_bytes = sha256_of(file), file.stat().st_size
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
        revision_files.write(self._layout, revision, image.record, image.series, file)
        target = folder / name
        copy: Path | None = None
        try:
            copy = atomic.copy_beside(self.file_of(revision), target)
            row = self._row_for(revision, name, copy)
            with self._index.writing() as connection:
                present_image(connection, image_id)
                check_expected(connection, image_id, tag, expected)
                insert_revision(connection, revision)
                put_label(connection, row)
                settle(connection, now)
                audit.record(connection, audit.saved(self._layout, revision))
        except (LabelServerError, OSError, sqlite3.Error):
            if copy is not None:
                copy.unlink(missing_ok=True)
            revision_files.discard(self._layout, revision)
            raise
        try:
            self._show(row, before, copy)
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

    def _show(self, row: LabelRow, before: LabelRow | None, copy: Path) -> None:
        """Rename the prepared copy into place; a file of the same label with another extension goes."""
        folder = self.tag_folder(row.tag)
        try:
            with storage_errors(row.file):
                copy.replace(folder / row.file)
                if before is not None and before.file != row.file:
                    (folder / before.file).unlink(missing_ok=True)
        finally:
            copy.unlink(missing_ok=True)
        with self._index.writing(relaxed=True) as connection:
            connection.execute(
                "UPDATE labels SET pending = ? WHERE image_id = ? AND tag = ? AND current = ?",
                (Placing.FRESH, row.image_id, row.tag, row.current),
            )

    def show_again(self, row: LabelRow) -> None:
        """Put the current revision's bytes below ``labels/`` once more. The caller holds the image's lock."""
        with self._index.reading() as connection:
            revision = revision_of(connection, row.image_id, row.tag, row.current)
        if revision is None:
            raise LabelNotFound(f"Revision {row.current} of {row.image_id!r} under {row.tag!r} is not known.")
        copy = atomic.copy_beside(self.file_of(revision), self.tag_folder(row.tag) / row.file)
        status = copy.stat()
        with self._index.writing() as connection:
            put_label(
                connection,
                replace(row, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, placing=Placing.PROMISED),
            )
        self._show(row, None, copy)

    def remove(self, image_id: ImageId, tag: Tag, person: str = "") -> None:
        """Take the label out of ``labels/``; its revisions stay. Nothing happens if there is none."""
        with self.locked(image_id):
            with self._index.reading() as connection:
                row = label_row(connection, image_id, tag)
            if row is not None and row.active:
                self.withdraw(row, person)
                with storage_errors(row.file):
                    (self.tag_folder(tag) / row.file).unlink(missing_ok=True)

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

    def file_of(self, revision: Revision) -> Path:
        """The stored bytes of a revision."""
        return self._layout.revision_file(revision.image_id, revision.tag, revision.number, revision.ext)

    def tag_folder(self, tag: Tag) -> Path:
        """``labels/<tag>``. Raises `InvalidSetting` where nothing may be written."""
        if self._layout.labels is None:
            raise InvalidSetting(
                "The studies folder is read-only, so labels need another place: set LABELSERVER_LABELS_DIR."
            )
        return self._layout.labels / tag

    def update_info(self, image_id: ImageId, tag: Tag, info: JsonObject) -> None:
        """Shallow merge in one transaction. Raises `LabelNotFound`."""
        with self._index.writing() as connection:
            row = label_row(connection, image_id, tag)
            if row is None or not row.active:
                raise LabelNotFound(f"The image {image_id!r} has no label under the tag {tag!r}.")
            connection.execute(
                "UPDATE labels SET info = ? WHERE image_id = ? AND tag = ?", (dump({**row.info, **info}), image_id, tag)
            )

    def uri(self, image_id: str, tag: str) -> Path | None:
        """The file below ``labels/``; None if there is no such label.

        A copy that a crash or a full disk kept back is made now; where that fails, the revision itself is answered.
        """
        if self._layout.labels is None:
            return None
        with self._index.reading() as connection:
            row = label_row(connection, image_id, tag)
        if row is None or not row.active:
            return None
        path = self._layout.labels / tag / row.file
        if row.placing is Placing.PROMISED:
            with self.locked(image_id):
                with self._index.reading() as connection:
                    row = label_row(connection, image_id, tag)
                if row is not None and row.active and row.placing is Placing.PROMISED:
                    try:
                        self.show_again(row)
                    except DiskFull:
                        return self._layout.revision_file(row.image_id, row.tag, row.current, row.ext)
        return path if path.exists() else None

    def stored_as_told(self, info: JsonObject) -> int | None:
        """The schema's version if a label with this info surely holds its values; None if somebody must look."""
        return self._project.schema().version if stored_as_told(self._project, info) else None

    def edited_file(self, image_id: ImageId, tag: Tag) -> Path | None:
        """The file below ``labels/`` if it is not as we left it; None also if there is none."""
        if self._layout.labels is None:
            return None
        with self._index.reading() as connection:
            row = label_row(connection, image_id, tag)
        if row is None or not row.active or row.placing is Placing.PROMISED:
            return None
        path = self._layout.labels / tag / row.file
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return None if (status.st_size, status.st_mtime_ns) == (row.size_bytes, row.mtime_ns) else path

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
        those of an earlier upload and say nothing about this file: it holds the schema's values.
        """
        assigner = Assigner(self._project, info or {}, Numbering.SCHEMA)
        checked = check_label(file, ext, image.record.kind, self._images.grid(image), self._layout.spool, assigner)
        try:
            with self._index.reading() as connection:
                row = label_row(connection, image.record.image_id, tag)
            told = info if info is not None else (row.info if row is not None else {})
            kept = {k: v for k, v in _without_notes(told).items() if k not in ("ts", "name")}
            return self._store(image, checked, ext, tag, imported(info, source), kept)
        finally:
            checked.discard()


def _without_notes(info: JsonObject) -> JsonObject:
    return {key: value for key, value in info.items() if key not in CHECK_NOTES}


def check_expected(connection: sqlite3.Connection, image_id: ImageId, tag: Tag, expected: Expected) -> None:
    """Raises `LabelChanged`, naming the current revision, unless the label is as `expected`."""
    if expected is None:
        return
    row = label_row(connection, image_id, tag)
    current = revision_of(connection, image_id, tag, row.current) if row is not None and row.active else None
    if current is None:
        if not expected:
            return
        raise LabelChanged(f"The image {image_id!r} has no label under the tag {tag!r} any more; it was removed.")
    if current.sha256 in expected or ANY_LABEL in expected:
        return
    when = datetime.fromtimestamp(current.created_ts, tz=UTC).isoformat(timespec="seconds")
    author = current.provenance.person or "somebody"
    raise LabelChanged(
        f"This label is at revision {current.number} by {author} of {when}, which is not the one you started from. "
        "Fetch it, compare, and save again; your drawing was not stored.",
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

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

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from labelserver.datastore import audit, revision_files
from labelserver.datastore.image_rows import ImageFiles, ImageRow, present_image
from labelserver.datastore.index import Index
from labelserver.datastore.label_check import check_label
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
from labelserver.datastore.layout import Layout, label_name
from labelserver.datastore.plain_json import dump
from labelserver.domain.errors import ImageNotFound, InvalidSetting, LabelNotFound, LabelServerError
from labelserver.domain.ids import ImageId, Tag, folder_key
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import LabelSource, Provenance, Revision
from labelserver.storage import atomic
from labelserver.storage.atomic import storage_errors
from labelserver.storage.checksums import sha256_of
from labelserver.storage.locks import exclusive

#: Revisions name the version of the label schema they were made under; without a schema it is 0.
NO_SCHEMA = 0


class Labels:
    """Accepts, shows and removes labels of one store."""

    def __init__(self, layout: Layout, index: Index, images: ImageFiles) -> None:
        self._layout = layout
        self._index = index
        self._images = images

    def accept(
        self, image_id: ImageId, file: Path, ext: str, tag: Tag, provenance: Provenance, info: JsonObject
    ) -> Revision:
        """Check `file` and store it as the newest revision (see the module's docstring for the order)."""
        with self._index.reading() as connection:
            image = present_image(connection, image_id)
        checked = check_label(file, ext, image.record.kind, self._images.grid(image), self._layout.spool)
        try:
            with self.locked(image_id):
                return self._store(image, checked.file, ext, tag, provenance, {**info, **checked.note})
        finally:
            checked.discard()

    @contextmanager
    def locked(self, image_id: str) -> Iterator[None]:
        """Alone, among threads and processes, with this image's labels. Not re-entrant."""
        with exclusive(self._layout.image_lock(image_id)):
            yield

    def _store(
        self, image: ImageRow, file: Path, ext: str, tag: Tag, provenance: Provenance, info: JsonObject
    ) -> Revision:
        """Store a checked file. The caller holds the image's lock."""
        image_id = image.record.image_id
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
            schema_version=NO_SCHEMA,
            info=info,
        )
        revision_files.write(self._layout, revision, image.record, image.series, file)
        target = folder / name
        copy: Path | None = None
        try:
            copy = atomic.copy_beside(self.file_of(revision), target)
            row = self._row_for(revision, name, copy)
            with self._index.writing() as connection:
                present_image(connection, image_id)
                insert_revision(connection, revision)
                put_label(connection, row)
                settle(connection, now)
                audit.record(connection, audit.saved(self._layout, revision))
        except (LabelServerError, OSError, sqlite3.Error):
            if copy is not None:
                copy.unlink(missing_ok=True)
            revision_files.discard(self._layout, revision)
            raise
        self._show(row, before, copy)
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
        with storage_errors(row.file):
            copy.replace(folder / row.file)
            if before is not None and before.file != row.file:
                (folder / before.file).unlink(missing_ok=True)
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
        """The file below ``labels/``; None if there is no such label. A copy that a crash kept back is made now."""
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
                    self.show_again(row)
        return path if path.exists() else None

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

        `info` is what the peer's index tells about it; without it, the label's info so far is kept.
        """
        checked = check_label(file, ext, image.record.kind, self._images.grid(image), self._layout.spool)
        try:
            with self._index.reading() as connection:
                row = label_row(connection, image.record.image_id, tag)
            told = info if info is not None else (row.info if row is not None else {})
            kept = {k: v for k, v in told.items() if k not in ("ts", "name", "reordered")}
            provenance = imported(info, source)
            return self._store(image, checked.file, ext, tag, provenance, {**kept, **checked.note})
        finally:
            checked.discard()


def imported(info: JsonObject | None, source: LabelSource) -> Provenance:
    """Provenance of a label that lay in the folder, as far as the peer's info tells."""
    told = info or {}
    person = told.get("user") or told.get("client_id") or ""
    return Provenance(
        person=str(person), client=str(told.get("client_id") or ""), source=source, model=str(told.get("model") or "")
    )

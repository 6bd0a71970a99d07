"""The copies of current labels below ``labels/<tag>/``, which other programs read and may write.

A copy is promised by the row of its label (`Placing.PROMISED`, size and time) before it is renamed into place; whoever
asks for it makes it where a crash or a full disk kept it back. Changes are made under the image's lock.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path

from labelserver.datastore.index import Index
from labelserver.datastore.label_rows import (
    LabelRow,
    Placing,
    is_copy_of,
    label_row,
    put_label,
    revision_of,
    revisions_of,
    settle,
)
from labelserver.datastore.layout import Layout
from labelserver.domain.errors import DiskFull, LabelNotFound
from labelserver.domain.ids import ImageId, Tag
from labelserver.storage import atomic
from labelserver.storage.atomic import storage_errors
from labelserver.storage.checksums import sha256_of
from labelserver.storage.locks import exclusive

#: seconds between looks of a saving process at which copies have surely reached the disk
_SETTLE_EVERY_S = 10.0


class LabelCopies:
    """The label copies of one store."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index
        self._settled = time.monotonic()

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
        if row.placing is Placing.PROMISED and not is_copy_of(path, row.size_bytes, row.mtime_ns):
            with exclusive(self._layout.image_lock(image_id)):
                with self._index.reading() as connection:
                    row = label_row(connection, image_id, tag)
                if row is not None and row.active and self._lacks_its_copy(row):
                    try:
                        self.show_again(row)
                    except DiskFull:
                        return self._layout.revision_file(row.image_id, row.tag, row.current, row.ext)
        return path if path.exists() else None

    def edited_file(self, image_id: ImageId, tag: Tag) -> Path | None:
        """The file below ``labels/`` if it is not as we left it; None also if there is none."""
        if self._layout.labels is None:
            return None
        with self._index.reading() as connection:
            row = label_row(connection, image_id, tag)
        return self.edited(row)

    def edited(self, row: LabelRow | None) -> Path | None:
        """As `edited_file`, of a row."""
        if row is None or not row.active:
            return None
        path = self._layout.tag_folder(row.tag) / row.file
        return path if path.exists() and not is_copy_of(path, row.size_bytes, row.mtime_ns) else None

    def show(self, row: LabelRow, before: LabelRow | None, copy: Path) -> None:
        """Rename the prepared copy into place; a file of the same label with another extension goes."""
        folder = self._layout.tag_folder(row.tag)
        try:
            with storage_errors(row.file):
                copy.replace(folder / row.file)
                if before is not None and before.file != row.file:
                    (folder / before.file).unlink(missing_ok=True)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise

    def show_again(self, row: LabelRow) -> None:
        """Put the current revision's bytes below ``labels/`` once more. The caller holds the image's lock."""
        with self._index.reading() as connection:
            revision = revision_of(connection, row.image_id, row.tag, row.current)
        if revision is None:
            raise LabelNotFound(f"Revision {row.current} of {row.image_id!r} under {row.tag!r} is not known.")
        target = self._layout.tag_folder(row.tag) / row.file
        copy = atomic.copy_beside(self._layout.file_of(revision), target, mtime_ns=time.time_ns())
        status = copy.stat()
        with self._index.writing() as connection:
            put_label(
                connection,
                replace(row, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, placing=Placing.PROMISED),
            )
        self.show(row, None, copy)

    def settle_now_and_then(self, connection: sqlite3.Connection) -> None:
        """Note which copies have surely reached the disk: the work of one save in many."""
        now = time.monotonic()
        if self._layout.labels is not None and now > self._settled + _SETTLE_EVERY_S:
            self._settled = now
            settle(connection, self._layout.labels, time.time())

    def _lacks_its_copy(self, row: LabelRow) -> bool:
        """Is nothing or an older revision in the place of the promised copy? The caller holds the image's lock."""
        path = self._layout.tag_folder(row.tag) / row.file
        try:
            digest = sha256_of(path)
        except FileNotFoundError:
            return True
        with self._index.reading() as connection:
            known = revisions_of(connection, row.image_id, row.tag)
        return any(r.sha256 == digest for r in known) and all(
            r.sha256 != digest for r in known if r.number == row.current
        )

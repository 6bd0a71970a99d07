"""The full check of labels that were taken by their headers, when a folder with many labels was first opened.

A first look at a hundred thousand labels cannot read all their voxels before the start. They are read afterwards, some
at a time. A label that no upload would be accepted as is set aside in ``quarantine/``, withdrawn and reported; one that
the schema stores otherwise becomes a second revision; one with values that a strict schema does not know stays and is
reported. Where the check has come to stands in the index.
"""

from __future__ import annotations

import json
import logging
import time

from labelserver.datastore.catalog import meta
from labelserver.datastore.image_rows import ImageFiles, ImageRow
from labelserver.datastore.index import Index
from labelserver.datastore.label_check import check_label
from labelserver.datastore.label_rows import LabelRow, label_row, revision_of
from labelserver.datastore.label_values import Assigner
from labelserver.datastore.labels import Labels
from labelserver.datastore.layout import Layout
from labelserver.datastore.pacing import Pace
from labelserver.datastore.project import Project
from labelserver.domain.errors import LabelServerError, Refused, UnknownLabelName
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.labels import LabelSource, Numbering, Revision
from labelserver.imaging.formats import has_voxels
from labelserver.storage import atomic
from labelserver.storage.checksums import sha256_of

logger = logging.getLogger(__name__)

#: In the index while labels wait: JSON [image id, tag] of the last one that was looked at.
UNCHECKED = "imports_unchecked"

#: Before the first.
FROM_START = '["", ""]'

#: labels looked up at once
_PAGE = 50


class LateCheck:
    """Checks the imported labels of one store. One process at a time, because the image's lock orders them."""

    def __init__(self, layout: Layout, index: Index, images: ImageFiles, labels: Labels, project: Project) -> None:
        self._layout = layout
        self._index = index
        self._images = images
        self._labels = labels
        self._project = project

    def some(self, seconds: float, pace: Pace) -> bool:
        """Check labels for about so long. Returns whether any are left.

        Raises `DiskFull`, `StorageFailed`, `LeftUndone`.
        """
        until = time.monotonic() + seconds
        while True:
            with self._index.reading() as connection:
                told = meta(connection, UNCHECKED)
                if not told:
                    return False
                page = connection.execute(_WAITING, (*json.loads(told), _PAGE)).fetchall()
            for image_id, tag in pace.through(page):
                self._check(ImageId(image_id), Tag(tag))
                self._note(json.dumps([image_id, tag]))
                if time.monotonic() > until:
                    return True
            if len(page) < _PAGE:
                self._note(None)
                return False

    def _check(self, image_id: ImageId, tag: Tag) -> None:
        with self._labels.locked(image_id):
            with self._index.reading() as connection:
                row = label_row(connection, image_id, tag)
                revision = revision_of(connection, image_id, tag, 1)
            image = self._labels.image_of(image_id)
            if row is None or not row.active or row.current != 1 or revision is None or image is None:
                return  # somebody saved a newer one, or it is gone
            if not has_voxels(revision.ext):
                return
            try:
                self._take(image, revision)
            except UnknownLabelName as error:  # the schema may have become strict since
                self._tell(row, f"This label is kept as it was found: {error.message}")
            except Refused as error:
                self._set_aside(row, error)

    def _take(self, image: ImageRow, revision: Revision) -> None:
        """The caller holds the image's lock. Raises `Refused`."""
        file, ext = self._layout.file_of(revision), revision.ext
        if not file.is_file() or sha256_of(file) != revision.sha256:
            return  # `keeping.py` finds and heals it
        assigner = Assigner(self._project, revision.info, Numbering.SCHEMA)
        grid = self._images.grid(image)
        checked = check_label(file, ext, image.record.kind, grid, self._layout.spool, assigner)
        checked.discard()
        if checked.temporary:
            source = LabelSource.IMPORT
            self._labels.store_outside_edit(image, file, ext, revision.tag, source, revision.info)

    def _set_aside(self, row: LabelRow, error: LabelServerError) -> None:
        shown = self._layout.tag_folder(row.tag) / row.file
        self._labels.withdraw(row)
        if shown.is_file():
            atomic.move_file(shown, self._layout.quarantine / f"{time.time_ns()}-{shown.name[-100:]}")
        self._tell(
            row,
            f"This label was taken when the folder was first opened, and is none: {error.message} It was set aside.",
        )

    def _tell(self, row: LabelRow, reason: str) -> None:
        logger.warning("an imported label is not as it should be", extra={"image_id": row.image_id, "tag": row.tag})
        name = self._layout.below_studies(self._layout.tag_folder(row.tag) / row.file)
        with self._index.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'imports', ?)", (name, reason)
            )

    def _note(self, place: str | None) -> None:
        with self._index.writing(relaxed=True) as connection:
            if place is None:
                connection.execute("DELETE FROM meta WHERE key = ?", (UNCHECKED,))
            else:
                connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (UNCHECKED, place))


_WAITING = """
SELECT image_id, tag FROM revisions WHERE number = 1 AND source = 'import' AND (image_id, tag) > (?, ?)
ORDER BY image_id, tag LIMIT ?
"""

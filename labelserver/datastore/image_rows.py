"""Reading images from the index, and the grid that labels are compared with."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from labelserver.datastore.dicom_folders import SeriesCache
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import load_object
from labelserver.domain.errors import ImageNotFound
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId
from labelserver.domain.labels import ImageKind, ImageRecord
from labelserver.imaging.volumes import read_grid

#: Grids of images that are being labeled; a grid is some hundred bytes.
_KEPT_GRIDS = 4096

_IMAGES = "SELECT id, path, series, kind, ext, info, state FROM images"


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image of the index with what only the store needs to know."""

    record: ImageRecord
    series: str
    path: str  #: below the images folder
    state: str


def image_row(connection: sqlite3.Connection, image_id: str) -> ImageRow | None:
    """The row of any state; None if the id was never given."""
    row = connection.execute(f"{_IMAGES} WHERE id = ?", (image_id,)).fetchone()
    return None if row is None else _as_row(row)


def present_image(connection: sqlite3.Connection, image_id: str) -> ImageRow:
    """Raises `ImageNotFound` if there is no such image now."""
    row = image_row(connection, image_id)
    if row is None or row.state != "present":
        raise ImageNotFound(f"There is no image {image_id!r}. List them with GET /datastore/?output=all.")
    return row


def _as_row(row: tuple[str, ...]) -> ImageRow:
    image_id, path, series, kind, ext, info, state = row
    record = ImageRecord(ImageId(image_id), ImageKind(kind), ext, path, load_object(info))
    return ImageRow(record, series, path, state)


class ImageFiles:
    """From an image's row to a file that readers can open, and to its grid."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._series = SeriesCache(layout, index)
        self._grids: OrderedDict[tuple[str, int, int], Grid] = OrderedDict()
        self._guard = Lock()

    def file(self, row: ImageRow) -> Path:
        """The image's own file; a DICOM series is converted first. Raises `ImageNotFound`, `UnreadableFile`."""
        if row.record.kind is ImageKind.DICOM_SERIES:
            return self._series.converted(row.record.image_id, row.path, row.series)
        return self._layout.images / row.path

    def own_files(self, row: ImageRow) -> list[Path]:
        """The files in the studies folder that make up the image."""
        if row.record.kind is ImageKind.DICOM_SERIES:
            return self._series.files(row.path, row.series)
        return [self._layout.images / row.path]

    def grid(self, row: ImageRow) -> Grid | None:
        """From the headers, kept while the file is unchanged; None for kinds whose grid is not read (whole slides).

        Raises:
            ImageNotFound: the file is gone.
            UnreadableFile: it is damaged.
        """
        if row.record.kind is ImageKind.DICOM_SERIES:
            return self._series.grid(row.path, row.series)
        if row.record.ext.lower() == ".svs":
            return None
        path = self._layout.images / row.path
        try:
            status = path.stat()
        except OSError as error:
            raise ImageNotFound(f"The file of the image {row.record.image_id!r} is gone.") from error
        key = (row.path, status.st_size, status.st_mtime_ns)
        with self._guard:
            if key in self._grids:
                self._grids.move_to_end(key)
                return self._grids[key]
        grid = read_grid(path)
        with self._guard:
            self._grids[key] = grid
            if len(self._grids) > _KEPT_GRIDS:
                self._grids.popitem(last=False)
        return grid

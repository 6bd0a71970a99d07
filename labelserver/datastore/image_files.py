"""Images that come through the server: upload and overwrite (removal: `tombstones.py`).

An upload is read to its end before anything is changed. The bytes that an overwrite takes out of the studies folder go
to ``trash/``, so that a wrong click costs nothing.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from labelserver.datastore import audit
from labelserver.datastore.image_rows import ImageFiles, ImageRow, image_row
from labelserver.datastore.index import Index
from labelserver.datastore.labels import Labels
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import dump, scores_of
from labelserver.datastore.rebuilding import put_scores
from labelserver.domain.errors import Conflict, InvalidId, InvalidSetting, LabelServerError, UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ImageKind
from labelserver.imaging.formats import IMAGE_EXTENSIONS, kind_of
from labelserver.imaging.volumes import check_whole
from labelserver.storage import atomic
from labelserver.storage.locks import all_exclusive


class ImageStore:
    """Adds and replaces image files."""

    def __init__(self, layout: Layout, index: Index, images: ImageFiles, labels: Labels, *, read_only: bool) -> None:
        self._layout = layout
        self._index = index
        self._images = images
        self._labels = labels
        self._read_only = read_only

    def add(self, image_id: ImageId, file: Path, ext: str, info: JsonObject) -> None:
        """Copy `file` into the studies folder as ``<image_id><ext>``.

        Raises:
            UnsupportedFormat: no image type.
            UnreadableFile: damaged or cut short.
            InvalidId: the id names a hidden place.
            InvalidSetting: the studies are read-only.
            Conflict: the path belongs to another image, or labels would no longer fit.
        """
        if self._read_only:
            raise InvalidSetting("The studies folder is read-only; images cannot be added. Put them there yourself.")
        if ext.lower() not in IMAGE_EXTENSIONS:
            known = ", ".join(IMAGE_EXTENSIONS)
            raise UnsupportedFormat(
                f"Images of type {ext or '(none)'} cannot be uploaded; use one of {known}. "
                "A DICOM series is read from a folder below the studies."
            )
        if any(part.startswith(".") for part in image_id.split("/")):
            raise InvalidId(f"The image id {image_id!r} has a part that begins with a dot; such files are not listed.")
        grid = check_whole(file) if ext.lower() != ".svs" else None
        path = f"{image_id}{ext}"
        # The two locks may be the same file (`Layout.image_lock` shares them by hash).
        with all_exclusive(self._layout.image_lock(f"path {path}"), self._layout.image_lock(image_id)):
            before = self._check_free(image_id, path, grid)
            target = self._layout.images / path
            kept = self._keep(before, target) if before is not None else None
            atomic.copy_file(file, target)
            if kept is not None and kept != target:
                self._to_trash(image_id, [kept])
            status = target.stat()
            now = int(time.time())
            told = dict(before.record.info) if before is not None and before.state != "removed" else {}
            whole = {**told, **info, "ts": now, "name": target.name}
            with self._index.writing() as connection:
                connection.execute(
                    "INSERT INTO images (id, path, series, kind, ext, state, size_bytes, mtime_ns, added_ts, info) "
                    "VALUES (?, ?, '', ?, ?, 'present', ?, ?, ?, ?) "
                    "ON CONFLICT (id) DO UPDATE SET path = excluded.path, series = '', "
                    "kind = excluded.kind, ext = excluded.ext, state = 'present', "
                    "size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns, info = excluded.info",
                    (image_id, path, kind_of(ext), ext, status.st_size, status.st_mtime_ns, now, dump(whole)),
                )
                put_scores(connection, image_id, scores_of(info))
                audit.record(connection, audit.Act("add_image", str(info.get("user") or ""), image_id))

    def _check_free(self, image_id: ImageId, path: str, grid: Grid | None) -> ImageRow | None:
        """The image that is replaced, or None. Raises `Conflict`."""
        with self._index.reading() as connection:
            before = image_row(connection, image_id)
            holder = connection.execute("SELECT id FROM images WHERE path = ? AND id <> ?", (path, image_id)).fetchone()
            labeled = _has_labels(connection, image_id)
        if holder is not None:
            raise Conflict(f"The file {path!r} belongs to the image {holder[0]!r}. Choose another image id.")
        if before is None or before.state != "present":
            target = self._layout.images / path
            if target.is_dir():
                raise Conflict(f"{path!r} is a folder of the studies. Choose another image id.")
            return before
        if before.record.kind is ImageKind.DICOM_SERIES:
            raise Conflict(f"The image {image_id!r} is a DICOM series in a folder. Choose another image id.")
        if labeled and grid is not None:
            self._check_labels_fit(before, grid)
        return before

    def _check_labels_fit(self, before: ImageRow, grid: Grid) -> None:
        try:
            old = self._images.grid(before)
        except LabelServerError:
            return  # the old file is damaged or gone; its labels were checked when it was not
        if old is not None and not old.same_place(grid):
            raise Conflict(
                f"The image {before.record.image_id!r} has labels, and the new file lies elsewhere: "
                f"{old.difference(grid)}. Remove the labels first, or upload under another id."
            )

    def _keep(self, before: ImageRow, target: Path) -> Path | None:
        """The old file, moved aside if the new one takes its name. None if it is gone."""
        old = self._layout.images / before.path
        if before.series or not old.is_file():
            return None
        if old == target:
            self._copy_to_trash(before.record.image_id, old)
            return target
        return old

    def _copy_to_trash(self, image_id: str, file: Path) -> None:
        """The name must not vanish before the new file has it, so the old bytes are linked or copied."""
        place = self._layout.trash_folder(image_id) / f"{time.time_ns()}-{file.name[-200:]}"
        with atomic.storage_errors(file.name):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.hardlink_to(file)
            except OSError:
                atomic.copy_file(file, place)

    def _to_trash(self, image_id: str, files: list[Path]) -> None:
        stamp = time.time_ns()
        for file in files:
            if file.is_symlink():
                file.unlink(missing_ok=True)  # the user's file lies elsewhere and stays
            elif file.is_file():
                atomic.move_file(file, self._layout.trash_folder(image_id) / f"{stamp}-{file.name[-200:]}")


def _has_labels(connection: sqlite3.Connection, image_id: str) -> bool:
    return (
        connection.execute("SELECT 1 FROM labels WHERE image_id = ? AND active = 1", (image_id,)).fetchone() is not None
    )

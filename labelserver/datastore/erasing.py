"""Really remove images and everything made from them: what a person may ask for by law.

Pixels, labels, revisions, drafts, caches, trash, rows of the index, backups and set-aside copies of it go, and copies
elsewhere (`traces.py`); of the audit log only the hashes of the entries about them stay. Files go before rows, so that
an erasure that was cut off can be asked for again. Not reached: what was handed out, exported or packed before, and
networks that were trained on it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from labelserver.datastore import audit
from labelserver.datastore.audit import AuditFile
from labelserver.datastore.dicom_folders import known_series
from labelserver.datastore.image_rows import ImageRow, image_row
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import load_object
from labelserver.datastore.sides import Sides
from labelserver.datastore.traces import traces
from labelserver.domain.errors import ImageNotFound, InvalidSetting
from labelserver.domain.ids import ImageId, folder_key
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ImageKind
from labelserver.imaging.dicom_patient import patient_id_of
from labelserver.storage import atomic
from labelserver.storage.atomic import storage_errors
from labelserver.storage.locks import exclusive

#: Keys of an image's info that may name its patient.
_PATIENT_KEYS = ("PatientID", "patient_id", "patient")

_TABLES = (
    "labels",
    "revisions",
    "scores",
    "leases",
    "reviews",
    "flags",
    "skips",
    "time_log",
    "sides",
    "unsided",
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is or was erased: images, and all files and folders that hold something of them."""

    images: tuple[ImageId, ...]
    paths: tuple[Path, ...]


class Eraser:
    """Erases images of one store. `read_only`: the studies folder itself cannot be changed."""

    def __init__(self, layout: Layout, index: Index, audit_file: AuditFile, sides: Sides, *, read_only: bool) -> None:
        self._layout = layout
        self._index = index
        self._sides = sides
        self._audit = audit_file
        self._read_only = read_only

    def plan(self, who: str, uploads: Path, app: Path | None) -> Erasure:
        """Everything of the image `who`, or of the patient `who`: a folder's name, a PatientID in info or DICOM header.

        `uploads` and `app` are looked through for copies (`traces.traces`).

        Raises:
            ImageNotFound: nothing of that name.
        """
        with self._index.reading() as connection:
            image = image_row(connection, who)
            ids = [ImageId(row[0]) for row in connection.execute("SELECT id FROM images ORDER BY id")]
            rows = [image] if image is not None else [row for i in ids if (row := image_row(connection, i)) is not None]
        chosen = rows if image is not None else [row for row in rows if self._is_of(row, who)]
        if not chosen:
            raise ImageNotFound(f"There is no image {who!r}, no folder of images and no patient of that name.")
        own = {path for row in chosen for path in self._paths(row)}
        image_ids = tuple(row.record.image_id for row in chosen)
        pixels = [p for row in chosen for p in self._pixels(row)]
        copies = traces(self._layout, image_ids, pixels, uploads, app)
        return Erasure(image_ids, tuple(sorted(own.union(copies))))

    def carry_out(self, erasure: Erasure, person: str) -> None:
        """Erase what `plan` found. Raises `InvalidSetting` if pixels lie where nothing may be changed."""
        if self._read_only and any(p.is_relative_to(self._layout.images) for p in erasure.paths):
            raise InvalidSetting("The studies folder is read-only. Remove the images from it yourself, then erase.")
        with ExitStack() as held:
            for lock in sorted({self._layout.image_lock(image_id) for image_id in erasure.images}):
                held.enter_context(exclusive(lock))
            for path in erasure.paths:
                _delete(path)
            self._forget_in_peer_index(erasure.images)
            self._forget_rows(erasure.images, person)
        self._sides.forget(set(erasure.images))
        self._index.compact()
        for copy in self._copies_of_the_index():
            copy.unlink(missing_ok=True)
        self._audit.rewrite()
        self._index.backup()

    def _is_of(self, row: ImageRow, who: str) -> bool:
        if row.record.image_id.startswith(f"{who}/"):
            return True
        infos = [row.record.info, *self._infos_in_trash(row.record.image_id)]
        if any(info.get(key) == who for info in infos for key in _PATIENT_KEYS):
            return True
        if row.record.kind is not ImageKind.DICOM_SERIES:
            return False
        first = next((path for path in self._slices(row) if path.is_file()), None)
        return first is not None and patient_id_of(first) == who

    def _infos_in_trash(self, image_id: str) -> Iterator[JsonObject]:
        """What was known about the image when it was removed."""
        for path in self._layout.trash_folder(image_id).glob("*.json"):
            try:
                info = load_object(path.read_bytes()).get("info")
            except (OSError, ValueError):
                continue
            if isinstance(info, dict):
                yield info

    def _slices(self, row: ImageRow) -> Iterator[Path]:
        """The files of a series, wherever they lie now."""
        with self._index.reading() as connection:
            for series in known_series(connection, row.path)[1]:
                if series.uid == row.series:
                    yield from (self._layout.images / row.path / name for name in series.names)
        trash = self._layout.trash_folder(row.record.image_id)
        if trash.is_dir():
            yield from sorted(p for p in trash.iterdir() if p.suffix != ".json")

    def _pixels(self, row: ImageRow) -> Iterator[Path]:
        """The files of the image, wherever they lie now."""
        yield from self._slices(row)
        if row.record.kind is not ImageKind.DICOM_SERIES:
            yield self._layout.images / row.path

    def _paths(self, row: ImageRow) -> Iterator[Path]:
        image_id = row.record.image_id
        own = self._slices(row) if row.record.kind is ImageKind.DICOM_SERIES else [self._layout.images / row.path]
        yield from (path for path in own if path.is_symlink() or path.exists())
        with self._index.reading() as connection:
            labels = connection.execute("SELECT tag, file FROM labels WHERE image_id = ?", (image_id,)).fetchall()
        for tag, file in labels:
            for root in {self._layout.labels, self._layout.given_labels} - {None}:
                if root is not None and (root / tag / file).exists():
                    yield root / tag / file
        key = folder_key(image_id)
        if self._layout.state.is_dir():
            yield from self._layout.state.glob(f"*/{key}")  # revisions, drafts, trash
            yield from self._layout.state.glob(f"cache/*/{key}")
        names = {Path(file).name[-100:] for _, file in labels}
        if self._layout.quarantine.is_dir():
            yield from (p for p in self._layout.quarantine.iterdir() if p.name.partition("-")[2] in names)

    def _forget_rows(self, image_ids: Iterable[ImageId], person: str) -> None:
        ids = list(image_ids)
        with self._index.writing() as connection:
            connection.execute("PRAGMA secure_delete=ON")
            for image_id in ids:
                row = image_row(connection, image_id)
                for table in _TABLES:
                    connection.execute(f"DELETE FROM {table} WHERE image_id = ?", (image_id,))  # noqa: S608  constants
                connection.execute("DELETE FROM images WHERE id = ?", (image_id,))
                if row is not None:
                    if row.series:
                        connection.execute("DELETE FROM folders WHERE path = ?", (row.path,))
                    connection.execute("DELETE FROM problems WHERE path LIKE '%' || ? || '%'", (row.path,))
            numbers = audit.blank(connection, ids)
            act = audit.Act("erase", person, detail={"images": len(ids), "entries": list(numbers)})
            audit.record(connection, act)

    def _forget_in_peer_index(self, image_ids: Iterable[ImageId]) -> None:
        """MONAI Label's index, if one lies there, tells of the images, too."""
        file = self._layout.config_file
        if self._read_only or not file.is_file():
            return
        try:
            document = load_object(file.read_bytes())
        except json.JSONDecodeError:
            return
        objects = document.get("objects")
        if isinstance(objects, dict) and any(image_id in objects for image_id in image_ids):
            document["objects"] = {k: v for k, v in objects.items() if k not in set(image_ids)}
            atomic.write_json(file, document)

    def _copies_of_the_index(self) -> Iterator[Path]:
        if self._layout.backups.is_dir():
            yield from (p for p in self._layout.backups.rglob("*") if p.is_file())
        if self._layout.quarantine.is_dir():
            yield from (p for p in self._layout.quarantine.iterdir() if ".sqlite" in p.name or "audit" in p.name)


def _delete(path: Path) -> None:
    with storage_errors(path.name):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

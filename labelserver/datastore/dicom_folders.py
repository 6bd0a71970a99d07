"""DICOM series as images: which series a folder holds, and the converted file that is handed out.

A folder is read again only when names, sizes or times of its files changed (its signature). A series is converted on
first use, under a lock among processes, into ``cache/dicom/<key>/<signature>.nii.gz``; older conversions then go.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import dump
from labelserver.datastore.scanning import FoundFolder
from labelserver.domain.errors import ImageNotFound
from labelserver.domain.geometry import Grid
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.dicom_series import SeriesFiles, find_series, is_dicom, read_series
from labelserver.imaging.volumes import write_volume
from labelserver.storage.atomic import TEMPORARY_PREFIX, storage_errors, sweep
from labelserver.storage.locks import exclusive


@dataclass(frozen=True, slots=True, eq=False)
class KnownSeries:
    """A series of a folder as the index keeps it: file names in slice order, or why it is no image."""

    uid: str
    names: tuple[str, ...]
    grid: Grid | None
    problem: str

    def to_json(self) -> JsonObject:
        grid = None
        if self.grid is not None:
            grid = {"shape": list(self.grid.shape), "affine": self.grid.affine.tolist()}
        return {"uid": self.uid, "files": list(self.names), "grid": grid, "problem": self.problem}


def signature_of(files: Sequence[tuple[str, int, int]]) -> str:
    """16 hex digits over names, sizes and times."""
    text = json.dumps([list(f) for f in sorted(files)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def known_series(connection: sqlite3.Connection, path: str) -> tuple[str, list[KnownSeries]]:
    """Signature and series of a folder as last read; "" and none if it was never read."""
    row = connection.execute("SELECT signature, series FROM folders WHERE path = ?", (path,)).fetchone()
    if row is None:
        return "", []
    return str(row[0]), [_from_json(item) for item in json.loads(row[1])]


def read_folder(layout: Layout, folder: FoundFolder) -> list[KnownSeries]:
    """Open the folder's candidates, keep those that are DICOM and sort them into series."""
    path = layout.images / folder.path
    names = [name for name, _, _ in folder.files if is_dicom(path / name)]
    return [_known(series) for series in find_series(path, names)] if names else []


def remember_folder(connection: sqlite3.Connection, path: str, signature: str, series: list[KnownSeries]) -> None:
    connection.execute(
        "INSERT INTO folders (path, signature, series) VALUES (?, ?, ?) "
        "ON CONFLICT (path) DO UPDATE SET signature = excluded.signature, series = excluded.series",
        (path, signature, dump([s.to_json() for s in series])),
    )


class SeriesCache:
    """Converts series to ``.nii.gz`` files once."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index

    def grid(self, folder: str, uid: str) -> Grid:
        """The grid from the headers. Raises `ImageNotFound` if the series is gone."""
        series = self._series(folder, uid)
        if series.grid is None:
            raise ImageNotFound(f"The DICOM series {uid} in {folder} is no image: {series.problem}")
        return series.grid

    def files(self, folder: str, uid: str) -> list[Path]:
        """The files of the series, in slice order."""
        return [self._layout.images / folder / name for name in self._series(folder, uid).names]

    def converted(self, image_id: str, folder: str, uid: str) -> Path:
        """The series as one NIfTI file, made if it is not there yet.

        Raises:
            ImageNotFound: the series is gone.
            UnreadableFile: it cannot be decoded.
        """
        series = self._series(folder, uid)
        files = [self._layout.images / folder / name for name in series.names]
        target = self._layout.cache_folder(image_id) / f"{_content_signature(files)}.nii.gz"
        if target.exists():
            return target
        with exclusive(self._layout.image_lock(f"dicom {image_id}")):
            if not target.exists():
                volume = read_series(SeriesFiles(uid, "", tuple(files), series.grid, series.problem))
                with storage_errors("the converted image"):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    sweep(target.parent)
                    half = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
                    write_volume(half, volume.voxels, volume.grid.affine, compress=True)
                    half.replace(target)
                for old in target.parent.glob("*.nii.gz"):
                    if old != target:
                        old.unlink(missing_ok=True)
        return target

    def _series(self, folder: str, uid: str) -> KnownSeries:
        with self._index.reading() as connection:
            for series in known_series(connection, folder)[1]:
                if series.uid == uid:
                    return series
        raise ImageNotFound(f"The folder {folder or '.'} holds no DICOM series {uid} any more.")


def _content_signature(files: list[Path]) -> str:
    try:
        parts = [(p.name, s.st_size, s.st_mtime_ns) for p in files for s in (p.stat(),)]
    except OSError as error:
        raise ImageNotFound(f"The DICOM file {Path(str(error.filename)).name} is gone.") from error
    return signature_of(parts)


def _known(series: SeriesFiles) -> KnownSeries:
    return KnownSeries(series.uid, tuple(p.name for p in series.files), series.grid, series.problem)


def _from_json(item: JsonObject) -> KnownSeries:
    stored, names = item["grid"], item["files"]
    grid = None
    if isinstance(stored, dict):
        i, j, k = stored["shape"]
        grid = Grid((int(i), int(j), int(k)), np.asarray(stored["affine"], dtype=np.float64))
    files = tuple(str(n) for n in names) if isinstance(names, list) else ()
    return KnownSeries(str(item["uid"]), files, grid, str(item["problem"]))

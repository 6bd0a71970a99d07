"""Bring the index in step with the image files: new ones get an id, vanished ones are marked, returned ones are back.

Nothing below the images folder is changed. Ids: the path without its known extension; if that is taken, with it. The
first assignment holds for ever, also for images that vanished. Files are compared outside of the transaction; inside,
each change is checked again, so that two processes may look at the same time.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from labelserver.datastore.dicom_folders import (
    KnownSeries,
    known_series,
    read_folder,
    remember_folder,
    signature_of,
)
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import dump
from labelserver.datastore.scanning import Found, FoundFile, FoundFolder, Scanner
from labelserver.domain.errors import InvalidId, LabelServerError
from labelserver.domain.ids import parse_image_id
from labelserver.domain.labels import ImageKind, StoreProblem
from labelserver.imaging.formats import kind_of, split_ext
from labelserver.imaging.volumes import read_grid

#: Up to so many new files, their headers are read at once; more are looked at by their first bytes, which is 20 times
#: faster, and their headers when they are used.
_HEADERS_READ = 500

_MAGIC: dict[str, tuple[bytes, ...]] = {
    ".nii.gz": (b"\x1f\x8b",),
    ".nrrd": (b"NRRD",),
    ".png": (b"\x89PNG",),
    ".jpg": (b"\xff\xd8",),
    ".jpeg": (b"\xff\xd8",),
    ".tif": (b"II", b"MM"),
    ".tiff": (b"II", b"MM"),
    ".svs": (b"II", b"MM"),
    ".bmp": (b"BM",),
}

Place = tuple[str, str]  #: path below the images folder, series UID or ""


@dataclass(frozen=True, slots=True)
class _Seen:
    """An image as it lies there now."""

    kind: ImageKind
    ext: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Row:
    image_id: str
    state: str
    size_bytes: int
    mtime_ns: int


@dataclass(slots=True)
class _Changes:
    arrived: list[tuple[Place, _Seen]] = field(default_factory=list)
    changed: list[tuple[Place, _Seen]] = field(default_factory=list)
    gone: list[tuple[Place, str]] = field(default_factory=list)
    problems: list[StoreProblem] = field(default_factory=list)


class ImageScan:
    """Compares the folder with the index and writes the difference."""

    def __init__(self, layout: Layout, index: Index, scanner: Scanner, *, read_only: bool) -> None:
        self._layout = layout
        self._index = index
        self._scanner = scanner
        self._read_only = read_only

    def whole(self) -> None:
        """Look at everything."""
        found = self._scanner.walk()
        with self._index.reading() as connection:
            rows = _rows(connection, "")
        seen, folders, problems = self._with_series(found)
        self._apply(seen, rows, folders, problems, "")

    def folder(self, below: str, *, deep: bool) -> None:
        """Look at one folder (and, if `deep`, below it)."""
        found = self._scanner.walk(below, deep=deep)
        with self._index.reading() as connection:
            rows = _rows(connection, below)
        if not deep:
            here = f"{below}/" if below else ""
            rows = {
                place: row
                for place, row in rows.items()
                if (place[0] == below if place[1] else "/" not in place[0][len(here) :])
            }
        seen, folders, problems = self._with_series(found)
        self._apply(seen, rows, folders, problems, below or "\0")

    def files(self, paths: Iterable[str]) -> None:
        """Look at single image files (paths below the images folder)."""
        seen: dict[Place, _Seen] = {}
        rows: dict[Place, _Row] = {}
        with self._index.reading() as connection:
            for path in paths:
                row = connection.execute(f"{_SELECT} WHERE path = ? AND series = ''", (path,)).fetchone()
                if row is not None:
                    rows[path, ""] = _Row(*row[2:])
                ext = self._scanner.image_ext(path.rpartition("/")[2])
                file = self._layout.images / path
                if ext and not self._scanner.skips(file) and file.is_file():
                    status = file.stat()
                    seen[path, ""] = _Seen(kind_of(ext), ext, status.st_size, status.st_mtime_ns)
        self._apply(seen, rows, [], [], "\0", set(paths))

    def _with_series(
        self, found: Found
    ) -> tuple[dict[Place, _Seen], list[tuple[str, str, list[KnownSeries]]], list[StoreProblem]]:
        seen: dict[Place, _Seen] = {(f.path, ""): _seen_file(f) for f in found.files}
        problems = [StoreProblem(path, reason) for path, reason in found.unreadable]
        fresh: list[tuple[str, str, list[KnownSeries]]] = []
        for folder in found.folders:
            signature, series, is_new = self._series_of(folder)
            if is_new:
                fresh.append((folder.path, signature, series))
            newest = max(mtime for _, _, mtime in folder.files)
            for one in series:
                if one.grid is None:
                    problems.append(StoreProblem(folder.path or ".", one.problem))
                else:
                    seen[folder.path, one.uid] = _Seen(ImageKind.DICOM_SERIES, ".nii.gz", len(one.names), newest)
        return seen, fresh, problems

    def _series_of(self, folder: FoundFolder) -> tuple[str, list[KnownSeries], bool]:
        signature = signature_of(folder.files)
        with self._index.reading() as connection:
            known, series = known_series(connection, folder.path)
        if known == signature:
            return signature, series, False
        return signature, read_folder(self._layout, folder), True

    def _apply(
        self,
        seen: dict[Place, _Seen],
        rows: dict[Place, _Row],
        folders: list[tuple[str, str, list[KnownSeries]]],
        problems: list[StoreProblem],
        scope: str,
        single: set[str] | None = None,
    ) -> None:
        """Write what differs. `scope` "" replaces all noted problems of images, else those below it or in `single`."""
        changes = self._compare(seen, rows)
        problems = [*problems, *changes.problems]
        with self._index.reading() as connection:
            stale = _noted(connection, scope, single or set())
        if not (changes.arrived or changes.changed or changes.gone or folders or problems or stale):
            return
        now = time.time()
        with self._index.writing() as connection:
            for path, signature, series in folders:
                remember_folder(connection, path, signature, series)
            for place, image_id in changes.gone:
                if not self._still_there(place, seen):
                    connection.execute(
                        "UPDATE images SET state = 'absent' WHERE id = ? AND state = 'present'", (image_id,)
                    )
            for place, now_seen in changes.changed:
                connection.execute(
                    "UPDATE images SET info = CASE state WHEN 'removed' THEN ? ELSE info END, state = 'present', "
                    "size_bytes = ?, mtime_ns = ?, kind = ?, ext = ? WHERE path = ? AND series = ?",
                    (
                        dump({"ts": int(now), "name": place[0].rpartition("/")[2]}),
                        now_seen.size_bytes,
                        now_seen.mtime_ns,
                        now_seen.kind,
                        now_seen.ext,
                        *place,
                    ),
                )
            several = _folders_with_several(seen)
            for place, now_seen in changes.arrived:
                problem = _insert(connection, place, now_seen, now, alone=place[0] not in several)
                if problem is not None:
                    problems.append(problem)
            connection.executemany("DELETE FROM problems WHERE origin = 'images' AND path = ?", [(p,) for p in stale])
            connection.executemany(
                "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'images', ?)",
                [(p.path, p.reason) for p in problems],
            )

    def _compare(self, seen: dict[Place, _Seen], rows: dict[Place, _Row]) -> _Changes:
        changes = _Changes()
        fresh = []
        for place, now_seen in seen.items():
            row = rows.get(place)
            same = row is not None and (row.size_bytes, row.mtime_ns) == (now_seen.size_bytes, now_seen.mtime_ns)
            if row is not None and same and (row.state == "present" or self._stays_removed(row, place)):
                continue
            fresh.append((place, now_seen, row))
        with_headers = len(fresh) <= _HEADERS_READ
        for place, now_seen, row in fresh:
            reason = self._unfit(place, now_seen, with_headers=with_headers)
            if reason:
                changes.problems.append(StoreProblem(place[0], reason))
                if row is not None and row.state == "present":
                    changes.gone.append((place, row.image_id))
            elif row is None:
                changes.arrived.append((place, now_seen))
            else:
                changes.changed.append((place, now_seen))
        changes.gone.extend(
            (place, row.image_id) for place, row in rows.items() if row.state == "present" and place not in seen
        )
        return changes

    def _stays_removed(self, row: _Row, place: Place) -> bool:
        """A removal moves nothing out of read-only studies and linked folders, so a file there is no new one."""
        file = self._layout.images / place[0] / "slice" if place[1] else self._layout.images / place[0]
        return row.state == "removed" and (self._read_only or self._layout.is_behind_link(file))

    def _unfit(self, place: Place, seen: _Seen, *, with_headers: bool) -> str:
        """Why a file is no image, as a sentence; "" if nothing speaks against it."""
        if seen.kind is ImageKind.DICOM_SERIES:
            return ""
        path = self._layout.images / place[0]
        ext = seen.ext.lower()
        if seen.size_bytes == 0:
            return "The file is empty."
        try:
            with path.open("rb") as stream:
                head = stream.read(4)
            if ext in _MAGIC and not head.startswith(_MAGIC[ext]) and not (ext == ".nii.gz" and _is_plain_nifti(head)):
                return f"The file is no {ext} file, although its name says so."
            if with_headers and ext != ".svs":
                read_grid(path)
        except OSError as error:
            return f"The file cannot be read: {error.strerror or error}."
        except LabelServerError as error:
            return error.message
        return ""

    def _still_there(self, place: Place, seen: dict[Place, _Seen]) -> bool:
        """True if an upload put the file there after the walk. A damaged or changed series is not "there"."""
        return place not in seen and not place[1] and (self._layout.images / place[0]).is_file()


_SELECT = "SELECT path, series, id, state, size_bytes, mtime_ns FROM images"


def _rows(connection: sqlite3.Connection, below: str) -> dict[Place, _Row]:
    if not below:
        found = connection.execute(_SELECT)
    else:
        found = connection.execute(
            f"{_SELECT} WHERE path = ? OR (path >= ? AND path < ?)", (below, f"{below}/", f"{below}0")
        )
    return {(row[0], row[1]): _Row(row[2], row[3], row[4], row[5]) for row in found}


def _seen_file(found: FoundFile) -> _Seen:
    return _Seen(kind_of(found.ext), found.ext, found.size_bytes, found.mtime_ns)


def _folders_with_several(seen: dict[Place, _Seen]) -> set[str]:
    counted: set[str] = set()
    several: set[str] = set()
    for path, series in seen:
        if series:
            (several if path in counted else counted).add(path)
    return several


def _insert(
    connection: sqlite3.Connection, place: Place, seen: _Seen, now: float, *, alone: bool
) -> StoreProblem | None:
    """Give an arrived image an id, unless another process was first."""
    path, series = place
    if connection.execute("SELECT 1 FROM images WHERE path = ? AND series = ?", place).fetchone():
        return None
    for candidate in _candidates(path, series, alone=alone):
        try:
            image_id = parse_image_id(candidate)
        except InvalidId as error:
            reason = error.message
            continue
        if connection.execute("SELECT 1 FROM images WHERE id = ?", (image_id,)).fetchone():
            reason = f"The id {image_id!r} is taken by another image."
            continue
        name = Path(image_id).name + seen.ext if series else path.rpartition("/")[2]
        info = dump({"ts": int(now), "name": name, **({"SeriesInstanceUID": series} if series else {})})
        connection.execute(
            "INSERT INTO images (id, path, series, kind, ext, state, size_bytes, mtime_ns, added_ts, info) "
            "VALUES (?, ?, ?, ?, ?, 'present', ?, ?, ?, ?)",
            (image_id, path, series, seen.kind, seen.ext, seen.size_bytes, seen.mtime_ns, now, info),
        )
        return None
    return StoreProblem(path or ".", f"The image gets no id. {reason}")


def _candidates(path: str, series: str, *, alone: bool) -> list[str]:
    """Ids to try in order. A series alone in its folder is named by the folder, else by its UID below the folder."""
    if series:
        below = f"{path}/{series}" if path else series
        return [path, below] if alone and path else [below]
    return [split_ext(path)[0], path, *(f"{path}~{n}" for n in range(2, 10))]


def _noted(connection: sqlite3.Connection, scope: str, single: set[str]) -> list[str]:
    paths = [row[0] for row in connection.execute("SELECT path FROM problems WHERE origin = 'images'")]
    if not scope:
        return paths
    return [p for p in paths if p in single or p == scope or p.startswith(f"{scope}/")]


def _is_plain_nifti(head: bytes) -> bool:
    """An uncompressed NIfTI-1 or -2 file begins with its header's length."""
    return head in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")

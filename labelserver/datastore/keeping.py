"""Look after what is kept: damaged revisions and backups are found, set aside and, where possible, healed.

A revision's voxels are healed from the copy below ``labels/``, its description from the index. To look at a hundred
thousand of them in seconds, only files that were written later than they should have been are hashed; whoever damages a
file without changing its time or size is found by ``labelserver datasets verify``.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from labelserver.datastore import revision_files
from labelserver.datastore.annotating import stored_mask
from labelserver.datastore.catalog import meta
from labelserver.datastore.image_rows import image_row
from labelserver.datastore.index import Index
from labelserver.datastore.label_rows import label_row, revision_of
from labelserver.datastore.layout import Layout, region_name, revision_name
from labelserver.datastore.pacing import Pace
from labelserver.datastore.revision_walk import walk_revisions
from labelserver.datastore.side_files import SideFiles
from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.labels import Revision, StoreProblem
from labelserver.storage import atomic
from labelserver.storage.checksums import sha256_of
from labelserver.storage.locks import exclusive

#: seconds that a revision's file may be younger than its row tells; the clock, and a slow disk
_SLACK_S = 120.0

_LOOKED = "kept_looked_ts"


class Keeper:
    """Looks after the kept files of one store."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index
        self._side_files = SideFiles(layout, index)

    def look(self, pace: Pace) -> list[StoreProblem]:
        """Look at all revisions and backups; what was found replaces what an earlier look found.

        Raises `DiskFull`, `LeftUndone`.
        """
        began = time.time()
        with self._index.reading() as connection:
            since = float(meta(connection, _LOOKED) or 0.0)
        problems = [*self._backups(), *self._side_files.look(pace)]
        for image_id, tag, number, ext, _, size, created, masked in pace.through(walk_revisions(self._index)):
            folder = self._layout.revisions_of(image_id, tag)
            if (
                _suspect(folder / revision_name(number, ext), created, since, size)
                or _suspect(folder / f"{number}.json", created, since, None)
                or (masked and _suspect(folder / region_name(number), created, since, None))
            ):
                problems.extend(self._check(image_id, tag, number))
        self._note(problems, began)
        return problems

    def _check(self, image_id: str, tag: str, number: int) -> Iterator[StoreProblem]:
        with exclusive(self._layout.image_lock(image_id)):
            with self._index.reading() as connection:
                revision = revision_of(connection, image_id, tag, number)
            if revision is None:  # erased or pruned meanwhile
                return
            reason = self._check_voxels(revision)
            if reason:
                name = revision_name(number, revision.ext)
                yield StoreProblem(self._layout.below_studies(self._layout.revisions_of(image_id, tag) / name), reason)
            reason = self._check_description(revision)
            if reason:
                path = self._layout.revisions_of(image_id, tag) / f"{number}.json"
                yield StoreProblem(self._layout.below_studies(path), reason)
            try:
                stored_mask(self._layout, revision)
            except StoredDataInvalid as error:
                path = self._layout.revisions_of(image_id, tag) / region_name(number)
                self._set_aside(path)
                yield StoreProblem(self._layout.below_studies(path), f"{error.message} No training uses this label.")

    def _check_voxels(self, revision: Revision) -> str:
        path = self._layout.file_of(revision)
        if path.is_file() and sha256_of(path) == revision.sha256:
            return ""
        missing = not path.is_file()
        what = "The file of this label revision is missing" if missing else "This label revision was damaged"
        with self._index.reading() as connection:
            row = label_row(connection, revision.image_id, revision.tag)
        shown = self._layout.labels / revision.tag / row.file if row is not None and self._layout.labels else None
        if shown is None or not shown.is_file() or sha256_of(shown) != revision.sha256:
            self._set_aside(path)
            return f"{what}, and no copy of it is left{'' if missing else '; it was set aside'}."
        self._set_aside(path)
        atomic.copy_file(shown, path)
        return f"{what}; it was restored from the copy in labels/."

    def _check_description(self, revision: Revision) -> str:
        path = self._layout.revisions_of(revision.image_id, revision.tag) / f"{revision.number}.json"
        try:
            document = json.loads(path.read_bytes())
            if document["sha256"] == revision.sha256 and document["number"] == revision.number:
                return ""
        except (OSError, ValueError, KeyError, TypeError):
            pass
        with self._index.reading() as connection:
            image = image_row(connection, revision.image_id)
        self._set_aside(path)
        if image is None:
            return "The description of this label revision was damaged, and its image is not known."
        atomic.write_bytes(path, revision_files.document_of(revision, image.record, image.series))
        return "The description of this label revision was damaged; it was written again from the index."

    def _backups(self) -> Iterator[StoreProblem]:
        for path in self._index.backups():
            try:
                backup = sqlite3.connect(path)
                try:
                    verdict = backup.execute("PRAGMA quick_check(1)").fetchone()[0]
                    known = backup.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'revisions'").fetchone()[0]
                finally:
                    backup.close()
            except sqlite3.DatabaseError:
                verdict, known = "damaged", 0
            if verdict != "ok" or not known:
                self._set_aside(path)
                name = self._layout.below_studies(path)
                yield StoreProblem(name, "This backup of the index was damaged; it was set aside.")

    def _set_aside(self, path: Path) -> None:
        if path.is_file():
            atomic.move_file(path, self._layout.quarantine / f"{time.time_ns()}-{path.name[-100:]}")

    def _note(self, problems: list[StoreProblem], began: float) -> None:
        with self._index.writing() as connection:
            connection.execute("DELETE FROM problems WHERE origin = 'kept'")
            connection.executemany(
                "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'kept', ?)",
                [(p.path, p.reason) for p in problems],
            )
            connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_LOOKED, str(began)))


def _suspect(path: Path, created_ts: float, since: float, size_bytes: int | None) -> bool:
    """Gone, of another size, or written later than the revision was made and since the last look."""
    try:
        status = path.stat()
    except OSError:
        return True
    if size_bytes is not None and status.st_size != size_bytes:
        return True
    return status.st_size == 0 or (status.st_mtime > created_ts + _SLACK_S and status.st_mtime > since - _SLACK_S)

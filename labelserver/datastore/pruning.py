"""Let go of what the retention settings no longer keep below the studies: old revisions, trash, caches.

Never touched: the current revision of a label, one that was reviewed, one that a model version was trained on. Pruned
revisions stay in the audit log, with an entry that says who pruned them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from labelserver.datastore import audit
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout, region_name, revision_name
from labelserver.storage.atomic import storage_errors
from labelserver.storage.locks import exclusive

DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Prunable:
    """Files that may go; `number` names a revision, else it is a plain file."""

    what: str
    paths: tuple[Path, ...]
    size_bytes: int
    image_id: str = ""
    tag: str = ""
    number: int = 0


class Pruner:
    """Finds and removes what one store need not keep."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index

    def revisions(self, keep: int, used: Collection[str]) -> list[Prunable]:
        """Revisions beyond the newest `keep` of each label (0: none); `used` are SHA-256 that must stay."""
        if keep == 0:
            return []
        with self._index.reading() as connection:
            rows = connection.execute(_OLD, {"keep": keep}).fetchall()
        found = []
        for image_id, tag, number, ext, digest in rows:
            folder = self._layout.revisions_of(image_id, tag)
            names = (region_name(number), revision_name(number, ext), f"{number}.json", f"{number}.removed")
            paths = tuple(folder / name for name in names)
            if digest not in used:
                there = tuple(p for p in paths if p.is_file())
                found.append(Prunable("revision", there, _size(there), image_id, tag, number))
        return found

    def files(self, trash_days: int, cache_days: int) -> list[Prunable]:
        """Old files of trash, quarantine and cache; 0 days keep for ever."""
        found: list[Prunable] = []
        for what, days in (("trash", trash_days), ("quarantine", trash_days), ("cache", cache_days)):
            found += [Prunable(what, (path,), _size((path,))) for path in older_files(self._layout.state / what, days)]
        return found

    def carry_out(self, items: Collection[Prunable], person: str) -> None:
        """Remove them; a label whose current revision changed meanwhile keeps it."""
        for item in items:
            if not item.number:
                _remove(item.paths)
                continue
            with exclusive(self._layout.image_lock(item.image_id)):
                with self._index.writing() as connection:
                    key = (item.image_id, item.tag, item.number)
                    current = connection.execute(
                        "SELECT 1 FROM labels WHERE image_id = ? AND tag = ? AND current = ?", key
                    ).fetchone()
                    if current is not None:
                        continue
                    connection.execute("DELETE FROM revisions WHERE image_id = ? AND tag = ? AND number = ?", key)
                    audit.record(connection, audit.Act("prune", person, *key))
                _remove(item.paths[::-1])  # the description first: voxels without one were never promised


def older_files(folder: Path, days: int) -> Iterator[Path]:
    """Files below `folder` that were not changed for so many days; none for 0."""
    if days == 0 or not folder.is_dir():
        return
    limit = time.time() - days * DAY_S
    yield from (p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_mtime < limit)


def _size(paths: Collection[Path]) -> int:
    return sum(p.stat().st_size for p in paths)


def _remove(paths: Collection[Path]) -> None:
    for path in paths:
        with storage_errors(path.name):
            path.unlink(missing_ok=True)


_OLD = """
SELECT image_id, tag, number, ext, sha256 FROM (
    SELECT image_id, tag, number, ext, sha256,
           ROW_NUMBER() OVER (PARTITION BY image_id, tag ORDER BY number DESC) AS place FROM revisions)
AS listed WHERE place > :keep
AND NOT EXISTS (SELECT 1 FROM labels WHERE labels.image_id = listed.image_id AND labels.tag = listed.tag
                AND labels.current = listed.number)
AND NOT EXISTS (SELECT 1 FROM reviews WHERE reviews.image_id = listed.image_id AND reviews.tag = listed.tag
                AND reviews.revision = listed.number)
ORDER BY image_id, tag, number
"""

"""Looks after the two files that keep the sides of images beside the index, and writes them again from it.

``split.json`` and ``sides.jsonl`` matter on the day the index is lost, so damage must be found before that day.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import dump
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import StoreProblem
from labelserver.storage import atomic

_WRITTEN_AGAIN = "This file was damaged; it was set aside and written again from the index."


class SideFiles:
    """The files of one store. A file that has not changed since it was found whole is not read again."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index
        self._whole: dict[Path, tuple[int, int]] = {}  #: size and modification time when it was whole

    def look(self) -> Iterator[StoreProblem]:
        """What was damaged. Raises `DiskFull`, `StorageFailed` if it cannot be written again."""
        if self._layout.labels is None:
            return
        for path, expected in ((self._layout.split_file, _rule_of), (self._layout.sides_file, _sides_of)):
            state = _state_of(path)
            if state is not None and self._whole.get(path) == state:
                continue
            with self._index.reading() as connection:
                damaged = not _says(path, expected(connection))
            if damaged:
                with self._index.writing() as connection:  # nobody appends meanwhile
                    lines = expected(connection)
                    if not _says(path, lines):
                        self._write_again(path, lines)
                        yield StoreProblem(self._layout.below_studies(path), _WRITTEN_AGAIN)
            after = _state_of(path)
            if after is not None:
                self._whole[path] = after

    def _write_again(self, path: Path, lines: list[JsonObject]) -> None:
        if path.is_file():
            atomic.move_file(path, self._layout.quarantine / f"{time.time_ns()}-{path.name}")
        atomic.write_bytes(path, b"".join(dump(line).encode() + b"\n" for line in lines))


def _state_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns)


def _rule_of(connection: sqlite3.Connection) -> list[JsonObject]:
    kept = connection.execute("SELECT value FROM meta WHERE key = 'split'").fetchone()
    return [] if kept is None else [json.loads(kept[0])]


def _sides_of(connection: sqlite3.Connection) -> list[JsonObject]:
    rows = connection.execute("SELECT image_id, subject, side FROM sides ORDER BY number")
    return [{"image": image_id, "subject": subject, "side": side} for image_id, subject, side in rows]


def _says(path: Path, lines: list[JsonObject]) -> bool:
    """Whether the file holds these lines, and nothing that cannot be read; the newest line about an image counts."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return not lines
    found: dict[str, JsonObject] = {}
    try:
        for line in content.splitlines():
            value = json.loads(line)
            found[str(value.get("image", ""))] = value
    except (ValueError, AttributeError):
        return False
    expected = {str(line.get("image", "")): line for line in lines}
    return found == expected and (not content or content.endswith(b"\n") or len(lines) == 1)

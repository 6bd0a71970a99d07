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
from labelserver.datastore.pacing import Pace
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

    def look(self, pace: Pace) -> Iterator[StoreProblem]:
        """What was damaged. Raises `DiskFull`, `StorageFailed` if it cannot be written again, `LeftUndone`."""
        if self._layout.labels is None:
            return
        for path, expected in ((self._layout.split_file, _rule_of), (self._layout.sides_file, _sides_of)):
            state = _state_of(path)
            if state is not None and self._whole.get(path) == state:
                continue
            with self._index.reading() as connection:
                lines = list(pace.through(expected(connection)))
            if not _says(path, lines, pace):
                with self._index.writing() as connection:  # nobody appends meanwhile
                    lines = list(expected(connection))
                    if not _says(path, lines, Pace(pauses=0)):
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


def _rule_of(connection: sqlite3.Connection) -> Iterator[JsonObject]:
    kept = connection.execute("SELECT value FROM meta WHERE key = 'split'").fetchone()
    if kept is not None:
        yield json.loads(kept[0])


def _sides_of(connection: sqlite3.Connection) -> Iterator[JsonObject]:
    for image_id, subject, side in connection.execute("SELECT image_id, subject, side FROM sides ORDER BY number"):
        yield {"image": image_id, "subject": subject, "side": side}


def _says(path: Path, lines: list[JsonObject], pace: Pace) -> bool:
    """Whether the file holds these lines, and nothing that cannot be read; the newest line about an image counts."""
    expected = {str(line.get("image", "")): line for line in lines}
    right: set[str] = set()
    wrong: set[str] = set()
    line = b"\n"
    try:
        with path.open("rb") as stream:
            for line in pace.through(stream):
                value = json.loads(line)
                name = str(value.get("image", ""))
                fits = expected.get(name) == value
                (right if fits else wrong).add(name)
                (wrong if fits else right).discard(name)
    except FileNotFoundError:
        return not lines
    except (ValueError, AttributeError):
        return False
    whole = line.endswith(b"\n") or len(lines) == 1
    return whole and not wrong and len(right) == len(expected)

"""Append-only files of JSON lines with one writer each: a crash may cost the last line, never an earlier one."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from labelserver.domain.json_types import JsonObject
from labelserver.storage.atomic import storage_errors, sync_folder


class JsonLinesWriter:
    """Appends objects to a file. Threads of one process may share it; processes may not.

    If an earlier writer was cut off within a line, a line break is written first, so that the torn line stays alone.
    """

    def __init__(self, path: Path) -> None:
        with storage_errors(path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._name = path.name
        self._lock = threading.Lock()
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")

    def append(self, value: JsonObject, *, sync: bool = False) -> None:
        """Write one line in a single call; `sync` waits until the disk has it."""
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._lock, storage_errors(self._name):
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
            if sync:
                os.fsync(self._descriptor)

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def append_json_line(path: Path, value: JsonObject, *, sync: bool = True) -> None:
    """Open, append one line, close."""
    writer = JsonLinesWriter(path)
    try:
        writer.append(value, sync=sync)
    finally:
        writer.close()


def write_line_at(path: Path, offset: int, value: JsonObject) -> int:
    """Cut the file at `offset`, put one line there and wait until the disk has it; the caller is the only writer.

    Returns:
        The new end of the file. If it fails, what is there beyond `offset` was promised to nobody.
    """
    line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    with storage_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.ftruncate(descriptor, offset)
            written = 0
            while written < len(line):
                written += os.pwrite(descriptor, line[written:], offset + written)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not offset:
            sync_folder(path.parent)
    return offset + len(line)


def read_json_lines(path: Path) -> list[JsonObject]:
    """All complete objects of the file; torn or foreign lines are skipped. A missing file is empty."""
    return JsonLinesReader(path).read_new()


class JsonLinesReader:
    """Reads what was appended since the last call; a line still without its line break waits for the next call."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._offset = offset

    @property
    def offset(self) -> int:
        """Bytes read so far; always the end of a line."""
        return self._offset

    def read_new(self) -> list[JsonObject]:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        complete = data.rfind(b"\n") + 1
        self._offset += complete
        return [value for line in data[:complete].splitlines() if (value := _parse(line)) is not None]


def _parse(line: bytes) -> JsonObject | None:
    try:
        value = json.loads(line)
    except ValueError:  # torn by a crash (also UnicodeDecodeError): never acknowledged
        return None
    return value if isinstance(value, dict) else None


def sync_file(path: Path) -> None:
    """Wait until the disk has what was appended to `path`; nothing happens if the file is gone."""
    with storage_errors(path.name):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

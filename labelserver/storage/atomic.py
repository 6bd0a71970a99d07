"""Replace a file so that every reader, and every crash, sees the old or the new one, never a part.

Order: write a hidden neighbour, sync it, rename it over the target, sync the folder. A neighbour left by a crash starts
with ``.tmp-`` and is removed by `sweep`.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from labelserver.domain.errors import DiskFull, StorageFailed
from labelserver.domain.json_types import JsonValue

TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Translate the operating system's errors: `DiskFull` for no space or quota, else `StorageFailed`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(f"No space left while writing {what}. Free some space and try again.") from error
        raise StorageFailed(f"Could not write {what}: {error.strerror or error}.") from error


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a neighbour of `path` for writing; on success it becomes `path`, on an exception it vanishes."""
    with storage_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=_suffix(path), dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`."""
    with replacing(path) as stream:
        stream.write(data)


def write_json(path: Path, value: JsonValue) -> None:
    """Make `value` the content of `path`, as indented JSON. NaN is refused: it is not JSON."""
    write_bytes(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode())


def copy_file(source: Path, target: Path) -> None:
    """Copy `source` so that `target` appears whole."""
    with replacing(target) as stream, source.open("rb") as origin:
        shutil.copyfileobj(origin, stream, 1 << 20)


@dataclass(frozen=True, slots=True)
class Taken:
    """The content of a file that its owner gives away: it is renamed where that is possible, else copied."""

    file: Path


def place_together(folder: Path, files: Sequence[tuple[str, bytes | Path | Taken]]) -> None:
    """Put several new files into `folder`: written beside, synced, renamed in order, folders synced.

    The last name is the seal: if it is there after a crash, the others are there and whole. A failure leaves none of
    the names that were not there yet. Made folders are synced into their parents up to the first that existed.
    """
    placed: list[tuple[Path, Path]] = []
    descriptors: list[int] = []
    with storage_errors(files[-1][0]):
        holding = _made_folders(folder)
        try:
            for name, content in files:
                target = folder / name
                descriptor, temporary = _neighbour(target, content)
                placed.append((temporary, target))
                descriptors.append(descriptor)
            _sync_together(descriptors)
            for temporary, target in placed:
                temporary.replace(target)
        except BaseException:
            for temporary, _ in placed:
                temporary.unlink(missing_ok=True)
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        for changed in (folder, *holding):  # the first wait brings the names of all to the disk, where it has a journal
            sync_folder(changed)


def copy_beside(content: bytes | Path, target: Path, *, mode: int = 0o644, mtime_ns: int | None = None) -> Path:
    """Write a hidden neighbour of `target`, not synced. The caller renames or unlinks it.

    `mtime_ns` becomes the file's time, so that nothing else of this name and size can be taken for it.
    """
    with storage_errors(target.name):
        try:
            descriptor, temporary = _neighbour(target, content, mode)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = _neighbour(target, content, mode)
        try:
            if mtime_ns is not None:
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(descriptor)
        return temporary


def _neighbour(target: Path, content: bytes | Path | Taken, mode: int = 0o644) -> tuple[int, Path]:
    """A hidden neighbour of `target` with this content, open. Not by `tempfile`, which costs as much as the writing."""
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{_suffix(target)}")
    if isinstance(content, Taken):
        try:
            content.file.rename(temporary)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            content = content.file
    made = 0 if isinstance(content, Taken) else os.O_CREAT | os.O_EXCL
    descriptor = os.open(str(temporary), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | made, mode)
    try:
        if isinstance(content, bytes):
            write_all(descriptor, content)
        elif isinstance(content, Path):
            with content.open("rb", buffering=0) as origin:
                while chunk := origin.read(1 << 20):
                    write_all(descriptor, chunk)
        os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    return descriptor, temporary


def write_all(descriptor: int, data: bytes) -> None:
    """All of `data`, also where one call takes only a part."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _made_folders(folder: Path) -> list[Path]:
    """Make `folder` and its parents. Returns the folders that got a new name, not synced."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
    return [new.parent for new in missing]


def _sync_together(descriptors: Sequence[int]) -> None:
    """Sync files one after the other, but let the disk begin with all of them at once.

    The advice starts the writing without waiting for it (Linux, mm/fadvise.c), so that on a file system with a journal
    the first sync writes the entries of all, and the others find theirs there.
    """
    for descriptor in descriptors[1:]:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    for descriptor in descriptors:
        os.fsync(descriptor)


def move_file(source: Path, target: Path) -> None:
    """Sync `source` and rename it to `target` on the same file system, else copy and delete."""
    with storage_errors(target.name):
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as stream:
            os.fsync(stream.fileno())
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy_file(source, target)
            source.unlink()
        sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> int:
    """Remove neighbours that a crash left directly in `folder`. Returns how many."""
    found = [p for p in folder.glob(f"{TEMPORARY_PREFIX}*") if p.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _suffix(path: Path) -> str:
    """Keep the extension, because image writers choose the format by it."""
    return "".join(path.suffixes[-2:])

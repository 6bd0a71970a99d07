"""A mark on a device, "people are waiting for it", that a training in another process sees at its next step.

A mark is a shared lock on ``<folder>/<device>.interactive``. The kernel drops it with the process that holds it, so the
mark of a dead owner is no mark, and nobody has to clean up. Several owners may mark one device at the same time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labelserver.storage.atomic import storage_errors
from labelserver.storage.locks import is_held

#: Below the app folder: the one place that a server, its workers and its jobs share.
FOLDER = "marks"


def mark_file(folder: Path, device: str) -> Path:
    """The file whose lock is the mark. ``cuda`` is the first GPU, as torch has it."""
    name = "cuda:0" if device == "cuda" else device
    return folder / f"{name.replace('/', '_')}.interactive"


@contextmanager
def interactive(folder: Path, device: str) -> Iterator[None]:
    """Mark `device` inside the block. Raises `StorageFailed`."""
    path = mark_file(folder, device)
    with storage_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def is_interactive(folder: Path, device: str) -> bool:
    """Does a living process mark `device` now? Some ten microseconds."""
    return is_held(mark_file(folder, device))

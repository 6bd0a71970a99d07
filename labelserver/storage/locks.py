"""One owner per folder, with a name on the door: a second one learns who the first is.

The kernel drops the lock with its process, so a dead owner needs no clean-up on a local disk. On a network folder the
kernel's word is not enough; there the owner file is believed until its process is proven dead.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from labelserver.domain.errors import FolderInUse
from labelserver.storage import atomic
from labelserver.storage.atomic import storage_errors
from labelserver.storage.mounts import is_network_folder
from labelserver.storage.processes import ProcessIdentity, identity_of, is_proven_dead


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait for the lock file `path`, among threads and processes alike. The kernel frees it when its process dies.

    Not re-entrant: a thread that holds it and asks again waits for ever.
    """
    with storage_errors(path.name):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def all_exclusive(*paths: Path) -> Iterator[None]:
    """As `exclusive` for several files at once: each once, in one order, so that no two callers wait for each other."""
    with ExitStack() as held:
        for path in sorted(set(paths)):
            held.enter_context(exclusive(path))
        yield


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Take the lock file `path` if nobody has it, without waiting; True if it was free. See `exclusive`."""
    with storage_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _locked_now(descriptor)
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Has anybody the lock file `path` now?"""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _locked_now(descriptor)
    finally:
        os.close(descriptor)


def _locked_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class OwnerLock:
    """Exclusive ownership of `folder` by this process, as long as this object lives or until `release`."""

    def __init__(self, folder: Path, what: str) -> None:
        self._what = what
        self._owner_file = folder / ".lock-owner.json"
        self._lock = FileLock(folder / ".lock")

    def acquire(self, *, take_over: bool = False) -> None:
        """Take the lock at once.

        Args:
            take_over: on a network folder, replace an owner that nothing proves dead.

        Raises:
            FolderInUse: another living process holds it; the message names host, pid and since when.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise FolderInUse(self._sentence()) from error
        if not take_over and is_network_folder(self._owner_file.parent) and self._may_live():
            self._lock.release()
            raise FolderInUse(
                f"{self._sentence()} The folder lies on a network, so nobody here can tell whether it still runs. "
                "If it does not, start with --take-over."
            )
        me = identity_of()
        if me is not None:
            atomic.write_json(self._owner_file, {**me.to_json(), "since_ts": time.time()})

    def _may_live(self) -> bool:
        """Whether the owner file names a process that is neither this one nor proven dead."""
        owner = self._owner()
        return owner is not None and owner[0] != identity_of() and not is_proven_dead(owner[0])

    def _owner(self) -> tuple[ProcessIdentity, float] | None:
        """Who the owner file names, and since when (Unix seconds)."""
        try:
            document = json.loads(self._owner_file.read_text())
            return ProcessIdentity.from_json(document), float(document["since_ts"])
        except (OSError, ValueError, KeyError):
            return None

    def release(self) -> None:
        """Give the folder free. Safe to call twice."""
        if self._lock.is_locked:
            self._owner_file.unlink(missing_ok=True)
            self._lock.release()

    def _sentence(self) -> str:
        found = self._owner()
        if found is None:
            return f"Another process uses {self._what}. Stop it first, or choose another folder."
        owner = found[0]
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found[1]))
        state = ", which seems to be gone," if is_proven_dead(owner) else ""
        return (
            f"{self._what} is in use by process {owner.pid} on {owner.host}{state} since {since}. "
            "Stop that server first, or choose another folder."
        )

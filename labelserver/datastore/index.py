"""The SQLite index: connections, transactions, opening, backup, and what happens when the file is gone or damaged.

WAL, ``synchronous=FULL``: a commit that returned survives a power cut. A connection is used by one thread at a time and
kept for the next. Before each use the file's identity is compared: if somebody removed or replaced the file under us,
a new one is opened, rebuilt from the revision files if needed, so that nothing is ever written into a deleted file.
Order of locks: image lock (labels.py), then index lock (opening only), then SQLite's own.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from labelserver.datastore import index_schema
from labelserver.domain.errors import DiskFull, StorageFailed, StoredDataInvalid
from labelserver.storage import atomic
from labelserver.storage.locks import exclusive

logger = logging.getLogger(__name__)

#: seconds to wait for another process's transaction; the longest is a first scan of 100 000 images, about 5 s
_BUSY_TIMEOUT_S = 60.0

_KEPT_BACKUPS = 3

#: pages of the write-ahead log after which a commit carries them over into the index. A save writes about 20, most of
#: them pages that others write again soon, so that at four times SQLite's default one save of 200 pays, not one of 50.
_CARRY_OVER_PAGES = 4000


@dataclass(slots=True)
class _Open:
    connection: sqlite3.Connection
    inode: int


class Index:
    """The index file of one store, opened lazily and shared by the threads of this process."""

    def __init__(
        self, file: Path, lock: Path, backups: Path, quarantine: Path, fill: Callable[[sqlite3.Connection], None]
    ) -> None:
        """`fill` puts into a new, empty index what is known from elsewhere (revision files, backups)."""
        self._file = file
        self._lock = lock
        self._backups = backups
        self._quarantine = quarantine
        self._fill = fill
        self._idle: list[_Open] = []
        self._guard = threading.Lock()
        self._checked_inode = -1
        self.damage: list[str] = []  #: sentences about what this process found and repaired
        weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection; all reads inside the block see the same state."""
        with self._used() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK" if connection.in_transaction else "SELECT 1")

    @contextmanager
    def writing(self, *, relaxed: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed at the end of the block, rolled back on an exception.

        `relaxed` returns before the disk has it, for facts that can be found out again.
        """
        with self._used() as connection:
            if relaxed:
                connection.execute("PRAGMA synchronous=NORMAL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            finally:
                if relaxed:
                    connection.execute("PRAGMA synchronous=FULL")

    def close(self) -> None:
        """Close the idle connections. The index opens again when used."""
        with self._guard:
            _close_all(self._idle)

    def backup_if_changed(self) -> Path | None:
        """`backup`, unless nothing was committed since the newest one."""
        newest = next(iter(self.backups()), None)
        made_ns = int(newest.stem.partition("-")[2]) if newest is not None else 0
        parts = (self._file, self._file.with_name(self._file.name + "-wal"))
        if all(not part.exists() or part.stat().st_mtime_ns <= made_ns for part in parts):
            return None
        return self.backup()

    def backup(self) -> Path:
        """Copy the living index into the backups folder; the oldest beyond three go."""
        self._backups.mkdir(parents=True, exist_ok=True)
        target = self._backups / f"index-{time.time_ns()}.sqlite"
        half = target.with_suffix(".part")
        with self._used() as connection, _translated(self._file):
            copy = sqlite3.connect(half)
            try:
                connection.backup(copy)
            finally:
                copy.close()
        atomic.move_file(half, target)
        for old in self.backups()[_KEPT_BACKUPS:]:
            old.unlink(missing_ok=True)
        return target

    def compact(self) -> None:
        """Rewrite the file without the space that deleted rows had, so that nothing of them can be read any more."""
        with self._used() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def backups(self) -> list[Path]:
        """Newest first."""
        return sorted(self._backups.glob("index-*.sqlite"), key=lambda p: p.name, reverse=True)

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        with _translated(self._file):
            handle = self._take()
            damaged = False
            try:
                yield handle.connection
            except sqlite3.DatabaseError as error:
                damaged = _is_damage(error)
                raise
            finally:
                if damaged:
                    self._checked_inode = -1  # the next use looks at the file, sets it aside and rebuilds
                if damaged or handle.connection.in_transaction:
                    handle.connection.close()
                else:
                    with self._guard:
                        self._idle.append(handle)

    def _take(self) -> _Open:
        inode = _inode(self._file)
        if inode == self._checked_inode:
            with self._guard:
                while self._idle:
                    handle = self._idle.pop()
                    if handle.inode == inode:
                        return handle
                    handle.connection.close()
            return _Open(_connect(self._file), inode)
        with exclusive(self._lock):
            self._open_or_make()
            self._checked_inode = _inode(self._file)
            return _Open(_connect(self._file), self._checked_inode)

    def _open_or_make(self) -> None:
        """Called under the index lock: afterwards the file exists, is sound and has the current layout."""
        if self._file.exists():
            try:
                connection = _connect(self._file)
                try:
                    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
                    verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
                finally:
                    connection.close()
                if verdict == "ok" and 0 < version <= index_schema.VERSION:
                    self._upgrade(version)
                    return
                if version > index_schema.VERSION:
                    raise StoredDataInvalid(
                        f"The index has layout {version}; this version of labelserver knows {index_schema.VERSION}. "
                        "Install the newer version again, or move index.sqlite away to have it rebuilt."
                    )
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                    raise
            logger.warning("the index is damaged; it is set aside and rebuilt", extra={"file": self._file.name})
            self.damage.append("The index was damaged; it was set aside and made again from revisions and backup.")
        self._set_aside()
        self._make()

    def _set_aside(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            part = self._file.with_name(self._file.name + suffix)
            if part.exists():
                self._quarantine.mkdir(parents=True, exist_ok=True)
                part.replace(self._quarantine / f"{time.time_ns()}-{part.name}")

    def _make(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        half = self._file.with_name(self._file.name + ".part")
        half.unlink(missing_ok=True)
        connection = sqlite3.connect(half, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=OFF")
            connection.execute("PRAGMA synchronous=OFF")
            connection.executescript(f"BEGIN; {index_schema.TABLES}")
            self._fill(connection)
            connection.execute(f"PRAGMA user_version={index_schema.VERSION}")
            connection.execute("COMMIT")
        finally:
            connection.close()
        atomic.move_file(half, self._file)

    def _upgrade(self, version: int) -> None:
        if version == index_schema.VERSION:
            return
        self._backups.mkdir(parents=True, exist_ok=True)
        connection = _connect(self._file)
        try:
            copy = sqlite3.connect(self._backups / f"before-layout-{index_schema.VERSION}.sqlite")
            try:
                connection.backup(copy)
            finally:
                copy.close()
            for step in range(version, index_schema.VERSION):
                script = index_schema.UPGRADES[step]
                connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={step + 1}; COMMIT")
        finally:
            connection.close()


class Inside(Index):
    """The index as seen inside a write transaction: whatever is read or written belongs to that transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        yield self._connection

    @contextmanager
    def writing(self, *, relaxed: bool = False) -> Iterator[sqlite3.Connection]:
        yield self._connection


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CARRY_OVER_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _close_all(idle: list[_Open]) -> None:
    while idle:
        idle.pop().connection.close()


def _inode(file: Path) -> int:
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return -2


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def _translated(file: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF == sqlite3.SQLITE_FULL or code in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC):
            raise DiskFull(f"No space left while writing {file.name}. Free some space and try again.") from error
        if _is_damage(error):
            raise StoredDataInvalid("The index is damaged and will be rebuilt. Try again.") from error
        raise StorageFailed(f"The index cannot be used: {error}.") from error

"""Which paths below the studies change, by the operating system's word; on a network folder by looking again and again.

Asked is about the folder itself and, with all below them, about the folders in it. What the server keeps for itself is
left out there and not when the answers come: every first revision of a label makes folders, the system would be asked
to watch each of them, and a save would take half as long again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from labelserver.datastore.layout import Layout
from labelserver.storage.atomic import TEMPORARY_PREFIX
from labelserver.storage.mounts import is_network_folder

logger = logging.getLogger(__name__)

#: ms without a further change before a batch is looked at; a copied folder then comes as one
_DEBOUNCE_MS = 400
_STEP_MS = 100
_POLL_MS = 2000
#: ms; without changes, so often the one who asks gets an empty answer
_ROUND_MS = 500
#: how often folders are listed again because one of them went before it could be watched
_TRIES = 5
#: s between attempts to watch a studies folder that cannot be watched
_TRY_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class _Listener:
    """A watch that the system has set up."""

    stop: asyncio.Event
    task: asyncio.Task[None]

    async def close(self) -> None:
        self.stop.set()
        await asyncio.gather(self.task, return_exceptions=True)


class FolderWatch:
    """Changes below one studies folder: `open`, then `changed` again and again, then `close`. Of one event loop."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._polling = is_network_folder(layout.studies)
        self._batches: asyncio.Queue[set[tuple[Change, str]]] = asyncio.Queue()
        self._folders: frozenset[Path] = frozenset()
        self._top: _Listener | None = None
        self._deep: _Listener | None = None
        self._identity = (0, 0)  #: device and inode of the studies that are watched
        self._next_try_s = 0.0  #: on the monotonic clock

    async def open(self) -> None:
        """Begin. What changes after this is told.

        Raises OSError: the studies folder cannot be watched.
        """
        try:
            self._identity = self._identity_now()
            self._top = await self._listener([self._layout.studies], recursive=False)
            await self._follow()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End. Safe to call twice, and after an `open` that failed."""
        listeners, self._top, self._deep = (self._top, self._deep), None, None
        for listener in listeners:
            if listener is not None:
                await listener.close()

    async def changed(self) -> set[Path]:
        """The paths that changed since the last call: at once if there are some, else after a moment none."""
        try:
            async with asyncio.timeout(_ROUND_MS / 1000):
                changes = await self._batches.get()
        except TimeoutError:
            changes = set()
        paths = {Path(name) for _, name in changes}
        if self._has_ended() and time.monotonic() >= self._next_try_s:
            self._next_try_s = time.monotonic() + _TRY_AGAIN_S
            await self.close()
            await self.open()
            return paths | {self._layout.studies}
        if any(change is not Change.modified and self._is_inner_folder(Path(name)) for change, name in changes):
            paths |= await self._follow()
        return paths

    def _is_inner_folder(self, path: Path) -> bool:
        return path in self._folders or (path.parent == self._layout.studies and path.is_dir())

    async def _follow(self) -> set[Path]:
        """Watch the folders that are there now. Returns those that are new: what was put there meanwhile is not told.

        The new watch stands before the old one ends, so that nothing is missed and some things are told twice.
        """
        before, old = self._folders, self._deep
        for tries_left in reversed(range(_TRIES)):
            self._folders = self._inner_folders()
            try:
                self._deep = await self._listener(self._folders, recursive=True) if self._folders else None
                break
            except FileNotFoundError:  # one has gone since it was listed
                if not tries_left:
                    raise
        if old is not None:
            await old.close()
        return set(self._folders - before)

    def _has_ended(self) -> bool:
        """Has a watch ended by itself? The system could not set up another folder of it, or the studies are others."""
        listeners = [self._top, *([] if self._deep is None else [self._deep])]
        if any(listener is None or listener.task.done() for listener in listeners):
            return True
        return not self._polling and self._identity != self._identity_now()

    def _identity_now(self) -> tuple[int, int]:
        """(0, 0) if the studies are not there."""
        try:
            status = self._layout.studies.stat()
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    async def _listener(self, folders: Collection[Path], *, recursive: bool) -> _Listener:
        """Raises FileNotFoundError if one of the folders is not there, OSError if they cannot be watched."""
        try:
            return await self._try_to_listen(folders, recursive=recursive)
        except FileNotFoundError:
            raise
        except OSError as error:
            if self._polling:
                raise
            logger.warning(
                "the system cannot watch all folders of the studies, so they are looked at again and again; to save "
                "that work raise its limit: sysctl fs.inotify.max_user_watches",
                extra={"reason": str(error)},
            )
            self._polling = True
        return await self._try_to_listen(folders, recursive=recursive)

    async def _try_to_listen(self, folders: Collection[Path], *, recursive: bool) -> _Listener:
        stop, ready = asyncio.Event(), asyncio.Event()
        listening = self._listen(sorted(folders), stop, ready, recursive=recursive)
        listener = _Listener(stop, asyncio.create_task(listening))
        try:
            await ready.wait()
        except asyncio.CancelledError:
            await listener.close()
            raise
        if listener.task.done():
            await listener.task
        return listener

    async def _listen(
        self, folders: Collection[Path], stop: asyncio.Event, ready: asyncio.Event, *, recursive: bool
    ) -> None:
        try:
            async for changes in awatch(
                *folders,
                watch_filter=_Filter(self._layout.state),
                debounce=_DEBOUNCE_MS,
                step=_STEP_MS,
                stop_event=stop,
                rust_timeout=_ROUND_MS,
                yield_on_timeout=True,
                force_polling=self._polling or None,
                poll_delay_ms=_POLL_MS,
                recursive=recursive,
                ignore_permission_denied=True,
            ):
                ready.set()
                if changes:
                    self._batches.put_nowait(changes)
        finally:
            ready.set()

    def _inner_folders(self) -> frozenset[Path]:
        """The folders in the studies that a look at them goes into."""
        layout = self._layout
        named = [place for place in (layout.images, layout.labels, layout.given_labels) if place is not None]
        with os.scandir(layout.studies) as entries:
            folders = [Path(entry.path) for entry in entries if entry.is_dir()]
        return frozenset(
            folder
            for folder in folders
            if folder != layout.state
            and (not folder.name.startswith(".") or any(place.is_relative_to(folder) for place in named))
        )


class _Filter(DefaultFilter):
    """Leave out the server's own folder and hidden names, which no scan takes."""

    def __init__(self, state: Path) -> None:
        super().__init__(ignore_dirs=(), ignore_entity_patterns=(r"^\.",), ignore_paths=(state,))

    def __call__(self, change: Change, path: str) -> bool:
        return TEMPORARY_PREFIX not in path and super().__call__(change, path)

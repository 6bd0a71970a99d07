"""Notice files that arrive or vanish. Run by the server alone.

Only changed paths are looked at. A full look every ten minutes catches what the system forgot to tell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from labelserver.datastore.folder_watch import FolderWatch
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import LabelServerError
from labelserver.storage.locks import held_if_free

logger = logging.getLogger(__name__)

_FULL_LOOK_S = 600.0


async def watch(store: LocalDatastore, *, stop: asyncio.Event | None = None) -> None:
    """Look at the whole folder, then watch it until cancelled or `stop` is set.

    Errors are logged; they end a look, never the watching.
    """
    with held_if_free(store.layout.watch_lock):
        watching = FolderWatch(store.layout)
        try:
            await watching.open()
            await _look_at_changes(store, watching, stop or asyncio.Event())
        finally:
            await watching.close()


async def _look_at_changes(store: LocalDatastore, watching: FolderWatch, stop: asyncio.Event) -> None:
    next_look = time.monotonic()  # at once: what changed while nobody watched
    unfinished: set[Path] = set()
    while not stop.is_set():
        now = time.monotonic()
        try:
            if now >= next_look:
                next_look = now + _FULL_LOOK_S
                await asyncio.to_thread(store.refresh)
            paths = await watching.changed() | unfinished
            if paths:
                unfinished = await asyncio.to_thread(store.refresh_paths, paths)
        except (LabelServerError, OSError) as error:
            logger.warning("could not look at the changed files", extra={"reason": str(error)})

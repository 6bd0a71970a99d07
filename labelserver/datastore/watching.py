"""Notice files that arrive or vanish, by the operating system's word; on a network folder by looking again and again.

Run by the server alone. Only changed paths are looked at. A full look every ten minutes catches what the system forgot
to tell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import LabelServerError
from labelserver.storage.atomic import TEMPORARY_PREFIX
from labelserver.storage.locks import held_if_free
from labelserver.storage.mounts import is_network_folder

logger = logging.getLogger(__name__)

#: ms without a further change before a batch is looked at; a copied folder then comes as one
_DEBOUNCE_MS = 400
_STEP_MS = 100
_POLL_MS = 2000
#: ms; without changes, so often it is asked whether a full look is due
_ROUND_MS = 500

_FULL_LOOK_S = 600.0


async def watch(store: LocalDatastore, *, stop: asyncio.Event | None = None) -> None:
    """Look at the whole folder, then watch it until cancelled or `stop` is set.

    Errors are logged; they end a look, never the watching.
    """
    with held_if_free(store.layout.watch_lock):
        await _watch(store, stop)


async def _watch(store: LocalDatastore, stop: asyncio.Event | None) -> None:
    next_look = time.monotonic()  # at once: what changed while nobody watched
    unfinished: set[Path] = set()
    root = store.layout.studies
    async for changes in awatch(
        root,
        watch_filter=_Filter(store.layout.state),
        debounce=_DEBOUNCE_MS,
        step=_STEP_MS,
        stop_event=stop,
        rust_timeout=_ROUND_MS,
        yield_on_timeout=True,
        force_polling=is_network_folder(root) or None,
        poll_delay_ms=_POLL_MS,
        ignore_permission_denied=True,
    ):
        now = time.monotonic()
        try:
            paths = {Path(name) for _, name in changes} | unfinished
            if now >= next_look:
                next_look = now + _FULL_LOOK_S
                await asyncio.to_thread(store.refresh)
            elif paths:
                unfinished = await asyncio.to_thread(store.refresh_paths, paths)
        except (LabelServerError, OSError) as error:
            logger.warning("could not look at the changed files", extra={"reason": str(error)})


class _Filter(DefaultFilter):
    """Leave out the server's own folder and hidden names, which no scan takes."""

    def __init__(self, state: Path) -> None:
        super().__init__(ignore_dirs=(), ignore_entity_patterns=(r"^\.",), ignore_paths=(state,))

    def __call__(self, change: Change, path: str) -> bool:
        return TEMPORARY_PREFIX not in path and super().__call__(change, path)

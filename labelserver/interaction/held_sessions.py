"""Sessions in the server's memory: found by their ids, one change at a time, expired when nobody uses them.

Each is also a folder (`session_files`) with a log (`session_log`), from which it is taken up again when it is asked for
and not in memory. All methods belong to the event loop; disk work goes to threads.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from labelserver.domain.errors import LabelServerError, QueueFull, SessionNotFound
from labelserver.domain.interaction import OpenSession
from labelserver.interaction.session_files import KeptSession, SessionFiles
from labelserver.interaction.session_log import SYNC_AFTER_S, SessionLog
from labelserver.storage.append import sync_file

logger = logging.getLogger(__name__)

#: calls that may wait for the same session; a person clicks faster than that only by accident.
MAX_WAITING = 16
#: seconds between notes on disk that a session is in use.
TOUCH_AFTER_S = 60.0

_Result = TypeVar("_Result")


class HeldSession:
    """A session in the server's memory."""

    def __init__(self, kept: KeptSession, log: SessionLog, folder: Path) -> None:
        self.kept = kept
        self.log = log
        self.folder = folder
        self.lock = asyncio.Lock()
        self.waiting = 0
        self.closed = False
        self.dirty = False
        self.touched_ts = kept.used_ts  #: the last use that is noted on disk

    async def in_turn(self, do: Callable[[], Coroutine[object, object, _Result]]) -> _Result:
        """`do`, after the calls that came before it for this session. Raises `QueueFull`, `SessionNotFound`."""
        if self.waiting >= MAX_WAITING:
            raise QueueFull(f"{self.waiting} calls are waiting for this session already. Wait for their answers.")
        self.waiting += 1
        try:
            async with self.lock:
                if self.closed:
                    raise SessionNotFound("The session was closed.")
                return await do()
        finally:
            self.waiting -= 1


class HeldSessions:
    """See the module. `keep_s`: since the last use; 0: for ever. `clock`: seconds since 1970."""

    def __init__(self, files: SessionFiles, keep_s: float, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.in_memory: dict[str, HeldSession] = {}
        self._files = files
        self._keep_s = keep_s
        self._loading: dict[str, asyncio.Lock] = {}
        self._syncs: set[asyncio.Task[None]] = set()

    def add(self, kept: KeptSession, folder: Path) -> HeldSession:
        """Hold a session that was just made."""
        held = self.in_memory[kept.session_id] = HeldSession(kept, SessionLog(folder, kept.grid.shape), folder)
        return held

    async def withdraw(self, held: HeldSession) -> None:
        """Undo `add`: the session was never promised to anybody."""
        self.in_memory.pop(held.kept.session_id, None)
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, held.folder, ignore_errors=True))

    async def of(self, session_id: str, person: str, *, used: bool = True) -> HeldSession:
        """The session, from memory or from its folder; `used` puts its end off. Raises `SessionNotFound`."""
        held = self.in_memory.get(session_id)
        if held is None:
            async with self._loading.setdefault(session_id, asyncio.Lock()):
                held = self.in_memory.get(session_id)
                if held is None:
                    try:
                        kept, folder = await asyncio.to_thread(self._files.read, session_id)
                        log = await asyncio.to_thread(SessionLog, folder, kept.grid.shape)
                    finally:
                        self._loading.pop(session_id, None)
                    held = self.in_memory[session_id] = HeldSession(kept, log, folder)
        kept = held.kept
        expired = self._keep_s and self.clock() - kept.used_ts > self._keep_s
        if held.closed or expired or (kept.hold_person and kept.person != person):
            raise SessionNotFound(
                "You have no open session of this id: it was closed, has expired, or never was. "
                "Open one with POST /api/v1/sessions."
            )
        if not used:
            return held
        held.kept = replace(kept, used_ts=self.clock())
        if held.kept.used_ts - held.touched_ts > TOUCH_AFTER_S:
            held.touched_ts = held.kept.used_ts
            await asyncio.to_thread(self._files.touch, session_id, held.touched_ts)
        return held

    async def list(self, person: str, image_id: str) -> builtins.list[HeldSession]:
        """The sessions of `person` (on one image), the latest used first."""
        found = []
        for session_id in await asyncio.to_thread(self._files.of_person, person, image_id):
            try:
                found.append(await self.of(session_id, person, used=False))
            except SessionNotFound:  # closed meanwhile
                continue
        return found

    async def log(self, held: HeldSession, write: Callable[[], None]) -> None:
        """Append to the session's log, whatever becomes of the caller meanwhile."""
        writing = asyncio.ensure_future(asyncio.to_thread(write))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # the next call of this session must not overtake it
            raise
        if not held.dirty:
            held.dirty = True
            task = asyncio.get_running_loop().create_task(_sync(held))
            self._syncs.add(task)
            task.add_done_callback(self._syncs.discard)

    async def remove(self, held: HeldSession) -> None:
        """Forget a session and its folder, after the call that it serves now."""
        async with held.lock:
            held.closed = True
            self.in_memory.pop(held.kept.session_id, None)
            await asyncio.to_thread(self._files.remove, held.kept.session_id)

    async def expire(self) -> None:
        """Remove sessions that nobody used for so long."""
        if not self._keep_s:
            return
        limit = self.clock() - self._keep_s
        for session_id in await asyncio.to_thread(self._files.unused_since, limit):
            held = self.in_memory.get(session_id)
            if held is None:
                await asyncio.to_thread(self._files.remove, session_id)
            elif held.kept.used_ts < limit and not held.lock.locked():
                await self.remove(held)

    async def stop(self) -> None:
        """Bring what was written to the disk."""
        for held in list(self.in_memory.values()):
            if held.dirty:
                await asyncio.to_thread(sync_file, held.log.path)
        for task in list(self._syncs):
            task.cancel()

    def shown(self, held: HeldSession) -> OpenSession:
        """The session as its person sees it."""
        kept, log = held.kept, held.log
        return OpenSession(
            session_id=kept.session_id,
            person=kept.person,
            task=kept.task,
            image_id=kept.image_id,
            grid=kept.grid,
            label_values=dict(kept.label_values),
            prompt_kinds=kept.prompt_kinds,
            conversions=dict(kept.conversions),
            params=kept.params,
            created_ts=kept.created_ts,
            expires_ts=kept.used_ts + self._keep_s if self._keep_s else float("inf"),
            undoable=log.undoable,
            redoable=log.redoable,
            prompts=log.prompts,
            model_version=log.model_version,
            at=log.at,
        )


async def _sync(held: HeldSession) -> None:
    await asyncio.sleep(SYNC_AFTER_S)
    held.dirty = False
    try:
        await asyncio.to_thread(sync_file, held.log.path)
    except LabelServerError as error:
        logger.warning("a session's log could not be synced", extra={"error": error.message})

"""A job process that is started before there is a job, so that the next one need not wait for imports.

Kept for `keep_s` seconds after somebody last had reason to expect a job, and only while the machine has memory to
spare. It runs one job like any other process and is never used again. If the app's files have changed since it loaded
them, it is put away and the job starts cold. All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from labelserver.domain.json_types import JsonObject
from labelserver.engine.supervision import code_stamp
from labelserver.storage.memory import available_memory_bytes
from labelserver.storage.processes import identity_of, is_proven_dead, reap, send_signal, spawn_detached

logger = logging.getLogger(__name__)

#: seconds between looks at a waiting process.
LOOK_EVERY_S = 1.0
#: bytes that must be free before one is started, and below which a waiting one is ended: torch, MONAI and an app take
#: some 500 MB, and a training needs room.
START_BYTES = 3 * 2**30
END_BYTES = 1 * 2**30


@dataclass(frozen=True, slots=True)
class Prepared:
    """A runner that waits for "go" and a folder on the pipe `go`. Whoever has it closes the pipe."""

    pid: int
    go: int
    stamp: object  #: of the app's files when they were loaded

    def close(self) -> None:
        """Without the word "go" the runner ends, and its process with it."""
        os.close(self.go)
        reap(self.pid)


class WarmJobs:
    """At most one waiting process.

    Args:
        command: starts a warm runner.
        settings: what jobs run under (see `JobFolder.prepare_start`).
        app_dir: whose files are loaded.
        keep_s: 0 keeps none.
    """

    def __init__(self, command: Sequence[str], settings: JsonObject, app_dir: Path, keep_s: float) -> None:
        self._command = [*command, str(app_dir)]
        self._settings = settings
        self._app_dir = app_dir
        self._keep_s = keep_s
        self._waiting: Prepared | None = None
        self._until = 0.0
        self._turn = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the waiting runner, for operators and tests."""
        return self._waiting.pid if self._waiting is not None else None

    async def keep(self) -> None:
        """A job may come soon: have a process ready for it."""
        if self._keep_s <= 0:
            return
        self._until = time.monotonic() + self._keep_s
        async with self._turn:
            if self._waiting is not None or await asyncio.to_thread(available_memory_bytes) < START_BYTES:
                return
            try:
                self._waiting = await asyncio.to_thread(self._start)
            except OSError as error:
                logger.warning("no warm job process", extra={"error": error})
                return
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._look_after())

    async def take(self) -> Prepared | None:
        """The waiting process, if it lives and has loaded the app as it is now."""
        async with self._turn:
            found, self._waiting = self._waiting, None
        if found is None:
            return None
        if identity_of(found.pid) is not None and await asyncio.to_thread(code_stamp, self._app_dir) == found.stamp:
            return found
        await asyncio.to_thread(_end, found)
        return None

    async def end(self) -> None:
        """End the waiting process for good."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        await self._put_away()

    async def _look_after(self) -> None:
        """Until it is taken, dies, waits too long, or its memory is needed."""
        while (waiting := self._waiting) is not None:
            dead = identity_of(waiting.pid) is None
            short = await asyncio.to_thread(available_memory_bytes) < END_BYTES
            if dead or short or time.monotonic() >= self._until:
                why = "it died" if dead else "memory is short" if short else "no job came"
                logger.info("warm job process is ended", extra={"reason": why})
                await self._put_away()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _put_away(self) -> None:
        async with self._turn:
            found, self._waiting = self._waiting, None
        if found is not None:
            await asyncio.to_thread(_end, found)

    def _start(self) -> Prepared:
        stamp = code_stamp(self._app_dir)
        log_file = self._app_dir / "logs" / "warm-job.log"
        log_file.parent.mkdir(exist_ok=True)
        read, write = os.pipe()
        try:
            pid = spawn_detached(self._command, read, log_file)
            os.write(write, json.dumps(self._settings).encode() + b"\n")
        except OSError:
            os.close(write)
            raise
        finally:
            os.close(read)
        logger.info("warm job process is started", extra={"pid": pid})
        return Prepared(pid, write, stamp)


def _end(prepared: Prepared) -> None:
    identity = identity_of(prepared.pid)
    prepared.close()
    if identity is None:
        return
    send_signal(identity, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while not is_proven_dead(identity) and time.monotonic() < deadline:
        time.sleep(0.01)
        with suppress(OSError):
            reap(prepared.pid)

"""What happens in this server, as one ordered stream that clients follow and take up again where they left it.

Ids only grow, also from one server to the next: each server begins above the journal's last id and above its own start
time in milliseconds. The newest events stay in memory, a bounded number; a reader keeps nothing but its place, so a
slow one costs nothing and learns that it missed some. ``events.jsonl`` (one writer, two generations of bounded size)
lets the next server answer for the last ones of this server. It is not synced: after a power cut the tail may be gone.

`publish` may be called by any thread; `wait` belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from labelserver.domain.errors import StorageFailed
from labelserver.domain.json_types import JsonObject
from labelserver.storage import atomic
from labelserver.storage.append import JsonLinesWriter, read_json_lines

logger = logging.getLogger(__name__)

#: events in memory; at one a second for a running training some three hours.
KEPT = 10_000
#: bytes of a generation of the journal; two hold about as many events as memory does.
JOURNAL_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `kind` is dotted, the general part first: ``job.epoch``, ``version.published``."""

    number: int
    ts: float  #: Unix seconds
    kind: str
    data: JsonObject
    job_id: str = ""

    def to_json(self) -> JsonObject:
        found: JsonObject = {"id": self.number, "ts": self.ts, "kind": self.kind, "data": self.data}
        return {**found, "job_id": self.job_id} if self.job_id else found

    @classmethod
    def from_json(cls, line: JsonObject) -> Event:
        """Raises KeyError or ValueError on another document."""
        data = line.get("data")
        return cls(
            int(str(line["id"])),
            float(str(line["ts"])),
            str(line["kind"]),
            data if isinstance(data, dict) else {},
            str(line.get("job_id", "")),
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a reader wants: of one job, of some kinds; a kind takes its special ones in (``job``)."""

    job_id: str = ""
    kinds: Sequence[str] = ()

    def takes(self, event: Event) -> bool:
        if self.job_id and event.job_id != self.job_id:
            return False
        return not self.kinds or any(event.kind == kind or event.kind.startswith(f"{kind}.") for kind in self.kinds)


EVERYTHING = Wanted()


class EventHub:
    """See the module's words.

    Args:
        journal: the file of the newest generation.
        kept: events in memory.
        journal_bytes: size of a generation.
        clock: Unix seconds.
    """

    def __init__(
        self,
        journal: Path,
        *,
        kept: int = KEPT,
        journal_bytes: int = JOURNAL_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal, self._older = journal, journal.with_suffix(".1.jsonl")
        self._journal_bytes = journal_bytes
        self._clock = clock
        self._lock = threading.RLock()  # `close` may interrupt `publish` in a signal handler
        self._events: deque[Event] = deque(self._read_journal(), maxlen=kept)
        last = self._events[-1].number if self._events else 0
        self._next = max(last + 1, int(clock() * 1000))
        #: Events up to here are no longer in memory, or never were.
        self._forgotten = self._events[0].number - 1 if self._events else self._next - 1
        self._writer: JsonLinesWriter | None = None
        self._written = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once the server goes down: readers end."""
        return self._closed

    def now(self) -> float:
        """Unix seconds, by this hub's clock."""
        return self._clock()

    @property
    def last_number(self) -> int:
        """Of the newest event; what comes later has a larger one."""
        with self._lock:
            return self._next - 1

    def newest(self, wanted: Wanted = EVERYTHING) -> Event | None:
        with self._lock:
            return next((event for event in reversed(self._events) if wanted.takes(event)), None)

    def kept(self) -> list[Event]:
        """All events in memory, oldest first."""
        with self._lock:
            return list(self._events)

    def forget(self, unwanted: Wanted) -> None:
        """Remove events from memory and journal for good, because they name what must be named no more.

        Raises: `StorageFailed`.
        """
        with self._lock:
            left = [event for event in self._events if not unwanted.takes(event)]
            if len(left) == len(self._events):
                return
            self._forgotten = self._events[-1].number
            self._events = deque(left, maxlen=self._events.maxlen)
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            lines = b"".join(json.dumps(event.to_json(), ensure_ascii=False).encode() + b"\n" for event in left)
            atomic.write_bytes(self._journal, lines)
            self._older.unlink(missing_ok=True)

    def publish(self, kind: str, data: JsonObject, *, job_id: str = "", ts: float | None = None) -> Event:
        """Append an event and wake the readers. `ts`: when it happened, if not now. A full disk does not keep it."""
        with self._lock:
            event = Event(self._next, self._clock() if ts is None else ts, kind, data, job_id)
            self._next += 1
            if self._events and len(self._events) == self._events.maxlen:
                self._forgotten = self._events[0].number
            self._events.append(event)
            self._write(event)
        self._wake()
        return event

    def after(self, number: int, wanted: Wanted = EVERYTHING, limit: int = 500) -> tuple[list[Event], int, bool]:
        """Up to `limit` wanted events after `number`.

        Returns:
            the events; the place to go on from; whether events between were forgotten.
        """
        with self._lock:
            missed = number < self._forgotten
            number = max(number, self._forgotten)
            # Ids are without gaps but between two servers, so the first candidate is found from the end.
            behind = 0
            for event in reversed(self._events):
                if event.number <= number:
                    break
                behind += 1
            found: list[Event] = []
            place = number
            for event in islice(self._events, len(self._events) - behind, None):
                if len(found) == limit:
                    break
                place = event.number
                if wanted.takes(event):
                    found.append(event)
            return found, place, missed

    async def wait(self, number: int, timeout_s: float) -> bool:
        """Return at the first event after `number`, at `close`, or after `timeout_s`. True if there is an event."""
        news = asyncio.Event()
        entry = (asyncio.get_running_loop(), news)
        with self._lock:
            self._waiting.add(entry)
        try:
            if not self._has_after(number) and not self._closed:
                async with asyncio.timeout(timeout_s):
                    await news.wait()
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiting.discard(entry)
        return self._has_after(number)

    def _has_after(self, number: int) -> bool:
        """An event, not only a number: a server begins with a number beyond its last event."""
        with self._lock:
            return bool(self._events) and self._events[-1].number > number

    def close(self) -> None:
        """Let every reader end. Events may still be published. Safe to call twice, and in a signal handler's thread."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for loop, news in waiting:
            try:
                loop.call_soon_threadsafe(news.set)
            except RuntimeError:  # its loop has ended, and the reader with it
                continue

    def _read_journal(self) -> list[Event]:
        found = []
        for line in [*read_json_lines(self._older), *read_json_lines(self._journal)]:
            try:
                found.append(Event.from_json(line))
            except (KeyError, ValueError):  # of a later release, or damaged
                continue
        return found

    def _write(self, event: Event) -> None:
        try:
            if self._writer is None:
                self._writer = JsonLinesWriter(self._journal)
                self._written = self._journal.stat().st_size
            line = event.to_json()
            self._writer.append(line)
            self._written += len(str(line))
            if self._written > self._journal_bytes:
                self._writer.close()
                self._writer = None
                self._journal.replace(self._older)
        except (StorageFailed, OSError) as error:
            logger.warning("an event is not kept for the next server", extra={"error": str(error)})

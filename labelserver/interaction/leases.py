"""Who holds which session of the nnInteractive protocols: tokens, slots, and the two clocks of a lease.

A client claims a lease and shows its token with every call. *Seen* is any call, *active* a real action; a lease that
was not seen for `liveness_s`, or not active for `idle_s`, is put to rest: its slot is free for others. What it drew is
not lost: a record ``STATE/leases/<SHA-256 of the token>.json`` finds the session again, when the token comes back or
the server has restarted, until `MAX_RESTING` others were put to rest after it or the session itself has expired. A
lease that comes back needs no free slot: slots keep newcomers from crowding out those who work.

Clients of the older protocol claim nothing; where they call from stands for a token (`of_caller`), and they take no
slot.

All methods belong to the event loop; each lease has a lock, which whoever uses its session holds. No method but
`release` waits for it, so that a heartbeat is answered while a prediction runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from labelserver.domain.errors import LabelServerError, LeaseLost, SlotsTaken
from labelserver.domain.json_types import JsonObject
from labelserver.interaction.array_session import ArraySession, Sessions
from labelserver.storage import atomic

logger = logging.getLogger(__name__)

#: records of leases without a slot that are kept; the oldest goes first, and its session with it.
MAX_RESTING = 64

_TOKEN = re.compile(r"^[0-9a-f]{32}$")

_LOST = "lease expired or unknown"  # the words that clients know


@dataclass(slots=True, eq=False)
class Lease:
    """One client's claim. `session` is None before an image came, and while the lease rests."""

    token: str
    claimed: bool  #: False: of a client of the older protocol, which takes no slot
    mount: str  #: path of the mount, which a token is good for
    person: str
    seen: float
    active: float
    autozoom: bool = True
    session: ArraySession | None = None
    buffer_made: bool = False
    record: JsonObject | None = None  #: what wakes the session of a lease that rested
    uses: int = 0  #: calls that run now
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def to_json(self) -> JsonObject:
        return {
            "claimed": self.claimed,
            "mount": self.mount,
            "person": self.person,
            "autozoom": self.autozoom,
            "buffer_made": self.buffer_made,
            "session": self.session.to_json() if self.session is not None else self.record,
        }


class LeaseBook:
    """See the module."""

    def __init__(
        self,
        sessions: Sessions,
        folder: Path,
        *,
        slots: int,
        idle_s: float,
        liveness_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._folder = folder
        self._clock = clock
        self._held: dict[str, Lease] = {}
        self.slots = slots
        self.idle_s = idle_s
        self.liveness_s = liveness_s

    def claim(self, mount: str, person: str) -> Lease:
        """A new lease. Raises `SlotsTaken`."""
        self._rest_now()
        if sum(lease.claimed for lease in self._held.values()) >= self.slots:
            raise SlotsTaken(f"server is at capacity ({self.slots} sessions)")
        now = self._clock()
        lease = Lease(secrets.token_hex(16), True, mount, person, now, now)
        self._held[lease.token] = lease
        return lease

    async def find(self, token: str, mount: str, *, active: bool, seen: bool = True) -> Lease:
        """The lease of `token`; a real action (`active`) wakes one that rests, a sign of life (`seen`) does not.

        Raises:
            LeaseLost: there is none, or for another mount.
        """
        lease = self._held.get(token)
        if lease is None:
            lease = await self._woken(token, mount, active=active)
        if lease.mount != mount:
            raise LeaseLost(_LOST)
        if seen:
            lease.seen = self._clock()
        if active:
            lease.active = lease.seen
        return lease

    async def of_caller(self, caller: str, mount: str, person: str) -> Lease:
        """The lease of a client that has no token: `caller` says where it calls from."""
        token = hashlib.sha256(f"{mount}\0{caller}".encode()).hexdigest()[:32]
        try:
            return await self.find(token, mount, active=True)
        except LeaseLost:
            now = self._clock()
            return self._held.setdefault(token, Lease(token, False, mount, person, now, now))

    def remaining_s(self, lease: Lease) -> float:
        """Seconds until the lease is put to rest unless something happens."""
        return max(0.0, self.idle_s - (self._clock() - lease.active))

    def finished(self, lease: Lease) -> None:
        """An action of the lease ended: both clocks begin anew, however long it took."""
        lease.seen = lease.active = self._clock()

    async def keep(self, lease: Lease) -> None:
        """Make the lease findable after a rest or a restart. Raises `StorageFailed`."""
        await asyncio.to_thread(atomic.write_json, self._file(lease.token), lease.to_json())

    async def release(self, token: str) -> None:
        """End a lease for good, also one that rests. An unknown one is none of our business."""
        lease = self._held.pop(token, None)
        if lease is None:
            document = await asyncio.to_thread(self._read, token)
            record = document.get("session") if document is not None else None
        else:
            async with lease.lock:
                record = lease.to_json()["session"]
                lease.session = lease.record = None
        if isinstance(record, dict):
            await asyncio.to_thread(self._file(token).unlink, missing_ok=True)
            await self._end(record)

    async def rest(self) -> None:
        """Put leases to rest whose clients are gone or do nothing; end those that rest when they are too many."""
        self._rest_now()
        for record in await asyncio.to_thread(self._thin_out):
            await self._end(record)

    async def _end(self, record: JsonObject) -> None:
        try:
            await self._sessions.close(str(record.get("session")), str(record.get("person")))
        except LabelServerError as error:  # it has expired by itself
            logger.info("the session of a lease was gone", extra={"error": error.message})

    def _rest_now(self) -> None:
        now = self._clock()
        for lease in list(self._held.values()):
            idle = now - lease.active > self.idle_s
            gone = lease.claimed and self.liveness_s > 0 and now - lease.seen > self.liveness_s
            if (idle or gone) and not lease.uses:
                del self._held[lease.token]

    async def _woken(self, token: str, mount: str, *, active: bool) -> Lease:
        document = await asyncio.to_thread(self._read, token)
        lease = self._held.get(token)  # another call may have been faster
        if lease is not None:
            return lease
        if document is None or document.get("mount") != mount:
            raise LeaseLost(_LOST)
        now = self._clock()
        record = document.get("session")
        claimed = bool(document.get("claimed", True))
        lease = Lease(token, claimed, mount, str(document.get("person", "")), now, now)
        lease.autozoom = bool(document.get("autozoom", True))
        lease.buffer_made = bool(document.get("buffer_made", False))
        lease.record = record if isinstance(record, dict) else None
        if active:
            self._held[token] = lease
        else:
            lease.active = now - self.idle_s
        return lease

    def _read(self, token: str) -> JsonObject | None:
        return _document(self._file(token)) if _TOKEN.match(token) else None

    def _file(self, token: str) -> Path:
        """Named by the token's digest, so that a listing of the folder opens nothing."""
        return self._folder / f"{hashlib.sha256(token.encode()).hexdigest()}.json"

    def _thin_out(self) -> list[JsonObject]:
        """Remove the oldest records of leases that rest; what they said of their sessions. Blocks."""
        if not self._folder.is_dir():
            return []
        held = {self._file(token) for token in list(self._held)}
        resting = sorted((f for f in self._folder.glob("*.json") if f not in held), key=lambda f: f.stat().st_mtime)
        ended = []
        for file in resting[: max(0, len(resting) - MAX_RESTING)]:
            record = (_document(file) or {}).get("session")
            if isinstance(record, dict):
                ended.append(record)
            file.unlink(missing_ok=True)
        return ended


def _document(file: Path) -> JsonObject | None:
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("the record of a lease cannot be read", extra={"reason": str(error)})
        return None
    return document if isinstance(document, dict) else None

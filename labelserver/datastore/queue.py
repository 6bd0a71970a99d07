"""Who works on which image: choosing one and leasing it is a single transaction of the index.

A lease lives as long as its holder says so; when it ends, by submission, skip, release or silence, the image is open
again. Leases are written without waiting for the disk: a power cut may forget some, and then images are simply open.
Lock order: this queue's own lock (threads of one process stand in line for it), then SQLite's, which orders processes.
"""
# ruff: noqa: S608  statements are put together from constants alone; what people wrote is bound

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from labelserver.datastore import audit
from labelserver.datastore.index import Index
from labelserver.datastore.lease_rows import LEASES, held_by, lease_in, own_lease, put_lease, renewed
from labelserver.datastore.offering import Offered
from labelserver.datastore.plain_json import load_object
from labelserver.datastore.work_schema import FIRST_AUTHOR, IS_READING, VERDICT_OF_LABEL
from labelserver.domain.errors import LeaseLost
from labelserver.domain.ids import FINAL, ORIGINAL, ImageId, Tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import LabelSource, Provenance, Revision
from labelserver.domain.work import (
    EndOfWork,
    Lease,
    NoWork,
    Offer,
    Stage,
    Workflow,
    free_reader,
    reader_number,
    submit_tag,
)

#: seconds that ended leases are remembered, so that a late heartbeat gets the image back or hears who has it.
_REMEMBERED_S = 86400.0

#: Chooses for a person inside the transaction; None if it knows no image.
Chooser = Callable[[sqlite3.Connection, Offered], Offer | None]

#: What a label must come from to count as somebody's submission.
_SUBMISSIONS = frozenset((LabelSource.HAND, LabelSource.MODEL, LabelSource.PROMPTS, LabelSource.RESTORE))


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks for an image, and how."""

    person: str
    strategy: str = ""
    resume: bool = True  #: first of all, the image that he has already
    again: bool = False  #: also images that he skipped
    quiet: bool = False  #: his program knows no leases: no heartbeats will come, and it cannot resume
    any_order: bool = True  #: if the strategy knows no image, any other one will do
    done_too: bool = False  #: the strategy may choose images that are done, to have them labeled once more


class WorkQueue:
    """The leases of one store."""

    def __init__(
        self,
        index: Index,
        workflow: Callable[[], Workflow],
        key: Callable[[], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`key`: of the project, for what nobody shall guess."""
        self._index = index
        self._workflow = workflow
        self._key = key
        self._clock = clock
        self._line = threading.Lock()

    def offered(self, person: str, *, again: bool = False) -> Offered:
        """What this person may be given now."""
        return Offered(self._workflow(), person, self._clock(), again)

    def take(self, asking: Asking, choose: Chooser) -> Lease | NoWork:
        """The image that the person has, else one that was returned to him, else what `choose` says, now leased."""
        offered, key = self.offered(asking.person, again=asking.again), self._key()
        with self._line, self._index.writing(relaxed=True) as connection:
            connection.execute("DELETE FROM leases WHERE until_ts < ?", (offered.now - _REMEMBERED_S,))
            held = held_by(connection, offered) if asking.resume else None
            if held is not None:
                return renewed(connection, held, offered.now)
            offer = _returned_to(connection, offered) or choose(connection, offered)
            if offer is not None and not _may_get(connection, offered, offer.image_id, done_too=asking.done_too):
                offer = None
            if offer is None and asking.any_order:
                offer = _any(connection, offered)
            if offer is None:
                own = held_by(connection, offered, oldest=True)
                return renewed(connection, own, offered.now) if own is not None else _no_work(connection, offered)
            return _grant(connection, offered, offer, asking, key)

    def claim(self, asking: Asking, offer: Offer) -> Lease | None:
        """Lease an image that was chosen outside of a transaction; None if it is not there for this person any more."""
        offered, key = self.offered(asking.person, again=asking.again), self._key()
        with self._line, self._index.writing(relaxed=True) as connection:
            if not _may_get(connection, offered, offer.image_id, done_too=asking.done_too):
                return None
            return _grant(connection, offered, offer, asking, key)

    def no_work(self, person: str) -> NoWork:
        """Why there is nothing for this person."""
        with self._index.reading() as connection:
            return _no_work(connection, self.offered(person))

    def lease(self, lease_id: str, person: str) -> Lease:
        """Raises `LeaseNotFound`, also for a lease of somebody else."""
        with self._index.reading() as connection:
            return own_lease(connection, lease_id, person)

    def leases(self, person: str | None = None) -> list[Lease]:
        """Those in force (of one person), the oldest first."""
        condition, values = ("AND person = ?", [person]) if person is not None else ("", [])
        with self._index.reading() as connection:
            rows = connection.execute(
                f"{LEASES} WHERE until_ts > ? {condition} ORDER BY granted_ts, leases.id", (self._clock(), *values)
            )
            return [lease_in(row) for row in rows]

    def beat(self, lease_id: str, person: str) -> Lease:
        """Somebody is still there. A lease that has ended lives again if nobody else was given the image.

        Raises:
            LeaseNotFound: no such lease of this person.
            LeaseLost: the image went to somebody else, or needs no more work.
        """
        now = self._clock()
        with self._index.writing(relaxed=True) as connection:
            lease = own_lease(connection, lease_id, person)
            if lease.until_ts <= now and not _may_get(connection, self.offered(person, again=True), lease.image_id):
                raise LeaseLost(
                    f"Your lease of {lease.image_id!r} ended, and the image went to somebody else or is done. "
                    "What you drew can still be saved; every label is kept as a revision."
                )
            return renewed(connection, lease, now)

    def touch(self, image_id: str, person: str) -> None:
        """A person who may know no heartbeats works on this image."""
        now = self._clock()
        with self._index.reading() as connection:
            row = connection.execute(
                "SELECT 1 FROM leases WHERE image_id = ? AND +person = ? AND until_ts > ? "
                "AND until_ts < ? + length_s / 2",
                (image_id, person, now, now),
            ).fetchone()
        if row is not None:
            with self._index.writing(relaxed=True) as connection:
                connection.execute(
                    "UPDATE leases SET until_ts = ? + length_s WHERE image_id = ? AND +person = ? AND until_ts > ?",
                    (now, image_id, person, now),
                )

    def release(self, lease_id: str, person: str) -> Lease:
        """Give the image back. Raises `LeaseNotFound`."""
        with self._index.writing(relaxed=True) as connection:
            lease = own_lease(connection, lease_id, person)
            connection.execute("DELETE FROM leases WHERE id = ?", (lease_id,))
        return lease

    def skip(self, lease_id: str, person: str, reason: str) -> Lease:
        """Give the image back and be given others. Raises `LeaseNotFound`."""
        with self._index.writing() as connection:
            lease = own_lease(connection, lease_id, person)
            connection.execute("DELETE FROM leases WHERE id = ?", (lease_id,))
            connection.execute(
                "INSERT OR REPLACE INTO skips (image_id, person, reason, created_ts) VALUES (?, ?, ?, ?)",
                (lease.image_id, person, reason, self._clock()),
            )
            audit.record(connection, audit.Act("skip", person, lease.image_id, detail={"reason": reason}))
        return lease

    def tag_for(self, image_id: ImageId, tag: Tag, made_by: Provenance) -> Tag:
        """Under which tag a submission is stored: of an image that several people get, ``final`` becomes a reading.

        Reviewers and consensus write ``final`` itself. Nobody writes over the reading of somebody else.
        """
        if (tag != FINAL and reader_number(tag) is None) or made_by.source not in _SUBMISSIONS:
            return tag
        with self._index.reading() as connection:
            row = connection.execute("SELECT readers, stage FROM images WHERE id = ?", (image_id,)).fetchone()
            if row is None or row[0] < 2:
                return tag
            named = self._workflow().is_named_reviewer(made_by.person)
            taken = _readings(connection, image_id)
            own = next((t for t, author in taken.items() if author == made_by.person), None)
            leased = connection.execute(
                "SELECT tag FROM leases WHERE image_id = ? AND +person = ? ORDER BY until_ts DESC LIMIT 1",
                (image_id, made_by.person),
            ).fetchone()
        if tag != FINAL and named:
            return tag
        if leased is not None and reader_number(leased[0]) is not None and leased[0] not in taken:
            return Tag(leased[0])
        if own is not None:
            return Tag(own)
        complete = len(taken) >= int(row[0]) and leased is None
        if named or (complete and self._workflow().reviews(made_by.person)):
            return FINAL
        return free_reader(taken)

    def roi_for(self, image_id: str, person: str) -> JsonObject | None:
        """The part of the image that this person was asked for; None: all of it, or he was not asked."""
        with self._index.reading() as connection:
            row = connection.execute(
                "SELECT roi FROM leases WHERE image_id = ? AND +person = ? ORDER BY until_ts DESC LIMIT 1",
                (image_id, person),
            ).fetchone()
        return load_object(row[0]) if row is not None and row[0] else None


def submitted(connection: sqlite3.Connection, revision: Revision) -> None:
    """Inside the transaction that accepts a label: whoever submitted it holds the image no longer."""
    if revision.tag != ORIGINAL and revision.provenance.source in _SUBMISSIONS:
        connection.execute(
            "DELETE FROM leases WHERE image_id = ? AND +person = ?", (revision.image_id, revision.provenance.person)
        )
        connection.execute(
            "DELETE FROM skips WHERE image_id = ? AND person = ?", (revision.image_id, revision.provenance.person)
        )


def _readings(connection: sqlite3.Connection, image_id: str) -> dict[str, str]:
    """Tag -> who read, of all readings of the image."""
    return dict(
        connection.execute(
            f"SELECT tag, {FIRST_AUTHOR} FROM labels "
            f"WHERE image_id = ? AND shown = 1 AND tag {IS_READING} ORDER BY tag",
            (image_id,),
        ).fetchall()
    )


def _may_get(connection: sqlite3.Connection, offered: Offered, image_id: str, *, done_too: bool = False) -> bool:
    """Offered, or returned to this person, or returned to anybody while he is not there, or, if allowed, done."""
    if offered.includes(connection, image_id):
        return True
    stages = "('returned', 'submitted', 'approved')" if done_too else "('returned')"
    row = connection.execute(
        f"SELECT 1 FROM images WHERE id = :id AND state = 'present' AND stage IN {stages} AND {_UNHELD} "
        f"AND {offered.mine}",
        offered.params(id=image_id),
    ).fetchone()
    if row is not None:
        return True
    returned = _returned_to(connection, offered)
    return returned is not None and returned.image_id == image_id


_UNHELD = (
    "NOT EXISTS (SELECT 1 FROM leases WHERE leases.image_id = images.id AND until_ts > :now AND person <> :person)"
)

#: Labels of open images that a reviewer returned to the person who drew them. A reading is always its reader's;
#: ``final`` is whose current revision it is.
_RETURNED = f"""
SELECT labels.image_id, labels.tag, labels.current FROM reviews
JOIN labels ON labels.image_id = reviews.image_id AND labels.tag = reviews.tag AND labels.current = reviews.revision
JOIN images ON images.id = labels.image_id
WHERE reviews.verdict = 'returned' AND images.open = 1 AND labels.shown = 1
AND (labels.tag = 'final' OR labels.tag {IS_READING}) AND {VERDICT_OF_LABEL} = 'returned' AND
    (CASE labels.tag WHEN 'final' THEN (SELECT revisions.person FROM revisions
        WHERE revisions.image_id = labels.image_id AND revisions.tag = labels.tag
        AND revisions.number = labels.current) ELSE {FIRST_AUTHOR} END) = :person
AND NOT EXISTS (SELECT 1 FROM leases WHERE leases.image_id = images.id AND leases.tag = labels.tag AND until_ts > :now)
ORDER BY reviews.number LIMIT 1"""


def _returned_to(connection: sqlite3.Connection, offered: Offered) -> Offer | None:
    row = connection.execute(_RETURNED, {"person": offered.person, "now": offered.now}).fetchone()
    return None if row is None else _returned(connection, *row)


def _returned(connection: sqlite3.Connection, image_id: str, tag: str, revision: int) -> Offer:
    person, comment = connection.execute(
        "SELECT person, comment FROM reviews WHERE image_id = ? AND tag = ? AND revision = ? ORDER BY number DESC",
        (image_id, tag, revision),
    ).fetchone()
    why = f"{person or 'A reviewer'} returned it{f': {comment}' if comment else '.'}"
    return Offer(ImageId(image_id), {"why": why, "returned": {"tag": tag, "revision": revision, "comment": comment}})


def _any(connection: sqlite3.Connection, offered: Offered) -> Offer | None:
    """The first image by id that is offered; else one that was returned to somebody else, who is not here."""
    row = connection.execute(
        f"SELECT id FROM images WHERE {offered.where} ORDER BY id LIMIT 1", offered.params()
    ).fetchone()
    if row is not None:
        return Offer(ImageId(row[0]), {"why": "The strategy named none, so it is the first by name."})
    row = connection.execute(
        f"SELECT images.id, labels.current FROM images JOIN labels ON labels.image_id = images.id AND tag = 'final' "
        f"WHERE images.open = 1 AND stage = 'returned' AND {_UNHELD} AND {offered.mine} ORDER BY images.id LIMIT 1",
        offered.params(),
    ).fetchone()
    return None if row is None else _returned(connection, row[0], FINAL, row[1])


def _grant(connection: sqlite3.Connection, offered: Offered, offer: Offer, asking: Asking, key: bytes) -> Lease:
    """Write the lease of an image that `_may_get` allowed."""
    image_id, workflow, now = offer.image_id, offered.workflow, offered.now
    readers, stage = connection.execute("SELECT readers, stage FROM images WHERE id = ?", (image_id,)).fetchone()
    readings = _readings(connection, image_id)
    held = connection.execute("SELECT tag FROM leases WHERE image_id = ? AND until_ts > ?", (image_id, now)).fetchall()
    if stage == Stage.UNLABELED and not readings and not held:  # from the first lease on, the number stays
        readers = workflow.readers_of(image_id, key)
        connection.execute("UPDATE images SET readers = ? WHERE id = ? AND readers <> ?", (readers, image_id, readers))
    own = next((tag for tag, author in readings.items() if author == asking.person), None)
    if stage in (Stage.RETURNED, Stage.SUBMITTED, Stage.APPROVED) and own is None:
        tag = FINAL
    else:
        tag = Tag(own) if own is not None else submit_tag(readers, {*readings, *(row[0] for row in held)})
    length = workflow.quiet_lease_s if asking.quiet else workflow.lease_s
    lease = Lease(
        secrets.token_urlsafe(24),
        image_id,
        asking.person,
        tag,
        asking.strategy,
        offer.reason,
        offer.roi,
        readers,
        now,
        now + length,
        length,
    )
    connection.execute("DELETE FROM skips WHERE image_id = ? AND person = ?", (image_id, asking.person))
    connection.execute("DELETE FROM leases WHERE image_id = ? AND +person = ?", (image_id, asking.person))
    put_lease(connection, lease)
    return lease


_TO_REVIEW = "SELECT COUNT(*) FROM images WHERE state = 'present' AND stage = 'submitted'"


def _no_work(connection: sqlite3.Connection, offered: Offered) -> NoWork:
    values = offered.params()
    leased, free_ts = connection.execute(
        "SELECT COUNT(DISTINCT images.id), MIN(until_ts) FROM leases JOIN images ON images.id = leases.image_id "
        f"WHERE until_ts > :now AND person <> :person AND images.open = 1 AND {offered.mine} AND NOT EXISTS ("
        f"SELECT 1 FROM labels WHERE labels.image_id = images.id AND shown = 1 AND tag {IS_READING} "
        f"AND {FIRST_AUTHOR} = :person)",
        values,
    ).fetchone()
    to_review = connection.execute(
        _TO_REVIEW if offered.workflow.approved_only else f"{_TO_REVIEW} AND waiting = 1"
    ).fetchone()[0]
    skipped = connection.execute(
        "SELECT COUNT(*) FROM skips JOIN images ON images.id = image_id WHERE person = ? AND open = 1",
        (offered.person,),
    ).fetchone()[0]
    flagged = connection.execute("SELECT COUNT(*) FROM flags").fetchone()[0]
    why = EndOfWork.ALL_LEASED if leased else EndOfWork.NEEDS_REVIEW if to_review else EndOfWork.NOTHING_LEFT
    return NoWork(why, int(leased), int(to_review), int(skipped), int(flagged), free_ts)

"""The time log: who worked how long on which image, from signs of life.

Signs are collected in memory and written once a second (`flush`), so that a click does not wait for the disk; a crash
loses a second of them. A piece of work begins when an image is leased, opened or drawn on and ends, in the transaction
that accepts it, with a submitted label. What a proposal was worth is measured afterwards (`to_measure`).
"""
# ruff: noqa: S608  statements are put together from constants alone; what people wrote is bound

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from labelserver.datastore.index import Index
from labelserver.domain.effort import LONGEST_GAP_S, Piece, Proposal, Sign
from labelserver.domain.ids import FINAL, ORIGINAL, ImageId
from labelserver.domain.labels import Revision
from labelserver.domain.work import reader_number

_COLUMNS = (
    "number, image_id, person, opened_ts, edited_ts, submitted_ts, active_s, prompts, tag, revision, model, "
    "model_version, proposal_tag, proposal_revision, voxels_changed, voxels, proposal_dice"
)

#: Signs by which a piece of work begins.
_BEGINS = frozenset((Sign.OPEN, Sign.EDIT, Sign.PROPOSAL))


@dataclass(frozen=True, slots=True)
class Noted:
    """A sign of life. Without an image it is about the one that the person was last seen with."""

    person: str
    sign: Sign
    ts: float
    image_id: str = ""
    proposal: Proposal | None = None


class TimeLog:
    """The time log of one store."""

    def __init__(self, index: Index, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._clock = clock
        self._guard = threading.Lock()
        self._waiting: list[Noted] = []

    def note(
        self, person: str, sign: Sign, image_id: str = "", *, ts: float | None = None, proposal: Proposal | None = None
    ) -> None:
        """Remember a sign of life until the next `flush`. Never blocks."""
        noted = Noted(person, sign, self._clock() if ts is None else ts, image_id, proposal)
        with self._guard:
            self._waiting.append(noted)

    def flush(self) -> None:
        """Write what was noted."""
        with self._guard:
            noted, self._waiting = self._waiting, []
        if noted:
            with self._index.writing(relaxed=True) as connection:
                for one in sorted(noted, key=lambda n: n.ts):
                    _write(connection, one)

    def submitted(self, connection: sqlite3.Connection, revision: Revision) -> None:
        """Inside the transaction that accepts a label: its piece of work, if there is one, is done."""
        if revision.tag != FINAL and reader_number(revision.tag) is None:
            return
        person, image_id = revision.provenance.person, revision.image_id
        with self._guard:
            own = [n for n in self._waiting if n.person == person and n.image_id in ("", image_id)]
            self._waiting = [n for n in self._waiting if n not in own]
        for one in sorted(own, key=lambda n: n.ts):
            _write(connection, one)
        number = _open_piece(connection, person, image_id)
        if number is None:
            return
        told = revision.info.get("prompts")
        prompts = told.get("count") if isinstance(told, dict) else 0
        _seen(connection, number, revision.created_ts)
        connection.execute(
            "UPDATE time_log SET submitted_ts = ?, tag = ?, revision = ?, prompts = MAX(prompts, ?), "
            "model = CASE WHEN model = '' THEN ? ELSE model END, "
            "model_version = CASE WHEN model_version = '' THEN ? ELSE model_version END WHERE number = ?",
            (
                revision.created_ts,
                revision.tag,
                revision.number,
                prompts if isinstance(prompts, int) else 0,
                revision.provenance.model,
                revision.provenance.model_version,
                number,
            ),
        )

    def pieces(
        self,
        *,
        image_id: str = "",
        person: str = "",
        model: str = "",
        submitted: bool | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[Piece]:
        """In the order in which they began, from number `after` + 1 on; those that fit all that is named."""
        self.flush()
        conditions, values = ["number > ?"], [after]
        named: list[str | int] = list(values)
        for column, value in (("image_id", image_id), ("person", person), ("model", model)):
            if value:
                conditions.append(f"{column} = ?")
                named.append(value)
        if submitted is not None:
            conditions.append(f"submitted_ts IS {'NOT' if submitted else ''} NULL")
        with self._index.reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM time_log WHERE {' AND '.join(conditions)} ORDER BY number LIMIT ?",
                (*named, limit),
            ).fetchall()
        return [_piece(row) for row in rows]

    def to_measure(self, limit: int = 20) -> list[Piece]:
        """Submitted pieces whose proposal was not compared with the label yet."""
        with self._index.reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM time_log WHERE submitted_ts IS NOT NULL AND measured = 0 "
                "ORDER BY number LIMIT ?",
                (limit,),
            ).fetchall()
        return [_piece(row) for row in rows]

    def measured(self, number: int, changed: int | None, voxels: int | None, dice: float | None) -> None:
        """Note what a comparison found; None where nothing can be compared."""
        with self._index.writing(relaxed=True) as connection:
            connection.execute(
                "UPDATE time_log SET measured = 1, voxels_changed = ?, voxels = ?, proposal_dice = ? WHERE number = ?",
                (changed, voxels, dice, number),
            )

    def open_piece(self, person: str, image_id: str) -> int | None:
        """The number of the person's unfinished work on the image; None if there is none."""
        self.flush()
        with self._index.reading() as connection:
            return _open_piece(connection, person, image_id)


def _open_piece(connection: sqlite3.Connection, person: str, image_id: str) -> int | None:
    row = connection.execute(
        "SELECT number FROM time_log WHERE image_id = ? AND person = ? AND submitted_ts IS NULL "
        "ORDER BY number DESC LIMIT 1",
        (image_id, person),
    ).fetchone()
    return None if row is None else int(row[0])


def _last_seen(connection: sqlite3.Connection, person: str) -> tuple[int, str] | None:
    row = connection.execute(
        "SELECT time_log.number, time_log.image_id FROM leases JOIN time_log ON time_log.image_id = leases.image_id "
        "AND time_log.person = leases.person WHERE leases.person = ? AND submitted_ts IS NULL "
        "ORDER BY seen_ts DESC LIMIT 1",
        (person,),
    ).fetchone()
    return None if row is None else (int(row[0]), str(row[1]))


def _write(connection: sqlite3.Connection, noted: Noted) -> None:
    if noted.image_id:
        number = _open_piece(connection, noted.person, noted.image_id)
        if number is None and noted.sign in _BEGINS:
            number = _begin(connection, noted)
    else:
        last = _last_seen(connection, noted.person)
        number = last[0] if last is not None else None
    if number is None:
        return
    _seen(connection, number, noted.ts)
    if noted.sign is Sign.EDIT:
        first = "UPDATE time_log SET edited_ts = COALESCE(edited_ts, ?) WHERE number = ?"
        connection.execute(first, (noted.ts, number))
    if noted.sign is Sign.PROMPT:
        connection.execute("UPDATE time_log SET prompts = prompts + 1 WHERE number = ?", (number,))
    if noted.proposal is not None:
        proposal = noted.proposal
        connection.execute(
            "UPDATE time_log SET model = ?, model_version = ?, proposal_tag = ?, proposal_revision = ? "
            "WHERE number = ? AND edited_ts IS NULL",
            (proposal.model, proposal.version, proposal.tag, proposal.revision, number),
        )


def _begin(connection: sqlite3.Connection, noted: Noted) -> int | None:
    """A new piece of work; an ``original`` label that is there is its proposal."""
    row = connection.execute("SELECT 1 FROM images WHERE id = ? AND state = 'present'", (noted.image_id,)).fetchone()
    if row is None:
        return None
    there = connection.execute(
        "SELECT current, model, model_version FROM labels JOIN revisions ON revisions.image_id = labels.image_id "
        "AND revisions.tag = labels.tag AND revisions.number = labels.current "
        "WHERE labels.image_id = ? AND labels.tag = ? AND shown = 1",
        (noted.image_id, ORIGINAL),
    ).fetchone()
    revision, model, version = there if there is not None else (None, "", "")
    made = connection.execute(
        "INSERT INTO time_log (image_id, person, opened_ts, seen_ts, model, model_version, proposal_tag, "
        "proposal_revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            noted.image_id,
            noted.person,
            noted.ts,
            noted.ts,
            model or ("unknown" if revision is not None else ""),
            version,
            ORIGINAL if revision is not None else "",
            revision,
        ),
    )
    return made.lastrowid


def _seen(connection: sqlite3.Connection, number: int, ts: float) -> None:
    """Time since the last sign counts unless it is too long, or signs come in the wrong order."""
    connection.execute(
        "UPDATE time_log SET active_s = active_s + CASE WHEN :ts - seen_ts BETWEEN 0 AND :gap THEN :ts - seen_ts "
        "ELSE 0 END, seen_ts = MAX(seen_ts, :ts) WHERE number = :number",
        {"ts": ts, "gap": LONGEST_GAP_S, "number": number},
    )


def _piece(row: tuple[object, ...]) -> Piece:
    (
        number,
        image_id,
        person,
        opened,
        edited,
        submitted,
        active,
        prompts,
        tag,
        revision,
        model,
        version,
        proposal_tag,
        proposal_revision,
        changed,
        voxels,
        dice,
    ) = row
    proposal = None
    if model:
        told = _int(proposal_revision)
        proposal = Proposal(str(model), str(version), str(proposal_tag), told)
    return Piece(
        number=int(str(number)),
        image_id=ImageId(str(image_id)),
        person=str(person),
        opened_ts=float(str(opened)),
        edited_ts=_float(edited),
        submitted_ts=_float(submitted),
        active_s=float(str(active)),
        prompts=int(str(prompts)),
        tag=str(tag),
        revision=_int(revision),
        proposal=proposal,
        voxels_changed=_int(changed),
        voxels=_int(voxels),
        proposal_dice=_float(dice),
    )


def _int(value: object) -> int | None:
    return None if value is None else int(str(value))


def _float(value: object) -> float | None:
    return None if value is None else float(str(value))

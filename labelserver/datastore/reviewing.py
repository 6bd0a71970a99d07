"""Reviews of labels and flags of images.

A review is about one revision and is never changed; the newest one of the current revision counts, and a new revision
begins without any. Each is also a small file beside its revision (``<n>.review-<when>.json``), written before the index
commits, so that it outlives the index. Flags live in the index and its backups.
"""
# ruff: noqa: S608  statements are put together from constants alone; what people wrote is bound

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from labelserver.datastore import audit
from labelserver.datastore.image_rows import present_image
from labelserver.datastore.index import Index
from labelserver.datastore.label_rows import label_row, revision_of
from labelserver.datastore.layout import Layout
from labelserver.datastore.work_schema import FIRST_AUTHOR, IS_READING, VERDICT_OF_LABEL
from labelserver.domain.errors import (
    BlindReading,
    InvalidId,
    InvalidParams,
    LabelChanged,
    LabelNotFound,
    NotYourRole,
)
from labelserver.domain.ids import FINAL, ImageId, Tag, parse_image_id, parse_tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import Revision
from labelserver.domain.work import Flag, Review, ReviewItem, Stage, Verdict, Workflow, reader_number
from labelserver.storage import atomic

#: items of a page
MAX_ITEMS = 1000

_AUTHOR = f"""(CASE labels.tag WHEN 'final' THEN (SELECT revisions.person FROM revisions
    WHERE revisions.image_id = labels.image_id AND revisions.tag = labels.tag
    AND revisions.number = labels.current) ELSE {FIRST_AUTHOR} END)"""


class Reviews:
    """Reviews and flags of one store."""

    def __init__(self, layout: Layout, index: Index, workflow: Callable[[], Workflow]) -> None:
        self._layout = layout
        self._index = index
        self._workflow = workflow

    def review(
        self, image_id: ImageId, tag: Tag, verdict: Verdict, comment: str, person: str, revision: int | None = None
    ) -> Review:
        """Say of the current revision that it is good, or what must be done again.

        Args:
            image_id: whose label.
            tag: ``final`` or a reading.
            verdict: approved or returned; the latter needs a comment.
            comment: for whoever drew it.
            person: who says so.
            revision: that was looked at; None: the current one, whichever it is.

        Raises:
            LabelNotFound: there is no such label.
            InvalidParams: another tag, or a return without a comment.
            NotYourRole: the project names other people as reviewers, or it is the person's own label.
            BlindReading: the person has yet to read the image himself.
            LabelChanged: the current revision is another one.
        """
        if tag != FINAL and reader_number(tag) is None:
            raise InvalidParams(f"Labels under 'final' and 'reader_<i>' are reviewed, not those under {tag!r}.")
        if verdict is Verdict.RETURNED and not comment.strip():
            raise InvalidParams("Say in 'comment' what must be done again, so that whoever drew it knows.")
        rules = self._workflow()
        if not rules.reviews(person):
            raise NotYourRole("In this project only people with the role 'reviewer' review. Ask one of them.")
        with self._index.reading() as connection:
            current = _current(connection, image_id, tag)
            if not may_see(connection, rules, image_id, tag, person, time.time()):
                raise BlindReading("You have yet to read this image yourself; submit your own label first.")
            author = _author(connection, image_id, tag)
        if rules.names_reviewers and not rules.self_review and author == person:
            raise NotYourRole("You drew this label, so another reviewer must look at it (rule 'self_review').")
        if revision is not None and revision != current.number:
            raise LabelChanged(
                f"You looked at revision {revision}; the current one is {current.number}. Look at that one.",
                number=current.number,
            )
        made = Review(image_id, tag, current.number, person, verdict, comment.strip(), round(time.time(), 3))
        path = self._write(made)
        try:
            with self._index.writing() as connection:
                if _current(connection, image_id, tag).number != current.number:
                    raise LabelChanged(
                        "Somebody saved this label while you reviewed it. Look at it again.", number=current.number
                    )
                insert(connection, made)
                detail: JsonObject = {"verdict": verdict.value, "comment": made.comment}
                act = audit.Act("review", person, image_id, tag, current.number, detail)
                audit.record(connection, act)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return made

    def _write(self, review: Review) -> Path:
        folder = self._layout.revision_folder(review.image_id, review.tag)
        path = folder / f"{review.revision}.review-{time.time_ns()}.json"
        atomic.write_json(
            path,
            {
                "image": review.image_id,
                "tag": review.tag,
                "revision": review.revision,
                "person": review.person,
                "verdict": review.verdict.value,
                "comment": review.comment,
                "created_ts": review.created_ts,
            },
        )
        return path

    def of_label(self, image_id: ImageId, tag: Tag) -> list[Review]:
        """Of all its revisions, oldest first."""
        with self._index.reading() as connection:
            rows = connection.execute(f"{_REVIEWS} WHERE image_id = ? AND tag = ? ORDER BY number", (image_id, tag))
            return [_review(row) for row in rows]

    def items(
        self, stage: Stage | None, person: str | None, viewer: str, after: str = "", limit: int = 100
    ) -> tuple[list[ReviewItem], str]:
        """A page of labels that were submitted, by image and tag: those in `stage`, drawn by `person`.

        Readings that `viewer` must not see yet are left out. Returns the page and what to send as `after` for the next.
        """
        image_id, _, tag = after.rpartition("\n")
        conditions = [
            "labels.shown = 1",
            f"(tag = 'final' OR tag {IS_READING})",
            "(labels.image_id, labels.tag) > (:image, :tag)",
        ]
        named: dict[str, str | int] = {"limit": limit + 1, "image": image_id, "tag": tag}
        if stage is not None:
            conditions.append(f"COALESCE({VERDICT_OF_LABEL}, 'submitted') = :stage")
            named["stage"] = stage.value
        if person is not None:
            conditions.append(f"{_AUTHOR} = :person")
            named["person"] = person
        with self._index.reading() as connection:
            rules, now = self._workflow(), time.time()
            rows = connection.execute(
                f"SELECT labels.image_id, labels.tag, labels.current, {_AUTHOR} FROM labels "
                f"WHERE {' AND '.join(conditions)} ORDER BY labels.image_id, labels.tag LIMIT :limit",
                named,
            ).fetchall()
            found = [
                _item(connection, *row)
                for row in rows[:limit]
                if may_see(connection, rules, ImageId(row[0]), Tag(row[1]), viewer, now)
            ]
        return found, "\n".join(rows[limit - 1][:2]) if len(rows) > limit else ""

    def may_see(self, image_id: ImageId, tag: Tag, person: str) -> bool:
        """See `may_see` below."""
        with self._index.reading() as connection:
            return may_see(connection, self._workflow(), image_id, tag, person, time.time())

    def hidden_from(self, person: str) -> frozenset[tuple[str, str]]:
        """(image, tag) of all labels that this person must not see now."""
        with self._index.reading() as connection:
            rules, now = self._workflow(), time.time()
            rows = connection.execute(
                f"SELECT image_id, tag FROM labels WHERE shown = 1 AND (tag {IS_READING} OR (tag = 'final' AND EXISTS ("
                "SELECT 1 FROM leases WHERE leases.image_id = labels.image_id AND +person = ?)))",
                (person,),
            ).fetchall()
            return frozenset(
                (image_id, tag)
                for image_id, tag in rows
                if not may_see(connection, rules, ImageId(image_id), Tag(tag), person, now)
            )

    def flag(self, image_id: ImageId, person: str, reason: str) -> Flag:
        """Take the image out of the queue. A flag that is there is replaced. Raises `ImageNotFound`."""
        made = Flag(image_id, person, reason, round(time.time(), 3))
        with self._index.writing() as connection:
            present_image(connection, image_id)
            connection.execute("DELETE FROM flags WHERE image_id = ?", (image_id,))
            connection.execute("INSERT INTO flags VALUES (?, ?, ?, ?)", (image_id, person, reason, made.created_ts))
            connection.execute("DELETE FROM leases WHERE image_id = ? AND +person = ?", (image_id, person))
            audit.record(connection, audit.Act("flag", person, image_id, detail={"reason": reason}))
        return made

    def unflag(self, image_id: ImageId, person: str) -> None:
        """Let the image be given to people again. Nothing happens if it has no flag. Raises `ImageNotFound`."""
        with self._index.writing() as connection:
            present_image(connection, image_id)
            if connection.execute("DELETE FROM flags WHERE image_id = ?", (image_id,)).rowcount:
                audit.record(connection, audit.Act("unflag", person, image_id))


def may_see(
    connection: sqlite3.Connection, rules: Workflow, image_id: ImageId, tag: Tag, person: str, now: float
) -> bool:
    """May this person fetch this label now?

    Readings are blind: until somebody has submitted his own he sees no other, and who is no reader sees them once all
    are there, or as a named reviewer. A reader who has yet to submit does not see ``final`` either.
    """
    reading = reader_number(tag) is not None
    if not reading and tag != FINAL:
        return True
    row = connection.execute("SELECT readers FROM images WHERE id = ?", (image_id,)).fetchone()
    if row is None or (row[0] < 2 and not reading):
        return True
    authors = dict(
        connection.execute(
            f"SELECT tag, {FIRST_AUTHOR} FROM labels WHERE image_id = ? AND shown = 1 AND tag {IS_READING}", (image_id,)
        ).fetchall()
    )
    if person in authors.values():
        return True
    pending = connection.execute(
        "SELECT 1 FROM leases WHERE image_id = ? AND +person = ? AND until_ts > ? AND tag LIKE 'reader%'",
        (image_id, person, now),
    ).fetchone()
    if pending is not None:
        return False
    return not reading or rules.is_named_reviewer(person) or len(authors) >= int(row[0])


def stored_reviews(layout: Layout) -> Iterator[Review]:
    """What the files beside the revisions say; damaged ones are left out."""
    if not layout.revisions.is_dir():
        return
    for path in sorted(layout.revisions.glob("*/*/*.review-*.json")):
        try:
            told = json.loads(path.read_bytes())
            yield Review(
                parse_image_id(told["image"]),
                parse_tag(told["tag"]),
                int(told["revision"]),
                str(told["person"]),
                Verdict(told["verdict"]),
                str(told["comment"]),
                float(told["created_ts"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidId):
            continue


def insert(connection: sqlite3.Connection, review: Review) -> None:
    """Unless the very same is there."""
    connection.execute(
        "INSERT INTO reviews (image_id, tag, revision, person, verdict, comment, created_ts) "
        "SELECT :image, :tag, :revision, :person, :verdict, :comment, :ts WHERE NOT EXISTS (SELECT 1 FROM reviews "
        "WHERE image_id = :image AND tag = :tag AND revision = :revision AND person = :person AND created_ts = :ts)",
        {
            "image": review.image_id,
            "tag": review.tag,
            "revision": review.revision,
            "person": review.person,
            "verdict": review.verdict.value,
            "comment": review.comment,
            "ts": review.created_ts,
        },
    )


_REVIEWS = "SELECT image_id, tag, revision, person, verdict, comment, created_ts FROM reviews"


def _review(row: tuple[object, ...]) -> Review:
    image_id, tag, revision, person, verdict, comment, created = row
    return Review(
        ImageId(str(image_id)),
        Tag(str(tag)),
        int(str(revision)),
        str(person),
        Verdict(str(verdict)),
        str(comment),
        float(str(created)),
    )


def _item(connection: sqlite3.Connection, image_id: str, tag: str, number: int, author: str | None) -> ReviewItem:
    row = connection.execute(
        f"{_REVIEWS} WHERE image_id = ? AND tag = ? AND revision = ? ORDER BY number DESC LIMIT 1",
        (image_id, tag, number),
    ).fetchone()
    newest = _review(row) if row is not None else None
    revision = revision_of(connection, image_id, tag, number)
    stage = Stage(newest.verdict.value) if newest is not None else Stage.SUBMITTED
    submitted_ts = revision.created_ts if revision is not None else 0.0
    return ReviewItem(ImageId(image_id), Tag(tag), number, author or "", submitted_ts, stage, newest)


def _current(connection: sqlite3.Connection, image_id: ImageId, tag: Tag) -> Revision:
    row = label_row(connection, image_id, tag)
    revision = revision_of(connection, image_id, tag, row.current) if row is not None and row.active else None
    if revision is None:
        raise LabelNotFound(f"The image {image_id!r} has no label under the tag {tag!r}.")
    return revision


def _author(connection: sqlite3.Connection, image_id: ImageId, tag: Tag) -> str:
    row = connection.execute(f"SELECT {_AUTHOR} FROM labels WHERE image_id = ? AND tag = ?", (image_id, tag)).fetchone()
    return str(row[0] or "")

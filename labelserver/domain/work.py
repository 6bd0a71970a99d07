"""The work of several people on one store: who has which image, what came of it, and by which rules.

An image goes *unlabeled -> draft -> submitted -> approved*, or *returned* to whoever drew it; one that somebody found
fault with is *flagged* and waits outside the queue. A *lease* gives an image to one person for a while.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from labelserver.domain.errors import InvalidParams
from labelserver.domain.ids import FINAL, ImageId, Tag
from labelserver.domain.json_types import JsonObject

#: Tags of the separate readings of an image that several people get: reader_1, reader_2, ...
READER = re.compile(r"^reader_([1-9][0-9]*)$")

#: The role whose people review; the only one that this server itself gives a meaning.
REVIEWER = "reviewer"

#: people that one image can be given to
MAX_READERS = 9


class Stage(StrEnum):
    """How far an image is."""

    UNLABELED = "unlabeled"
    DRAFT = "draft"  #: somebody has it now, or some of its readers have submitted
    SUBMITTED = "submitted"  #: its label, or all of its readings, wait for a review
    APPROVED = "approved"
    RETURNED = "returned"  #: a reviewer wants it done again
    FLAGGED = "flagged"  #: something is wrong with the image; nobody is given it


class Verdict(StrEnum):
    """What a reviewer says about one revision."""

    APPROVED = "approved"
    RETURNED = "returned"


class Withheld(StrEnum):
    """Why trainings do not learn from a label that is there."""

    RETURNED = "returned"  #: a reviewer wants it done again
    UNAPPROVED = "unapproved"  #: the project learns from approved labels alone, and nobody has approved it yet
    FLAGGED = "flagged"  #: something is wrong with its image


class EndOfWork(StrEnum):
    """Why somebody gets no image."""

    NOTHING_LEFT = "nothing_left"  #: everything that this person may be given is done
    ALL_LEASED = "all_leased"  #: others have what is left; some may come back
    NEEDS_REVIEW = "needs_review"  #: nothing is left to draw, and some images wait for a reviewer


@dataclass(frozen=True, slots=True)
class Lease:
    """An image that is somebody's until `until_ts`. `tag`: under which what he submits is stored."""

    lease_id: str
    image_id: ImageId
    person: str
    tag: Tag
    strategy: str
    reason: JsonObject
    roi: JsonObject | None
    readers: int  #: people who get this image
    granted_ts: float
    until_ts: float  #: Unix seconds
    length_s: float  #: what a heartbeat adds


@dataclass(frozen=True, slots=True)
class Offer:
    """What a strategy chose: the image, why, and the part of it that it asks for (a region, `domain/annotation`)."""

    image_id: ImageId
    reason: JsonObject = field(default_factory=dict)
    roi: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class NoWork:
    """There is no image for this person now."""

    why: EndOfWork
    leased: int  #: images that others have
    to_review: int  #: images that wait for a reviewer
    skipped: int  #: images that this person skipped and nobody has done
    flagged: int
    free_ts: float | None  #: when the next lease of somebody else ends


@dataclass(frozen=True, slots=True)
class Review:
    """What somebody said about a revision."""

    image_id: ImageId
    tag: Tag
    revision: int
    person: str
    verdict: Verdict
    comment: str
    created_ts: float


@dataclass(frozen=True, slots=True)
class Flag:
    """Why an image stands outside the queue."""

    image_id: ImageId
    person: str
    reason: str
    created_ts: float


@dataclass(frozen=True, slots=True)
class ImageWork:
    """Where one image stands. `holders`: who has it now, and until when at the latest."""

    stage: Stage
    readers: int = 1
    read: int = 0  #: readings that were submitted and not returned
    holders: tuple[str, ...] = ()
    until_ts: float | None = None
    flag: Flag | None = None


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """A label that is reviewed, or was. `review`: the newest of its current revision."""

    image_id: ImageId
    tag: Tag
    revision: int
    person: str
    submitted_ts: float
    stage: Stage  #: submitted, approved or returned: of this label
    review: Review | None


@dataclass(frozen=True, slots=True)
class Member:
    """What somebody may do and is given."""

    person: str
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Group:
    """Images that only some people are given, and the labels that they draw there.

    `images` are shell patterns over image ids, whose ``*`` also stands for "/". People belong to it by name
    (`Member.groups`) or by one of `roles`.
    """

    name: str
    images: tuple[str, ...]
    labels: tuple[str, ...] = ()
    roles: frozenset[str] = frozenset()

    def holds(self, image_id: str) -> bool:
        return any(fnmatch.fnmatchcase(image_id, pattern) for pattern in self.images)


@dataclass(frozen=True, slots=True)
class Workflow:
    """The project's rules of work.

    Raises:
        InvalidParams: numbers out of range, a pattern that is none, groups or names given twice.
    """

    overlap_share: float = 0.05  #: of the images, given to several people on purpose
    overlap_readers: int = 2  #: how many people these are
    lease_s: float = 600.0  #: seconds that a lease lasts after a heartbeat
    quiet_lease_s: float = 7200.0  #: seconds that one lasts which a client got that knows no heartbeats
    approved_only: bool = False  #: trainings use approved labels alone
    self_review: bool = False  #: people may review what they submitted
    strategy: str = ""  #: that the queue asks where the caller names none; "": the app's default
    members: tuple[Member, ...] = ()
    groups: tuple[Group, ...] = ()
    version: int = 0

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidParams(f"{name} is {value:g}; it must be between {low:g} and {high:g}.")
        for what, names in (("person", [m.person for m in self.members]), ("group", [g.name for g in self.groups])):
            twice = sorted({name for name in names if names.count(name) > 1 or not name})
            if twice:
                raise InvalidParams(f"Each {what} needs a name of its own; {twice[0]!r} is empty or given twice.")
        known = {group.name for group in self.groups}
        for member in self.members:
            if not member.groups <= known:
                missing = sorted(member.groups - known)[0]
                raise InvalidParams(f"{member.person} is in the group {missing!r}, which is not described in 'groups'.")
        for group in self.groups:
            if not group.images or not all(group.images):
                raise InvalidParams(f"The group {group.name!r} needs at least one pattern of image ids in 'images'.")

    @property
    def heartbeat_s(self) -> float:
        """How often a client should say that it still has the image: four times during a lease, once a minute."""
        return min(60.0, self.lease_s / 4)

    @property
    def names_reviewers(self) -> bool:
        return any(REVIEWER in member.roles for member in self.members)

    def reviews(self, person: str) -> bool:
        """May this person review? Everybody, as long as nobody has the role."""
        return not self.names_reviewers or REVIEWER in self.member(person).roles

    def is_named_reviewer(self, person: str) -> bool:
        return REVIEWER in self.member(person).roles

    def member(self, person: str) -> Member:
        return next((member for member in self.members if member.person == person), Member(person))

    def groups_of(self, person: str) -> tuple[Group, ...]:
        member = self.member(person)
        return tuple(g for g in self.groups if g.name in member.groups or member.roles & g.roles)

    def labels_for(self, person: str, image_id: str) -> tuple[str, ...]:
        """Names of the labels that this person draws in this image; none: all."""
        found = dict.fromkeys(name for g in self.groups_of(person) if g.holds(image_id) for name in g.labels)
        return tuple(found)

    def readers_of(self, image_id: str, key: bytes) -> int:
        """How many people get this image: a keyed hash of its id decides, so that nobody can guess it."""
        if self.overlap_readers < 2:
            return 1
        digest = hashlib.blake2b(image_id.encode(), key=key[:64], digest_size=8, person=b"ls-reader").digest()
        return self.overlap_readers if int.from_bytes(digest, "big") / 2.0**64 < self.overlap_share else 1


_RANGES = (
    ("overlap_share", 0.0, 1.0),
    ("overlap_readers", 1, MAX_READERS),
    ("lease_s", 1.0, 30 * 86400.0),
    ("quiet_lease_s", 1.0, 30 * 86400.0),
)


def reader_tag(number: int) -> Tag:
    """``reader_1`` for the first."""
    return Tag(f"reader_{number}")


def reader_number(tag: str) -> int | None:
    """The inverse; None for other tags."""
    found = READER.match(tag)
    return int(found.group(1)) if found is not None else None


def free_reader(taken: Collection[str]) -> Tag:
    """The first reader tag that is not in `taken`."""
    return next(tag for number in range(1, len(taken) + 2) if (tag := reader_tag(number)) not in taken)


def submit_tag(readers: int, taken: Collection[str]) -> Tag:
    """Under which somebody's label of an image that `readers` people get is stored."""
    return FINAL if readers < 2 else free_reader(taken)

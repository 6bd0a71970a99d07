"""The work queue on the new routes: who gets which image for how long, and why. Times are Unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.work import EndOfWork, Group, Lease, Member, NoWork, Workflow
from labelserver.wire.images import Image


class NextAsked(BaseModel):
    """Which image somebody wants. The person is who calls (``X-Labelserver-Person``, cookie, ``client_id``)."""

    model_config = ConfigDict(extra="forbid")

    strategy: str = Field(default="", max_length=200, description="Of /info/; empty: the project's, else the app's.")
    resume: bool = Field(default=True, description="First of all, the image that the caller has already.")
    again: bool = Field(default=False, description="Also images that the caller skipped.")
    params: dict[str, Any] = Field(default_factory=dict, description="Options of the strategy.")


class LeaseGiven(BaseModel):
    """An image is the caller's until `expires_at`; each heartbeat starts the time anew."""

    id: str = Field(description="Unguessable; heartbeat, release and skip name it.")
    image: str
    person: str
    tag: str = Field(description="Where the caller's label will be stored: final, or reader_<i> of several readers.")
    readers: int = Field(description="How many people get this image.")
    granted_at: float
    expires_at: float
    expires: str = Field(description="The same as ISO 8601 in UTC.")
    lease_s: float
    heartbeat_s: float = Field(description="Send a heartbeat about so often.")

    @classmethod
    def from_domain(cls, lease: Lease) -> Self:
        return cls(
            id=lease.lease_id,
            image=lease.image_id,
            person=lease.person,
            tag=lease.tag,
            readers=lease.readers,
            granted_at=lease.granted_ts,
            expires_at=lease.until_ts,
            expires=datetime.fromtimestamp(lease.until_ts, tz=UTC).isoformat(timespec="seconds"),
            lease_s=lease.length_s,
            heartbeat_s=min(60.0, lease.length_s / 4),
        )


class Reason(BaseModel):
    """Why this image: the strategy, a sentence, and what the strategy said beyond that (scores, ranks)."""

    strategy: str
    why: str
    details: dict[str, Any] = Field(default_factory=dict)


class GivenImage(BaseModel):
    """The next image, leased to the caller.

    `roi`, where there is one, is the part that is asked for, a region as in a revision's `annotated`; send it back as
    `annotated` with the label. `labels`: names of what the caller draws here; empty: all.
    """

    status: Literal["image"] = "image"
    image: Image
    lease: LeaseGiven
    reason: Reason
    roi: dict[str, Any] | None = None
    roi_on_grid: dict[str, Any] | None = Field(default=None, description="The same in voxels of the RAS+ grid.")
    labels: list[str] = Field(default_factory=list)
    resumed: bool = Field(default=False, description="The caller had it already.")
    returned: dict[str, Any] | None = Field(
        default=None, description="A reviewer wants this label done again: tag, revision and comment."
    )


class NoImage(BaseModel):
    """There is none, and why. ``all_leased``: ask again after `retry_after_s`; ``needs_review``: reviewers must act."""

    status: EndOfWork
    message: str
    leased: int = Field(description="Images that others have.")
    to_review: int = Field(description="Images that wait for a reviewer.")
    skipped: int = Field(description="Images that the caller skipped; send again=true to get them.")
    flagged: int = Field(description="Images that somebody flagged.")
    retry_after_s: float | None = Field(default=None, description="When the next lease of somebody else ends.")

    @classmethod
    def from_domain(cls, none: NoWork, now: float) -> Self:
        return cls(
            status=none.why,
            message=_sentence(none),
            leased=none.leased,
            to_review=none.to_review,
            skipped=none.skipped,
            flagged=none.flagged,
            retry_after_s=max(1.0, none.free_ts - now) if none.free_ts is not None else None,
        )


def _sentence(none: NoWork) -> str:
    skipped = f" You skipped {none.skipped}; ask with again=true to get them." if none.skipped else ""
    match none.why:
        case EndOfWork.ALL_LEASED:
            said = f"Others have the images that are left ({none.leased}). Ask again later: some may come back."
        case EndOfWork.NEEDS_REVIEW:
            said = f"Nothing is left to draw. {none.to_review} images wait for a reviewer."
        case EndOfWork.NOTHING_LEFT:
            said = "Nothing is left for you: every image that you may be given is done."
    return said + skipped


class SkipAsked(BaseModel):
    """Why somebody does not want this image."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=2000)


class FlagAsked(BaseModel):
    """What is wrong with the image."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=2000)


class LeaseList(BaseModel):
    """Leases in force. The ids of other people's are left out."""

    leases: list[dict[str, Any]]


class Person(BaseModel):
    """Somebody's roles and groups. The role ``reviewer`` reviews; others only assign groups."""

    model_config = ConfigDict(extra="forbid")

    person: str = Field(min_length=1, max_length=120)
    roles: list[str] = Field(default_factory=list)
    groups: list[str] = Field(default_factory=list)


class LabelGroup(BaseModel):
    """Images that only some people are given, and the labels that they draw there."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=120)
    images: list[str] = Field(min_length=1, description='Shell patterns over image ids; "*" also stands for "/".')
    labels: list[str] = Field(default_factory=list, description="Names of labels; empty: all.")
    roles: list[str] = Field(default_factory=list, description="Everybody of one of these roles belongs to it.")


class WorkRules(BaseModel):
    """The project's rules of work. Send back what you read, changed; `based_on` guards against a lost change."""

    model_config = ConfigDict(extra="forbid")

    overlap_share: float = Field(default=0.05, ge=0, le=1, description="Share of images that several people get.")
    overlap_readers: int = Field(default=2, ge=1, le=9, description="How many people get such an image.")
    lease_s: float = Field(default=600, ge=1, description="Seconds that a lease lasts after a heartbeat.")
    quiet_lease_s: float = Field(default=7200, ge=1, description="The same for clients that know no heartbeats.")
    approved_only: bool = Field(default=False, description="Trainings use approved labels alone.")
    self_review: bool = Field(default=False, description="People may review what they submitted.")
    strategy: str = Field(default="", max_length=200, description="Asked by default; empty: the app's default.")
    members: list[Person] = Field(default_factory=list)
    groups: list[LabelGroup] = Field(default_factory=list)
    version: int = 0
    based_on: int | None = Field(default=None, description="The version that was changed; another one in force: 409.")

    def to_domain(self) -> Workflow:
        """Raises `InvalidParams`."""
        return Workflow(
            overlap_share=self.overlap_share,
            overlap_readers=self.overlap_readers,
            lease_s=self.lease_s,
            quiet_lease_s=self.quiet_lease_s,
            approved_only=self.approved_only,
            self_review=self.self_review,
            strategy=self.strategy,
            members=tuple(Member(m.person, frozenset(m.roles), frozenset(m.groups)) for m in self.members),
            groups=tuple(Group(g.name, tuple(g.images), tuple(g.labels), frozenset(g.roles)) for g in self.groups),
        )

    @classmethod
    def from_domain(cls, rules: Workflow) -> Self:
        return cls(
            overlap_share=rules.overlap_share,
            overlap_readers=rules.overlap_readers,
            lease_s=rules.lease_s,
            quiet_lease_s=rules.quiet_lease_s,
            approved_only=rules.approved_only,
            self_review=rules.self_review,
            strategy=rules.strategy,
            members=[Person(person=m.person, roles=sorted(m.roles), groups=sorted(m.groups)) for m in rules.members],
            groups=[
                LabelGroup(name=g.name, images=list(g.images), labels=list(g.labels), roles=sorted(g.roles))
                for g in rules.groups
            ],
            version=rules.version,
        )

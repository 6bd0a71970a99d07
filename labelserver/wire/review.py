"""Reviews on the new routes. Times are Unix seconds."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.work import Review, ReviewItem, Stage, Verdict


class Decision(StrEnum):
    """What a reviewer does."""

    APPROVE = "approve"
    RETURN = "return"

    @property
    def verdict(self) -> Verdict:
        return Verdict.APPROVED if self is Decision.APPROVE else Verdict.RETURNED


class ReviewAsked(BaseModel):
    """A decision about the current revision of a label."""

    model_config = ConfigDict(extra="forbid")

    decision: Decision
    comment: str = Field(default="", max_length=4000, description="Needed with return.")
    revision: int | None = Field(default=None, description="That was looked at; if another is current now: 412.")


class ReviewMade(BaseModel):
    """What somebody said about a revision."""

    image: str
    tag: str
    revision: int
    reviewer: str
    verdict: Verdict
    comment: str
    created_ts: float

    @classmethod
    def from_domain(cls, review: Review) -> Self:
        return cls(
            image=review.image_id,
            tag=review.tag,
            revision=review.revision,
            reviewer=review.person,
            verdict=review.verdict,
            comment=review.comment,
            created_ts=review.created_ts,
        )


class Submission(BaseModel):
    """A label that somebody submitted, and what was said about it last."""

    image: str
    tag: str
    revision: int
    person: str = Field(description="Who drew it.")
    submitted_ts: float
    state: Stage = Field(description="submitted, approved or returned.")
    review: ReviewMade | None

    @classmethod
    def from_domain(cls, item: ReviewItem) -> Self:
        return cls(
            image=item.image_id,
            tag=item.tag,
            revision=item.revision,
            person=item.person,
            submitted_ts=item.submitted_ts,
            state=item.stage,
            review=ReviewMade.from_domain(item.review) if item.review is not None else None,
        )


class SubmissionList(BaseModel):
    """A page."""

    items: list[Submission]
    next: str | None = Field(default=None, description="Send it as `after` for the next page; null on the last one.")


class ReviewList(BaseModel):
    """All reviews of a label, oldest first."""

    reviews: list[ReviewMade]


class PairShown(BaseModel):
    """Two readers about one label; distances in mm, null where one of them drew nothing."""

    first: str
    second: str
    dice: float
    surface_mm: float | None = Field(description="Mean distance between the surfaces.")
    surface95_mm: float | None = Field(description="95 % of the surface points are nearer.")
    kappa: float | None = Field(description="Cohen's; null where chance alone agrees about everything.")


class LabelShown(BaseModel):
    """All pairs of readers about one label."""

    value: int
    name: str
    mean_dice: float
    pairs: list[PairShown]


class SpotShown(BaseModel):
    """Connected voxels that the readers differ about, in voxels of the stored image."""

    voxels: int
    center: tuple[int, int, int]
    low: tuple[int, int, int]
    high: tuple[int, int, int] = Field(description="The first voxel outside.")


class ReaderShown(BaseModel):
    """A reading that was compared."""

    tag: str
    person: str
    revision: int


class AgreementShown(BaseModel):
    """How far the readers of an image agree. `differing`: share of the drawn voxels about which somebody differs."""

    image: str
    wanted: int
    readers: list[ReaderShown]
    labels: list[LabelShown]
    differing: float
    spots: list[SpotShown]


class ConsensusMethod(StrEnum):
    """How one label is made from several readings."""

    MAJORITY = "majority"
    STAPLE = "staple"
    READER = "reader"


class ConsensusAsked(BaseModel):
    """Make ``final`` from the readings."""

    model_config = ConfigDict(extra="forbid")

    method: ConsensusMethod = ConsensusMethod.MAJORITY
    tag: str = Field(default="", description="Of the reading that is right, for the method reader.")

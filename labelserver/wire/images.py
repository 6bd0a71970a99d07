"""The image list on the new routes."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from labelserver.domain.ids import parse_tag
from labelserver.domain.image_lists import ImagePage, ImageQuery, LabelState, ListedImage
from labelserver.domain.labels import ImageKind
from labelserver.domain.splits import Side
from labelserver.domain.work import ImageWork, Stage

MAX_PAGE = 1000


class ImageListQuery(BaseModel):
    """What to list. `sort` is ``id``, or the name of a number in the images' infos: then only images that have it."""

    model_config = ConfigDict(extra="forbid")

    state: LabelState = Field(LabelState.ALL, description="With or without a label under `tag`.")
    tag: str = Field("final", description="The tag that `state` is about.")
    sort: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        "id", description="id, or the name of a score such as epistemic_entropy: images that have it, best first."
    )
    lowest_first: bool = Field(False, description="Of a score, the lowest first.")
    stage: Stage | None = Field(None, description="Only images that are so far; see `Work`.")
    after: str = Field("", max_length=2000, description="`next` of the page before.")
    limit: int = Field(100, ge=1, le=MAX_PAGE)

    def to_domain(self) -> ImageQuery:
        """Raises `InvalidId` for a tag that cannot be."""
        return ImageQuery(
            state=self.state,
            tag=parse_tag(self.tag),
            stage=self.stage,
            score="" if self.sort == "id" else self.sort,
            highest_first=not self.lowest_first,
            after=self.after,
            limit=self.limit,
        )


class Work(BaseModel):
    """How far an image is: unlabeled -> draft (somebody has it) -> submitted -> approved, or returned; or flagged."""

    stage: Stage
    readers: int = Field(description="How many people get this image.")
    read: int = Field(description="Of several readers: readings that are submitted and not returned.")
    holders: list[str] = Field(description="Who has it now.")
    held_until: float | None = None
    flagged_by: str = ""
    flag_reason: str = ""
    flagged_ts: float | None = None

    @classmethod
    def from_domain(cls, work: ImageWork) -> Self:
        flag = work.flag
        return cls(
            stage=work.stage,
            readers=work.readers,
            read=work.read,
            holders=list(work.holders),
            held_until=work.until_ts,
            flagged_by=flag.person if flag is not None else "",
            flag_reason=flag.reason if flag is not None else "",
            flagged_ts=flag.created_ts if flag is not None else None,
        )


class Image(BaseModel):
    """One image; `labels` are the tags under which it has a label, in the order in which they were first saved."""

    model_config = ConfigDict(extra="ignore")

    id: str
    kind: ImageKind
    path: str = Field(description="Below the studies folder; a folder for a DICOM series.")
    name: str
    labels: list[str]
    score: float | None = Field(None, description="The number that the list is sorted by.")
    side: Side | None = Field(
        None, description="training: trainings may learn from it; held_out: they only measure themselves on it."
    )
    subject: str = Field("", description="The same for all images of a patient.")
    duplicate_of: str = Field("", description="An image seen earlier with the same voxels.")
    work: Work | None = Field(None, description="Null where the app keeps its images in a store of its own.")

    @classmethod
    def from_domain(cls, listed: ListedImage) -> Self:
        record = listed.record
        name = record.info.get("name")
        return cls(
            id=record.image_id,
            kind=record.kind,
            path=record.path,
            name=str(name) if name else record.path.rpartition("/")[2],
            labels=list(listed.tags),
            score=listed.score,
            side=listed.side.side if listed.side is not None else None,
            subject=listed.side.subject if listed.side is not None else "",
            duplicate_of=listed.side.duplicate_of if listed.side is not None else "",
            work=Work.from_domain(listed.work) if listed.work is not None else None,
        )


class ImageList(BaseModel):
    """A page."""

    images: list[Image]
    next: str | None = Field(None, description="Send it as `after` for the next page; null on the last one.")

    @classmethod
    def from_domain(cls, page: ImagePage) -> Self:
        return cls(images=[Image.from_domain(listed) for listed in page.images], next=page.after or None)

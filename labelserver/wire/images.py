"""The image list on the new routes."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from labelserver.domain.ids import parse_tag
from labelserver.domain.image_lists import ImagePage, ImageQuery, LabelState, ListedImage
from labelserver.domain.labels import ImageKind

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
    after: str = Field("", max_length=2000, description="`next` of the page before.")
    limit: int = Field(100, ge=1, le=MAX_PAGE)

    def to_domain(self) -> ImageQuery:
        """Raises `InvalidId` for a tag that cannot be."""
        return ImageQuery(
            state=self.state,
            tag=parse_tag(self.tag),
            score="" if self.sort == "id" else self.sort,
            highest_first=not self.lowest_first,
            after=self.after,
            limit=self.limit,
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
        )


class ImageList(BaseModel):
    """A page."""

    images: list[Image]
    next: str | None = Field(None, description="Send it as `after` for the next page; null on the last one.")

    @classmethod
    def from_domain(cls, page: ImagePage) -> Self:
        return cls(images=[Image.from_domain(listed) for listed in page.images], next=page.after or None)

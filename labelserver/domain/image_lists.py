"""A page of the image list: what is asked and what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from labelserver.domain.ids import FINAL, Tag
from labelserver.domain.labels import ImageRecord
from labelserver.domain.splits import ImageSide
from labelserver.domain.work import ImageWork, Stage


class LabelState(StrEnum):
    """Whether an image has a label under the tag that is asked for."""

    ALL = "all"
    LABELED = "labeled"
    UNLABELED = "unlabeled"


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """Which images, in which order, and where to go on.

    `score` names a number of the images' infos to sort by, and then only images that have it are listed; without it
    they are sorted by id. `stage` lists only images that are so far. `after` is the `ImagePage.after` of the page
    before.
    """

    state: LabelState = LabelState.ALL
    tag: Tag = FINAL
    stage: Stage | None = None
    score: str = ""
    highest_first: bool = True
    after: str = ""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image of a page. `tags` in the order in which they were first saved; `side` once it was fixed."""

    record: ImageRecord
    tags: tuple[str, ...]
    score: float | None = None
    side: ImageSide | None = None
    work: ImageWork | None = None  #: how far it is


@dataclass(frozen=True, slots=True)
class ImagePage:
    """A page; `after` is "" on the last one."""

    images: tuple[ListedImage, ...]
    after: str = ""

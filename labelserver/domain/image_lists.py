"""A page of the image list: what is asked and what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from labelserver.domain.ids import FINAL, Tag
from labelserver.domain.labels import ImageRecord


class LabelState(StrEnum):
    """Whether an image has a label under the tag that is asked for."""

    ALL = "all"
    LABELED = "labeled"
    UNLABELED = "unlabeled"


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """Which images, in which order, and where to go on.

    `score` names a number of the images' infos to sort by, and then only images that have it are listed; without it
    they are sorted by id. `after` is the `ImagePage.after` of the page before.
    """

    state: LabelState = LabelState.ALL
    tag: Tag = FINAL
    score: str = ""
    highest_first: bool = True
    after: str = ""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image of a page. `tags` in the order in which they were first saved."""

    record: ImageRecord
    tags: tuple[str, ...]
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ImagePage:
    """A page; `after` is "" on the last one."""

    images: tuple[ListedImage, ...]
    after: str = ""

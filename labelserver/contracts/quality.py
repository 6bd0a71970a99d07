"""Where findings about labels are kept until somebody looks at them. They can be found again at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from labelserver.domain.oddities import Finding


@dataclass(frozen=True, slots=True)
class FoundOddity:
    """A finding about an image's accepted label. `picture`: PNG, or empty."""

    image_id: str
    finding: Finding
    picture: bytes = b""
    number: int = 0  #: the store's; for the picture's address


@runtime_checkable
class QualityStore(Protocol):
    """A store that keeps findings. `LocalDatastore` does."""

    def quality_key(self, image_id: str) -> str:
        """What the kept findings of the image were made from; "" if there are none."""

    def put_quality(self, image_id: str, key: str, found: Sequence[FoundOddity], volumes_mm3: dict[str, float]) -> None:
        """Keep the findings about one image instead of earlier ones (but those by `put_outliers`)."""

    def put_outliers(self, found: Sequence[FoundOddity]) -> None:
        """Keep the findings that come of comparing images, instead of all earlier ones."""

    def volumes(self) -> dict[str, dict[str, float]]:
        """Image id -> label -> mm3, of what `put_quality` was given; only of images that have a label now."""

    def oddities(self, limit: int = 100, kind: str = "", image_id: str = "") -> list[FoundOddity]:
        """Findings about labels that are current, the most severe first; without pictures."""

    def oddity_picture(self, number: int) -> bytes:
        """PNG; empty if there is none."""

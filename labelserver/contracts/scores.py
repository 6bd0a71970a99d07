"""What was found out about images for strategies: scores, embeddings and small maps, and the plans made from them.

All of it can be found out again, so a store keeps it apart from what cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from labelserver.domain.json_types import JsonObject

#: Kind of the looks that no network took.
INTENSITY = "intensity"


@dataclass(frozen=True, slots=True)
class SmallMap:
    """Where in an image something is, in coarse cells along the axes of the image's file.

    Cell n of an axis of N voxels in C cells begins at voxel n * N // C.
    """

    shape: tuple[int, int, int]  #: voxels of the image
    cells: tuple[int, int, int]
    values: bytes  #: one for each cell, the last axis fastest; 255 is the most that there is in this image


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at one image gave.

    Args:
        kind: `INTENSITY`, or the name of the model.
        version: of what looked: the first digits of the checksum of the weights, or of the features.
        content: SHA-256 of the image's files, what `signature` stands for.
        signature: size and time of the image's files; while it is the same, the content is.
        scores: ``entropy``, ``margin``, ``bald``, ``foreground``; empty for intensities.
        classes: entropy weighted by each class but background.
        embedding: numbers of which near ones mean alike; the same count for all looks of one kind and version.
        picture: PNG of where the model is unsure, over the image; empty without one.
        doubt: where in the image it is unsure; None where that is not known.
    """

    image_id: str
    kind: str
    version: str
    content: str
    signature: str
    ts: float  #: Unix seconds
    scores: dict[str, float]
    classes: tuple[float, ...] = ()
    embedding: tuple[float, ...] = ()
    picture: bytes = b""
    doubt: SmallMap | None = None


@runtime_checkable
class ScoreStore(Protocol):
    """A store that keeps looks. `LocalDatastore` does."""

    def stale(self, kind: str, version: str, image_ids: Sequence[str]) -> list[str]:
        """Those that this version has not looked at, or whose files are others now; in the order given.

        Files that were only touched are found to be the same, and noted so.
        """

    def put_look(self, look: Look) -> None:
        """Keep it, instead of an earlier one of its kind. Its scores become the image's info as well.

        A score that is not finite is left out.
        """

    def look_at(self, image_id: str, kind: str = "") -> Look | None:
        """The last look of the kind (without one: of any model, else of intensities)."""

    def doubt_in(self, image_id: str) -> SmallMap | None:
        """Where a model was unsure at its newest look; None if the image's files are others now, or it is not known."""

    def scored(self) -> list[JsonObject]:
        """For each kind and version: how many images, when the last one."""

    def content_of(self, image_id: str) -> tuple[str, str]:
        """(content, signature) of the image's files now. Raises `ImageNotFound`."""


@runtime_checkable
class PlanStore(Protocol):
    """A store whose strategies can be asked for an order before somebody waits for it."""

    def plan(self, strategy: str) -> None:
        """See to it that there is an up-to-date order of the next images by one of `learning.choosing.CHOOSERS`."""

    def planned_reason(self, strategy: str, image_id: str) -> str:
        """Why the image stands in that order; "" if it does not."""


def signature_of(files: Collection[Path]) -> str:
    """Sizes and times of the files, as one text. Raises OSError."""
    return ";".join(f"{status.st_size}:{status.st_mtime_ns}" for status in (file.stat() for file in sorted(files)))

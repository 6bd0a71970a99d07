"""What a store offers that fixes for each image whether trainings may learn from it. `LocalDatastore` does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from labelserver.domain.splits import ImageSide, Side


@runtime_checkable
class SplitStore(Protocol):
    """Sides are fixed at first sight, for the life of the project (see `domain.splits`)."""

    def sides(self, image_ids: Iterable[str]) -> dict[str, ImageSide]:
        """Of those that are known, also of images that are gone."""

    def compare_contents(self, image_ids: Iterable[str]) -> None:
        """Read the voxels of those of one shape that nobody compared yet, so that `sides` knows equal ones.

        The same voxels under two names are one case: it is on the side of the name that was seen first.
        """

    def side_due(self) -> Side | None:
        """The side that the next label should be of, so that one of the first four is held out; None: any."""


@runtime_checkable
class CacheStore(Protocol):
    """A store with a place for what can be made again."""

    def cache_home(self) -> str:
        """Absolute path of a folder; "" where nothing may be written."""

"""The part of the local store that lists its images: see `contracts.datastore.ImageListing`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from labelserver.datastore.catalog import Catalog
from labelserver.datastore.image_lists import ImageLists
from labelserver.domain.ids import FINAL, parse_tag
from labelserver.domain.image_lists import ImagePage, ImageQuery
from labelserver.domain.json_types import JsonObject


class Listed:
    """Lists of ids. A class of its own, so that the store stays readable; `LocalDatastore` is one."""

    _catalog: Catalog
    _lists: ImageLists

    def list_images(self) -> list[str]:
        return self._catalog.list_images()

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return self._catalog.labeled(parse_tag(label_tag or FINAL), labels or ())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return self._catalog.unlabeled(parse_tag(label_tag or FINAL), labels or ())

    def image_page(self, query: ImageQuery) -> ImagePage:
        return self._lists.page(query)

    def unlabeled(self, *, last_first: bool = False) -> Iterator[tuple[str, JsonObject]]:
        return self._lists.unlabeled(last_first=last_first)

    def unlabeled_by_score(self, key: str) -> Iterator[tuple[str, float, JsonObject]]:
        return self._lists.unlabeled_by_score(key)

    def sample_unlabeled(self, count: int) -> list[tuple[str, JsonObject]]:
        return self._lists.sample_unlabeled(count)

    def best_scored(self, key: str, exclude: Collection[str] = ()) -> tuple[str, float] | None:
        """The unlabeled image with the highest score `key` that is not in `exclude`; None if no score is left."""
        return next((pair for pair in self.ordered_by_score(key) if pair[0] not in exclude), None)

    def ordered_by_score(
        self, key: str, *, unlabeled_only: bool = True, highest_first: bool = True
    ) -> Iterator[tuple[str, float]]:
        """(image id, score) of present images in the order of the number that infos hold under `key`."""
        if unlabeled_only:
            return self._catalog.waiting_by_score(key, highest_first=highest_first)
        return iter(self._catalog.all_by_score(key, highest_first=highest_first))

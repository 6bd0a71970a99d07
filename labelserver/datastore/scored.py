"""The part of the local store that knows what was found out about its images: see `contracts.scores`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from labelserver.contracts.quality import FoundOddity
from labelserver.contracts.scores import INTENSITY, Look, SmallMap, signature_of
from labelserver.datastore.catalog import Catalog
from labelserver.datastore.image_rows import ImageFiles, present_image
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.oddity_shelf import OddityShelf
from labelserver.datastore.planning import Planner, plan_key
from labelserver.datastore.score_shelf import ScoreShelf
from labelserver.domain.errors import ImageNotFound
from labelserver.domain.json_types import JsonObject
from labelserver.learning.pool import Pool

#: bytes that are hashed at a time
_BLOCK = 2**20


class Scored:
    """Looks and plans. A class of its own, so that the store stays readable; `LocalDatastore` is one."""

    _index: Index
    _images: ImageFiles
    _catalog: Catalog
    _shelf: ScoreShelf
    _planner: Planner
    _oddities: OddityShelf

    def _begin_scores(self, layout: Layout) -> None:
        self._shelf = ScoreShelf(layout.scores_file)
        self._planner = Planner(layout, self._index, self._shelf)
        self._oddities = OddityShelf(self._shelf)

    def stale(self, kind: str, version: str, image_ids: Sequence[str]) -> list[str]:
        """See `contracts.scores.ScoreStore`."""
        known = self._shelf.known(kind, version, image_ids)
        found = []
        for image_id in image_ids:
            if image_id in known:
                content, signature = known[image_id]
                try:
                    now = signature_of(self._own_files(image_id))
                except (OSError, ImageNotFound):
                    continue
                if now == signature:
                    continue
                if self.content_of(image_id)[0] == content:
                    self._shelf.touch(image_id, kind, now)
                    continue
            found.append(image_id)
        return found

    def put_look(self, look: Look) -> None:
        """See `contracts.scores.ScoreStore`."""
        look = replace(look, scores={name: value for name, value in look.scores.items() if math.isfinite(value)})
        self._shelf.put(look)
        if look.kind != INTENSITY:
            info: JsonObject = {name: round(value, 6) for name, value in look.scores.items()}
            self._catalog.update_image_info(look.image_id, {**info, "scored_by": f"{look.kind}@{look.version}"})

    def look_at(self, image_id: str, kind: str = "") -> Look | None:
        """See `contracts.scores.ScoreStore`."""
        return self._shelf.look(image_id, kind)

    def doubt_in(self, image_id: str) -> SmallMap | None:
        """See `contracts.scores.ScoreStore`."""
        look = self._shelf.look(image_id)
        if look is None or look.doubt is None:
            return None
        try:
            unchanged = signature_of(self._own_files(image_id)) == look.signature
        except (OSError, ImageNotFound):
            return None
        return look.doubt if unchanged else None

    def scored(self) -> list[JsonObject]:
        """See `contracts.scores.ScoreStore`."""
        return self._shelf.summary()

    def score_names(self) -> list[str]:
        """What a list of images can be sorted by: numbers in their infos, without the orders of strategies."""
        return [name for name in self._catalog.score_names() if not name.startswith(plan_key(""))]

    def content_of(self, image_id: str) -> tuple[str, str]:
        """See `contracts.scores.ScoreStore`."""
        files = self._own_files(image_id)
        digest = hashlib.sha256()
        try:
            signature = signature_of(files)
            for file in sorted(files):
                with file.open("rb") as stream:
                    while block := stream.read(_BLOCK):
                        digest.update(block)
        except OSError as error:
            raise ImageNotFound(f"The file of the image {image_id!r} is gone.") from error
        return digest.hexdigest(), signature

    def quality_key(self, image_id: str) -> str:
        """See `contracts.quality.QualityStore`."""
        return self._oddities.key(image_id)

    def put_quality(self, image_id: str, key: str, found: Sequence[FoundOddity], volumes_mm3: dict[str, float]) -> None:
        """See `contracts.quality.QualityStore`."""
        self._oddities.put(image_id, key, found, volumes_mm3)

    def put_outliers(self, found: Sequence[FoundOddity]) -> None:
        """See `contracts.quality.QualityStore`."""
        self._oddities.put_compared(found)

    def volumes(self) -> dict[str, dict[str, float]]:
        """See `contracts.quality.QualityStore`."""
        return self._oddities.volumes([image_id for image_id, _ in self._catalog.final_labels()])

    def oddities(self, limit: int = 100, kind: str = "", image_id: str = "") -> list[FoundOddity]:
        """See `contracts.quality.QualityStore`."""
        labelled = {labelled_id for labelled_id, _ in self._catalog.final_labels()}
        return [one for one in self._oddities.listed(kind, image_id) if one.image_id in labelled][:limit]

    def oddity_picture(self, number: int) -> bytes:
        """See `contracts.quality.QualityStore`."""
        return self._oddities.picture(number)

    def plan(self, strategy: str) -> None:
        """See `contracts.scores.PlanStore`."""
        self._planner.plan(strategy)

    def planned_reason(self, strategy: str, image_id: str) -> str:
        """See `contracts.scores.PlanStore`."""
        with self._index.reading() as connection:
            return self._planner.reason(connection, strategy, image_id)

    def learning_pool(self) -> Pool:
        """The images that wait for a label, as strategies see them."""
        return self._planner.pool()

    def _own_files(self, image_id: str) -> list[Path]:
        with self._index.reading() as connection:
            row = present_image(connection, image_id)
        return self._images.own_files(row)

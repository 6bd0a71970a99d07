"""Strategies whose order is worked out beforehand, and those that follow one score: all that the server runs itself.

A planned strategy only looks up what `contracts.scores.PlanStore` has kept; see `datastore/planning.py`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from labelserver.contracts.datastore import Datastore, ImageListing
from labelserver.contracts.scores import PlanStore, ScoreStore, SmallMap
from labelserver.domain.annotation import Boxes, Slices, region_to_json
from labelserver.domain.json_types import JsonObject
from labelserver.learning.choosing import CHOOSERS
from labelserver.learning.pool import Pool
from labelserver.learning.small_maps import largest_box, largest_slices
from labelserver.tasks import strategies
from labelserver.tasks.base import Strategy
from labelserver.tasks.strategies import HighestScore, Random
from labelserver.tasks.train_request import whole_number

_COLUMNS = ("entropy", "margin", "bald", "foreground")


class Planned(Strategy):
    """Gives out images in the order of one of `learning.choosing.CHOOSERS`."""

    chooser = "default"

    def __init__(self) -> None:
        super().__init__(CHOOSERS[self.chooser].description)

    def prepare(self, datastore: Datastore) -> None:
        """Have the order worked out. Called before a transaction begins, never inside one."""
        if isinstance(datastore, PlanStore):
            datastore.plan(self.chooser)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        listing = strategies._listing(request, datastore)
        if listing is None or not isinstance(datastore, PlanStore):
            return self._at_once(request, datastore)
        due = strategies._due(datastore, self._order(listing)) or strategies._due(datastore, listing.unlabeled())
        found = due[0] if due else next(self._order(listing), None)
        if found is None:
            chosen = Random()(request, datastore)
            return None if chosen is None else {**chosen, "why": _NOT_PLANNED}
        why = datastore.planned_reason(self.chooser, found[0])
        return {"id": found[0], "why": why or _DUE}

    def _order(self, listing: ImageListing) -> Iterator[tuple[str, JsonObject]]:
        for image_id, _, info in listing.unlabeled_by_score(f"plan.{self.chooser}"):
            yield image_id, info

    def _at_once(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """From the infos alone, for stores that keep no plans and for requests that narrow the images."""
        images = sorted(strategies._candidates(request, datastore))
        if not images:
            return None
        infos = [datastore.get_image_info(image) for image in images]
        columns = {name: np.asarray([_number(info.get(name)) for info in infos]) for name in _COLUMNS}
        labels = len(datastore.get_labeled_images())
        model = not all(np.isnan(column).all() for column in columns.values())
        pool = Pool(tuple(images), columns, labels=labels, has_model=model)
        pick = CHOOSERS[self.chooser].choose(pool, 1, labels)[0]
        return {"id": pick.image_id, "why": pick.reason}


def _number(value: Any) -> float:
    score = strategies._score(value)
    return score if np.isfinite(score) else float("nan")


_NOT_PLANNED = "by chance: the next images are still being worked out"
_DUE = "one of the first labels is of an image that models are measured on"


class Default(Planned):
    """Groups first, then what the model is unsure about"""

    chooser = "default"


class ForegroundRandom(Planned):
    """By chance, likelier with much foreground"""

    chooser = "foreground_random"


class PowerEntropy(Planned):
    """By chance, likelier where the model is unsure"""

    chooser = "power_entropy"


class StochasticBatches(Planned):
    """The most unsure of many random batches"""

    chooser = "stochastic_batches"


class ClaspEntropy(Planned):
    """Unsure class by class, with noise that dies away"""

    chooser = "clasp_entropy"


class KCenter(Planned):
    """Least like what has a label"""

    chooser = "k_center"


class Typicality(Planned):
    """Typical of groups without a label"""

    chooser = "typicality"


class ColdStart(Planned):
    """The middle of groups without a label"""

    chooser = "cold_start"


class _Score(HighestScore):
    """The arg-max of one score, always of the newest numbers; images with none come after."""

    score = "entropy"

    def __init__(self) -> None:
        super().__init__(reset=0.0, key=self.score, desc=CHOOSERS[self.score].description)


class Entropy(_Score):
    """Where the model is least sure"""

    score = "entropy"


class _Part(Entropy):
    """Of the image about which the model is least sure, the part about which it is."""

    part = ""
    told = ""

    def __init__(self) -> None:
        super().__init__()
        self.description = self.told

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        chosen = super().__call__(request, datastore)
        if chosen is None:
            return None
        found = datastore.doubt_in(str(chosen["id"])) if isinstance(datastore, ScoreStore) else None
        if found is None:
            return {**chosen, "why": _WHOLE}
        region = self.region(found, request)
        return {**chosen, "why": _part_told(region, found), "roi": region_to_json(region)}

    def region(self, found: SmallMap, request: Mapping[str, Any]) -> Slices | Boxes:
        """What to ask for."""
        raise NotImplementedError


class UncertainSlice(_Part):
    """The slice about which the model is least sure, of the image about which it is"""

    part = "uncertain_slice"
    told = "The slice where the model is least sure; `slices` asks for so many neighbours"

    def region(self, found: SmallMap, request: Mapping[str, Any]) -> Slices | Boxes:
        return largest_slices(found, whole_number(request, "slices", 1, least=1))


class UncertainRegion(_Part):
    """The box about which the model is least sure, a third of each axis long, of the image about which it is"""

    part = "uncertain_region"
    told = "The box, a third of each axis long, where the model is least sure"

    def region(self, found: SmallMap, request: Mapping[str, Any]) -> Slices | Boxes:
        return largest_box(found)


def _part_told(region: Slices | Boxes, found: SmallMap) -> str:
    if isinstance(region, Slices):
        first, last = region.slices[0] + 1, region.slices[-1] + 1
        which = f"Slice {first}" if first == last else f"Slices {first} to {last}"
        return f"{which} of {found.shape[region.axis]} across axis {'ijk'[region.axis]}: the model is least sure there."
    (low, high) = region.boxes[0]
    return f"The voxels from {list(low)} to {list(high)}: the model is least sure there."


_WHOLE = "the whole image: where in it the model is unsure is not known yet"


class Margin(_Score):
    """Where two classes are nearly as likely"""

    score = "margin"


class Bald(_Score):
    """Where looks at the image disagree"""

    score = "bald"


_PLANNED: tuple[type[Strategy], ...] = (
    Default,
    ForegroundRandom,
    Entropy,
    Margin,
    Bald,
    UncertainSlice,
    UncertainRegion,
    PowerEntropy,
    StochasticBatches,
    ClaspEntropy,
    KCenter,
    Typicality,
    ColdStart,
)

#: Class name -> class, for those that a server may run itself.
READY_MADE: dict[str, type[Strategy]] = {
    **strategies.READY_MADE,
    **{cls.__name__: cls for cls in _PLANNED},
}


def learning_strategies() -> dict[str, Strategy]:
    """Name -> strategy, for an app's ``init_strategies``: all but chance and order by name, which apps have anyway."""
    return {_name_of(cls): cls() for cls in _PLANNED}


def _name_of(cls: type[Strategy]) -> str:
    names = (str(getattr(cls, kind, "")) for kind in ("part", "chooser", "score"))
    return next(name for name in names if name)

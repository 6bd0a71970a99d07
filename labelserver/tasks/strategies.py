"""Ready-made strategies, and how the answer of any strategy becomes the document a client gets. Torch-free.

The names in `READY_MADE` run in the server process; a strategy of an app's own runs in the lead worker. Where the
store fixes sides, the ready-made ones see to it that one of the first four labels is of a held-out image: without one
nobody can say whether a model got better.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from labelserver.contracts.datastore import Datastore, DefaultLabelTag, ImageListing
from labelserver.contracts.splits import SplitStore
from labelserver.domain.errors import TaskFailed
from labelserver.domain.json_types import JsonObject
from labelserver.tasks.base import Strategy

#: Of so many images, chosen evenly, `Random` takes one by its weight.
_SAMPLE = 64

#: id and info
_Offered = tuple[str, JsonObject]


def _candidates(request: Mapping[str, Any], datastore: Datastore) -> list[str]:
    """Ids without an accepted label; ``label_tag`` and ``labels`` of the request narrow them."""
    labels = request.get("labels")
    chosen = [labels] if isinstance(labels, str) else list(labels) if labels else None
    return datastore.get_unlabeled_images(request.get("label_tag") or None, chosen)


def _listing(request: Mapping[str, Any], datastore: Datastore) -> ImageListing | None:
    """The store itself where its lists cost the same at any size and the request asks for what they hold."""
    plain = request.get("label_tag") in (None, "", DefaultLabelTag.FINAL) and not request.get("labels")
    return datastore if plain and isinstance(datastore, ImageListing) else None


def _due(datastore: Datastore, images: Iterable[_Offered]) -> list[_Offered]:
    """Those of `images` that are of the side that the next label should be of; none if any will do, or none is."""
    side = datastore.side_due() if isinstance(datastore, SplitStore) else None
    if side is None or not isinstance(datastore, SplitStore):
        return []
    found: list[_Offered] = []
    walked = iter(images)
    while offered := list(islice(walked, _SAMPLE)):
        sides = datastore.sides([image for image, _ in offered])
        found += [pair for pair in offered if pair[0] in sides and sides[pair[0]].side is side]
        if len(found) >= _SAMPLE:
            break
    return found[:_SAMPLE]


def _served_ts(info: Mapping[str, Any], name: str) -> float:
    """Unix seconds at which strategy `name` last handed out the image; 0 if never."""
    history = info.get("strategy")
    entry = history.get(name) if isinstance(history, Mapping) else None
    ts = entry.get("ts") if isinstance(entry, Mapping) else None
    return float(str(ts)) if isinstance(ts, int | float) else 0.0


class Random(Strategy):
    """Random image; the longer one was not handed out, the likelier it is."""

    def __init__(self, description: str = "Random image, preferring those not handed out lately") -> None:
        super().__init__(description)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        listing = _listing(request, datastore)
        if listing is not None:
            images = listing.sample_unlabeled(_SAMPLE)
        else:
            images = [(i, datastore.get_image_info(i)) for i in _candidates(request, datastore)]
        if not images:
            return None
        images = _due(datastore, listing.unlabeled() if listing is not None else images) or images
        name = str(request.get("strategy") or "random")
        now = time.time()
        weights = [max(1, int(now - _served_ts(info, name))) for _, info in images]
        chosen = random.choices(range(len(images)), weights=weights, k=1)[0]
        return {"id": images[chosen][0], "weight": weights[chosen]}


class First(Strategy):
    """The image whose id sorts first."""

    def __init__(self, description: str = "First image by name") -> None:
        super().__init__(description)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        return _at_the_end(request, datastore, last=False)


class Last(Strategy):
    """The image whose id sorts last."""

    def __init__(self, description: str = "Last image by name") -> None:
        super().__init__(description)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        return _at_the_end(request, datastore, last=True)


def _at_the_end(request: Mapping[str, Any], datastore: Datastore, *, last: bool) -> dict[str, Any] | None:
    listing = _listing(request, datastore)
    if listing is not None:
        due = _due(datastore, listing.unlabeled(last_first=last))
        found = due[0] if due else next(listing.unlabeled(last_first=last), None)
        return {"id": found[0]} if found is not None else None
    images = sorted(_candidates(request, datastore), reverse=last)
    images = [image for image, _ in _due(datastore, ((image, {}) for image in images))] or images
    return {"id": images[0]} if images else None


class HighestScore(Strategy):
    """The image with the best stored score; among the `k` best the one handed out least recently.

    Args:
        k: how many of the best to rotate through; 0 takes all with a score.
        reset: seconds after which an image counts as not handed out.
        key: image info that holds the score. Images without one come after all that have one.
        desc: for people.
    """

    def __init__(self, k: int = 0, reset: float = 86400, key: str = "epistemic_entropy", desc: str = "") -> None:
        super().__init__(desc or f"Image with the highest {key}")
        self.k = k
        self.reset = reset
        self.key = key

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        name = str(request.get("strategy") or self.key)
        now = time.time()
        chosen: tuple[float, str, float] | None = None
        for image, score, info in islice(self._of_due_side(request, datastore), self.k or None):
            served = _served_ts(info, name)
            if now - served > self.reset:
                chosen = (0.0, image, score)
                break
            if chosen is None or served < chosen[0]:
                chosen = (served, image, score)
        if chosen is None:
            return None
        _, image, score = chosen
        answer: dict[str, Any] = {"id": image}
        if score > -math.inf:
            answer[self.key] = {"score": score, "ts": int(now)}
        return answer

    def _of_due_side(
        self, request: Mapping[str, Any], datastore: Datastore
    ) -> Iterable[tuple[str, float, Mapping[str, Any]]]:
        """As `_ranked`, only those that the next label should be of, if it matters and there are any."""
        due = {image for image, _ in _due(datastore, ((i, info) for i, _, info in self._ranked(request, datastore)))}
        if not due:
            return self._ranked(request, datastore)
        return [item for item in self._ranked(request, datastore) if item[0] in due]

    def _ranked(self, request: Mapping[str, Any], datastore: Datastore) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """(id, score, info) of images with a score, best first, ties by id; of all images by id if none has one."""
        listing = _listing(request, datastore)
        if listing is not None:
            scored = listing.unlabeled_by_score(self.key)
            first = next(scored, None)
            if first is None:
                yield from ((image, -math.inf, info) for image, info in listing.unlabeled())
            else:
                yield first
                yield from scored
            return
        found = []
        for image in _candidates(request, datastore):
            info = datastore.get_image_info(image)
            found.append((image, _score(info.get(self.key)), info))
        ranked = [item for item in found if item[1] > -math.inf] or found
        yield from sorted(ranked, key=lambda item: (-item[1], item[0]))


class Epistemic(HighestScore):
    """The image the model is least sure about, as scoring by MC dropout found it."""


def _score(value: Any) -> float:
    """A number, or a dict with ``score``; minus infinity where there is none."""
    number = value.get("score") if isinstance(value, Mapping) else value
    if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number):
        return -math.inf
    return float(number)


#: Class name -> class, for those that a server may run itself.
READY_MADE: dict[str, type[Strategy]] = {cls.__name__: cls for cls in (Random, First, Last, HighestScore, Epistemic)}


def choose_next(
    name: str,
    strategy: Callable[[dict[str, Any], Datastore], dict[str, Any] | str | None],
    request: Mapping[str, Any],
    datastore: Datastore,
) -> dict[str, Any]:
    """Ask a strategy and complete its answer.

    Args:
        name: under which the app registered it; the image's info remembers it with time and client.
        strategy: answers None, an id, or a dict with ``id``.
        request: what the client sent; ``client_id`` goes into the record.
        datastore: where the images are.

    Returns:
        What the strategy said, the image's info, ``name`` and ``path``; ``{}`` when nothing is left.

    Raises:
        TaskFailed: the strategy answered something else.
    """
    chosen = chosen_by(name, strategy, request, datastore)
    return completed(name, chosen, request, datastore) if chosen else {}


def chosen_by(
    name: str,
    strategy: Callable[[dict[str, Any], Datastore], dict[str, Any] | str | None],
    request: Mapping[str, Any],
    datastore: Datastore,
) -> dict[str, Any]:
    """What a strategy says: at least ``id``; ``{}`` when nothing is left. Raises `TaskFailed` for another answer."""
    answer = strategy({**request, "strategy": name}, datastore)
    if not answer:
        return {}
    chosen = {"id": answer} if isinstance(answer, str) else answer
    if not isinstance(chosen, Mapping) or not isinstance(chosen.get("id"), str):
        raise TaskFailed(f"The strategy {name} must answer an image id, a dict with 'id', or None.")
    return dict(chosen)


def completed(name: str, chosen: Mapping[str, Any], request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
    """`chosen` with the image's info, ``name`` and ``path``; the info remembers who was offered the image when."""
    image_id = str(chosen["id"])
    info = datastore.get_image_info(image_id)
    path = datastore.get_image_uri(image_id)
    document = {**info, "name": info.get("name") or Path(path).name, **chosen, "path": path}
    record = {"ts": int(time.time()), "client_id": request.get("client_id")}
    history = info.get("strategy")
    datastore.update_image_info(
        image_id, {"strategy": {**(history if isinstance(history, Mapping) else {}), name: record}}
    )
    return document

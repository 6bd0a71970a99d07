"""Ready-made strategies, and how the answer of any strategy becomes the document a client gets. Torch-free.

The names in `READY_MADE` run in the server process; a strategy of an app's own runs in the lead worker.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.domain.errors import TaskFailed
from labelserver.tasks.base import Strategy


def _candidates(request: Mapping[str, Any], datastore: Datastore) -> list[str]:
    """Ids without an accepted label; ``label_tag`` and ``labels`` of the request narrow them."""
    labels = request.get("labels")
    chosen = [labels] if isinstance(labels, str) else list(labels) if labels else None
    return datastore.get_unlabeled_images(request.get("label_tag") or None, chosen)


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
        images = _candidates(request, datastore)
        if not images:
            return None
        name = str(request.get("strategy") or "random")
        now = time.time()
        weights = [max(1, int(now - _served_ts(datastore.get_image_info(i), name))) for i in images]
        chosen = random.choices(range(len(images)), weights=weights, k=1)[0]
        return {"id": images[chosen], "weight": weights[chosen]}


class First(Strategy):
    """The image whose id sorts first."""

    def __init__(self, description: str = "First image by name") -> None:
        super().__init__(description)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        images = _candidates(request, datastore)
        return {"id": min(images)} if images else None


class Last(Strategy):
    """The image whose id sorts last."""

    def __init__(self, description: str = "Last image by name") -> None:
        super().__init__(description)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        images = _candidates(request, datastore)
        return {"id": max(images)} if images else None


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
        ranked = []
        for image in _candidates(request, datastore):
            info = datastore.get_image_info(image)
            served = _served_ts(info, name)
            ranked.append((_score(info.get(self.key)), 0.0 if now - served > self.reset else served, image))
        if not ranked:
            return None
        ranked.sort(key=lambda item: (-item[0], item[2]))
        scored = [item for item in ranked if item[0] > -math.inf] or ranked
        top = scored[: self.k] if self.k > 0 else scored
        score, _, image = min(top, key=lambda item: (item[1], -item[0], item[2]))
        answer: dict[str, Any] = {"id": image}
        if score > -math.inf:
            answer[self.key] = {"score": score, "ts": int(now)}
        return answer


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
    answer = strategy({**request, "strategy": name}, datastore)
    if not answer:
        return {}
    chosen = {"id": answer} if isinstance(answer, str) else answer
    if not isinstance(chosen, Mapping) or not isinstance(chosen.get("id"), str):
        raise TaskFailed(f"The strategy {name} must answer an image id, a dict with 'id', or None.")
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

"""While somebody waits for an answer, the device that computes it bears a mark, and trainings on it wait at a step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from labelserver.domain.errors import StorageFailed
from labelserver.domain.infer import Priority
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import Roots
from labelserver.engine.workers import ASK_LANE, CLICK_LANE, INFER_LANE, OPEN_LANE
from labelserver.storage.device_marks import FOLDER, interactive


@contextmanager
def answering(roots: Roots, lane: str, params: JsonObject) -> Iterator[None]:
    """Mark the device inside the block if the request is one that a person waits for.

    Args:
        roots: where the marks are.
        lane: that the request came in.
        params: of the request.
    """
    with ExitStack() as held:
        if is_awaited(lane, params):
            with suppress(StorageFailed):  # an answer is worth more than a training's pause
                held.enter_context(interactive(roots.app / FOLDER, _device(params)))
        yield


def is_awaited(lane: str, params: JsonObject) -> bool:
    """A click, the opening of an image, or an inference that is no part of a batch or a scoring."""
    if lane == INFER_LANE:
        priority = params.get("priority", Priority.OPEN_IMAGE.value)
        return isinstance(priority, int) and priority <= Priority.OPEN_IMAGE
    return lane in (CLICK_LANE, ASK_LANE, OPEN_LANE)


def _device(params: JsonObject) -> str:
    """The device asked for by its torch name, else the one that tasks take by themselves."""
    options = params.get("params")
    asked = options.get("device") if isinstance(options, dict) else None
    if isinstance(asked, str) and asked.startswith(("cpu", "cuda")):
        return asked
    torch: Any = sys.modules.get("torch")  # Any: loaded by the app, if at all
    return "cuda" if torch is not None and torch.cuda.is_available() else "cpu"

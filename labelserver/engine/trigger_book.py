"""The rules for trainings that start by themselves, and what they count, kept in ``APP/triggers.json``.

Threads may share it. What is counted since the last look may be lost in a crash; the rules never are.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from labelserver.domain.errors import InvalidParams, StorageFailed
from labelserver.domain.json_types import JsonObject
from labelserver.domain.triggers import Situation, Triggers, why_due
from labelserver.storage import atomic

logger = logging.getLogger(__name__)

#: labels whose times are kept; a rule that waits for more counts no further.
MAX_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class _Page:
    triggers: Triggers = field(default_factory=Triggers)
    set_ts: float = 0.0
    label_times: tuple[float, ...] = ()
    place: int = 0  #: the newest event of the hub that was counted


class TriggerBook:
    """See the module's words.

    Args:
        file: where it is kept.
        clock: Unix seconds.
    """

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._page = _read(file)
        self._acted_ts = clock()

    @property
    def triggers(self) -> Triggers:
        return self._page.triggers

    @property
    def place(self) -> int:
        """Of the newest event that was counted; 0: none yet."""
        return self._page.place

    @property
    def labels_waiting(self) -> int:
        """Labels accepted since the last training began."""
        return len(self._page.label_times)

    def set(self, triggers: Triggers) -> None:
        """Raises `StorageFailed`; the rules are then as before."""
        with self._lock:
            self._turn_to(replace(self._page, triggers=triggers, set_ts=self._clock()))

    def note_action(self) -> None:
        """Somebody did something."""
        self._acted_ts = self._clock()

    def count(self, label_times: list[float], place: int) -> None:
        """Labels were accepted; `place` is the newest event that was looked at."""
        with self._lock:
            kept = (*self._page.label_times, *label_times)[-MAX_COUNTED:]
            page = replace(self._page, label_times=kept, place=place)
            if label_times:
                self._turn_to(page)
            else:
                self._page = page

    def why_due(self, last_training_ts: float, *, training: bool) -> str:
        """Why a training starts now; empty if none does. What it will learn from is counted no more.

        Args:
            last_training_ts: when the last one was asked for, by whomever; 0: never.
            training: one waits or runs.
        """
        with self._lock:
            page = self._page
            kept = tuple(ts for ts in page.label_times if ts > last_training_ts)
            if kept != page.label_times:
                page = replace(page, label_times=kept)
                self._turn_to(page)
        began_ts = max(last_training_ts, page.set_ts)
        return why_due(page.triggers, Situation(self._clock(), began_ts, self._acted_ts, kept, training))

    def _turn_to(self, page: _Page) -> None:
        document: JsonObject = {
            "triggers": {**asdict(page.triggers), "trainers": list(page.triggers.trainers)},
            "set_ts": page.set_ts,
            "label_times": list(page.label_times),
            "place": page.place,
        }
        atomic.write_json(self._file, document)
        self._page = page


def triggers_of(document: JsonObject) -> Triggers:
    """From a JSON object with any of the fields. Raises `InvalidParams`."""
    trainers = document.get("trainers")
    try:
        return Triggers(
            every_labels=int(str(document.get("every_labels", 0))),
            interval_minutes=float(str(document.get("interval_minutes", 0))),
            daily_at=str(document.get("daily_at", "")),
            idle_minutes=float(str(document.get("idle_minutes", 0))),
            settle_s=float(str(document.get("settle_s", Triggers().settle_s))),
            trainers=tuple(str(name) for name in trainers) if isinstance(trainers, list) else (),
        )
    except ValueError as error:
        raise InvalidParams(f"The triggers cannot be understood: {error}.") from error


def _read(file: Path) -> _Page:
    try:
        document = json.loads(file.read_text())
        times = document["label_times"]
        return _Page(
            triggers_of(document["triggers"]),
            float(document["set_ts"]),
            tuple(float(ts) for ts in times),
            int(document["place"]),
        )
    except FileNotFoundError:
        return _Page()
    except (OSError, ValueError, KeyError, TypeError, InvalidParams, StorageFailed) as error:
        logger.error("the training triggers cannot be read; all are off", extra={"error": str(error)})
        return _Page()

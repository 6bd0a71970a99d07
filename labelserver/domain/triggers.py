"""When a training starts by itself: after so many labels, on a schedule, when nobody works; never twice at once.

All rules ask for something new to learn from: without a label accepted since the last training began, none starts.
After each label there is a pause, so that a burst of saves leads to one training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from labelserver.domain.errors import InvalidParams

_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):[0-5]\d")

#: seconds without a further label before a training may start.
SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Triggers:
    """The rules; each is off at 0 or "". With all off, trainings start by hand alone.

    Raises:
        InvalidParams: a value that makes no sense.
    """

    every_labels: int = 0  #: so many accepted labels since the last training began
    interval_minutes: float = 0.0  #: so long after the last training began
    daily_at: str = ""  #: HH:MM, local time of the server
    idle_minutes: float = 0.0  #: so long after anybody last did something
    settle_s: float = SETTLE_S  #: pause after a label
    trainers: tuple[str, ...] = ()  #: which; none: all, one behind the other

    def __post_init__(self) -> None:
        for name in ("every_labels", "interval_minutes", "idle_minutes", "settle_s"):
            if not 0 <= getattr(self, name) < 1e9:
                raise InvalidParams(f"{name} must be 0 or more; got {getattr(self, name)}.")
        if self.daily_at and not _TIME_OF_DAY.fullmatch(self.daily_at):
            raise InvalidParams(f"daily_at must be a time of day such as 02:30, or empty; got {self.daily_at[:20]!r}.")

    @property
    def are_on(self) -> bool:
        return bool(self.every_labels or self.interval_minutes or self.daily_at or self.idle_minutes)


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at. Times are Unix seconds.

    `began_ts`: when the last training was asked for, else when the rules were set. `acted_ts`: when anybody last did
    something. `label_times`: of the labels accepted since `began_ts`.
    """

    now_ts: float
    began_ts: float
    acted_ts: float
    label_times: Sequence[float]
    training: bool  #: one waits or runs


def why_due(triggers: Triggers, situation: Situation) -> str:
    """Why a training starts now, in words; empty if none does."""
    now, labels = situation.now_ts, situation.label_times
    if situation.training or not labels or now - max(labels) < triggers.settle_s:
        return ""
    if 0 < triggers.every_labels <= len(labels):
        return f"{len(labels)} labels were accepted"
    if triggers.interval_minutes and now - situation.began_ts >= 60 * triggers.interval_minutes:
        return f"{triggers.interval_minutes:g} minutes have passed"
    if triggers.daily_at and situation.began_ts < _last_moment(triggers.daily_at, now):
        return f"it is past {triggers.daily_at}"
    if triggers.idle_minutes and now - max(situation.acted_ts, *labels) >= 60 * triggers.idle_minutes:
        return f"nobody has worked for {triggers.idle_minutes:g} minutes"
    return ""


def _last_moment(time_of_day: str, now_ts: float) -> float:
    """When it was last `time_of_day` here."""
    hour, minute = (int(part) for part in time_of_day.split(":"))
    now = datetime.fromtimestamp(now_ts)
    moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (moment if moment <= now else moment - timedelta(days=1)).timestamp()

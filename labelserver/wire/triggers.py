"""When trainings start by themselves, on the new routes."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.triggers import SETTLE_S, Triggers


class TrainingTriggers(BaseModel):
    """The rules; each is off at 0 or "". All need a label accepted since the last training began."""

    model_config = ConfigDict(extra="forbid")

    every_labels: int = Field(default=0, ge=0, description="Train after so many accepted labels.")
    interval_minutes: float = Field(default=0, ge=0, description="Train so long after the last training began.")
    daily_at: str = Field(default="", description="Train at this time of day, HH:MM, local time of the server.")
    idle_minutes: float = Field(default=0, ge=0, description="Train when nobody has done anything for so long.")
    settle_s: float = Field(default=SETTLE_S, ge=0, description="Wait so long after a label for further ones.")
    trainers: list[str] = Field(default_factory=list, description="Which trainers; none: all, one behind the other.")

    def to_domain(self) -> Triggers:
        """Raises `InvalidParams`."""
        return Triggers(
            self.every_labels,
            self.interval_minutes,
            self.daily_at,
            self.idle_minutes,
            self.settle_s,
            tuple(self.trainers),
        )

    @classmethod
    def from_domain(cls, triggers: Triggers) -> Self:
        return cls(
            every_labels=triggers.every_labels,
            interval_minutes=triggers.interval_minutes,
            daily_at=triggers.daily_at,
            idle_minutes=triggers.idle_minutes,
            settle_s=triggers.settle_s,
            trainers=list(triggers.trainers),
        )


class TriggersInUse(TrainingTriggers):
    """The rules and what they have counted."""

    model_config = ConfigDict(extra="ignore")

    labels_waiting: int = Field(default=0, description="Labels accepted since the last training began.")

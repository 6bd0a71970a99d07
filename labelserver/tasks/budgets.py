"""How long a job of the background may take before it ends by itself and leaves the rest to the next one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labelserver.domain.errors import InvalidParams


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds of work; 0: no limit."""

    seconds: float
    begun: float

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Budget:
        """``budget_s`` of a request. Raises `InvalidParams` for anything but a number of at least 0."""
        value = request.get("budget_s") or 0
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            raise InvalidParams(f"budget_s is a number of seconds, 0 for no limit; got {value!r}.")
        return cls(seconds, time.monotonic())

    def rest(self) -> dict[str, float]:
        """``budget_s`` for a part of the work; nothing where there is no limit."""
        if not self.seconds:
            return {}
        return {"budget_s": max(0.001, self.seconds - (time.monotonic() - self.begun))}

    def is_spent(self) -> bool:
        return bool(self.seconds) and time.monotonic() - self.begun >= self.seconds

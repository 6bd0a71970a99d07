"""Work that nobody waits for, beside work that somebody waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")

#: s of work without a pause, which is what an answer may have to wait
_STRETCH_S = 0.004
#: s of pause for each second of work
_PAUSES = 4.0


class LeftUndone(Exception):
    """The work was broken off: whoever does it shall end."""


class Pace:
    """How work over many items goes on: with pauses in which other threads have the interpreter to themselves."""

    def __init__(self, pauses: float = _PAUSES) -> None:
        """`pauses`: seconds for each second of work; 0 if somebody waits for it."""
        self._pauses = pauses
        self._broken_off = threading.Event()

    def begin(self) -> None:
        """Forget that earlier work was broken off."""
        self._broken_off.clear()

    def break_off(self) -> None:
        """End what is under way, from another thread."""
        self._broken_off.set()

    def through(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """`items`, one after the other. Raises `LeftUndone` after `break_off`."""
        began = time.monotonic()
        for item in items:
            yield item
            worked = time.monotonic() - began
            if worked >= _STRETCH_S:
                if self._broken_off.wait(worked * self._pauses):
                    raise LeftUndone
                began = time.monotonic()

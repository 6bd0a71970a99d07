"""Work that nobody waits for, beside work that somebody waits for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")

#: s of work without a pause, which is what an answer may have to wait
_STRETCH_S = 0.004
#: s of pause for each second of work
_PAUSES = 4.0


def gently(items: Iterable[_Item], *, hurry: bool = False) -> Iterator[_Item]:
    """`items`, with pauses in which a thread that answers somebody has the interpreter to itself; none in a `hurry`."""
    if hurry:
        yield from items
        return
    began = time.monotonic()
    for item in items:
        yield item
        worked = time.monotonic() - began
        if worked >= _STRETCH_S:
            time.sleep(worked * _PAUSES)
            began = time.monotonic()

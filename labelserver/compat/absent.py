"""Names that apps import and that later releases fill: importing them works, using them says what is missing."""

from __future__ import annotations

from typing import Any

from labelserver.domain.errors import NotThereYet


class Absent:
    """Base of a class that cannot be built yet; ``isinstance`` checks against it are simply false."""

    instead = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotThereYet(f"{type(self).__name__} is not there yet. {self.instead}".strip())

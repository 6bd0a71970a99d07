"""Libraries that take long to import and are not needed at the start: imported when one of their names is first used.

The server answers within a second of its start; nibabel and pydicom (which nibabel imports) take half of that second
and are not needed before somebody reads an image. Thread-safe, because Python's own import lock does the work.
"""

from __future__ import annotations

import importlib
from typing import Any


class LateModule:
    """Stands for the module `name`; every attribute is looked up in the real one."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:  # Any: it is whatever the module has there
        return getattr(importlib.import_module(self._name), attribute)

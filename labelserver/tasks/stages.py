"""The moments of an inference call at which its caller may step in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any


class CallBackTypes(StrEnum):
    """The moments between the stages of a call at which a caller may look at or change ``data``."""

    PRE_TRANSFORMS = "PRE_TRANSFORMS"
    INFERER = "INFERER"
    INVERT_TRANSFORMS = "INVERT_TRANSFORMS"
    POST_TRANSFORMS = "POST_TRANSFORMS"
    WRITER = "WRITER"


#: Stage -> what to do with ``data`` after it; the answer replaces ``data`` (that of WRITER is ignored).
Callbacks = Mapping[CallBackTypes, Callable[[Any], Any]]


def after(stage: CallBackTypes, data: Any, callbacks: Callbacks) -> Any:
    """``data`` as the caller wants it after a stage."""
    callback = callbacks.get(stage)
    return data if callback is None else callback(data)

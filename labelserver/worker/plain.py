"""What an app returned becomes plain JSON, so that it can travel.

Numbers of numpy and torch become numbers, arrays and tensors lists, NaN and infinity null (JSON has neither). Other
objects become their text. An array as large as a mask is refused: masks travel as files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from labelserver.domain.errors import TaskFailed
from labelserver.domain.json_types import JsonObject, JsonValue

#: values; a list of this size is some 10 MB of JSON.
MAX_ARRAY_VALUES = 1_000_000


def plain(value: Any) -> JsonValue:
    """`value` as JSON. Raises `TaskFailed` for an array that is too large."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):  # numpy's float64 is one, too
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return plain_object(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", errors="replace")
    if hasattr(value, "detach"):  # a tensor, named by what it can do, so that torch need not be loaded here
        value = value.detach().cpu().numpy()
    if hasattr(value, "tolist") and hasattr(value, "size"):
        if int(value.size) > MAX_ARRAY_VALUES:
            raise TaskFailed(
                f"The answer holds an array of {int(value.size)} values; at most {MAX_ARRAY_VALUES} travel as JSON. "
                "Let the task write it to a file (skip_writer is meant for use within Python)."
            )
        return plain(value.tolist())
    return str(value)


def plain_object(value: Mapping[Any, Any]) -> JsonObject:
    """A mapping as a JSON object; keys become text."""
    return {str(plain(key)): plain(item) for key, item in value.items()}

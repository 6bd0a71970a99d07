"""What apps put into infos, as JSON: numpy numbers become numbers, NaN becomes null, unknown things their text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from labelserver.domain.json_types import JsonObject, JsonValue


def plain(value: Any) -> JsonValue:
    """A JSON value for anything an app may hand over. `Any`: apps are not typed."""
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return value.name
    item = getattr(value, "item", None)  # a torch scalar, without knowing torch
    if callable(item) and getattr(value, "numel", lambda: 0)() == 1:
        return plain(item())
    return str(value)


def plain_object(info: Mapping[str, Any] | None) -> JsonObject:
    """`plain` for an info."""
    return {str(k): plain(v) for k, v in (info or {}).items()}


#: One encoder: `json.dumps` makes a new one for each value.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dump(value: JsonValue) -> str:
    """Compact JSON text for the index."""
    return _encode(value)


def load_object(text: str | bytes | None) -> JsonObject:
    """The object in `text`; empty if there is none."""
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def scores_of(info: JsonObject) -> dict[str, float]:
    """The numbers of an info that images can be ordered by: numbers, and objects with a number under "score"."""
    found = {}
    for key, value in info.items():
        number = value.get("score") if isinstance(value, Mapping) else value
        if isinstance(number, int | float) and not isinstance(number, bool):
            found[key] = float(number)
    return found


def label_names(info: JsonObject) -> frozenset[str]:
    """Names of the segments in a label, from ``label_info`` or ``params.label_names``; empty if not known."""
    listed = info.get("label_info")
    if isinstance(listed, list):
        names = {str(entry["name"]) for entry in listed if isinstance(entry, Mapping) and entry.get("name")}
        if names:
            return frozenset(names)
    params = info.get("params")
    named = params.get("label_names") if isinstance(params, Mapping) else info.get("label_names")
    if isinstance(named, Mapping | list | tuple):
        return frozenset(str(name) for name in named)
    return frozenset()

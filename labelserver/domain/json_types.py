"""The shape of JSON, as types: what crosses a process, a socket or the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

#: Read-only containers inside, so that ``dict[str, float]`` and ``list[str]`` are JSON values to the type checker too.
JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

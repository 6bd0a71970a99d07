"""Bodies that routes read by themselves, described for ``/openapi.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def form_body(files: Sequence[str] = (), texts: Sequence[str] = (), *, many: bool = False) -> dict[str, Any]:
    """A multipart form with these parts. `many`: each file part may be repeated."""
    binary: dict[str, Any] = {"type": "string", "format": "binary"}
    file_schema: dict[str, Any] = {"type": "array", "items": binary} if many else binary
    properties = {**dict.fromkeys(files, file_schema), **{name: {"type": "string"} for name in texts}}
    content = {"multipart/form-data": {"schema": {"type": "object", "properties": properties}}}
    return {"requestBody": {"required": False, "content": content}}


def json_body() -> dict[str, Any]:
    """A bare JSON object of options."""
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": {"type": "object"}}}}}

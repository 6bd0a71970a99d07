"""What a store offers that keeps a record of what people did. `LocalDatastore` does, in its audit chain."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from labelserver.domain.json_types import JsonObject


@runtime_checkable
class ActLog(Protocol):
    """Acts that make no revision: of models, for example, or of what is known about an image."""

    def note_act(self, action: str, person: str, detail: JsonObject, *, image_id: str = "", tag: str = "") -> None:
        """Append an entry; one about an image names it, so that erasing finds it. Raises `StorageFailed`."""

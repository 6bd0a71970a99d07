"""A datastore that an app brought along: it lives in the lead worker, and every call goes there.

The guarantees of the local store (revisions, geometry checks, crash safety) end here, and ``/info/`` says so. All
methods block and must be called from a worker thread of the server's event loop (``anyio.to_thread``).
"""

from __future__ import annotations

from typing import Any

from anyio import from_thread

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.engine import Engine
from labelserver.domain.json_types import JsonValue

GUARANTEES_END = (
    "The app keeps its images and labels in a store of its own; revisions, geometry checks and crash safety "
    "of the built-in store do not hold."
)


class DatastoreThroughLead(Datastore):
    """Every method is ``datastore.<method>`` in the lead, with the arguments by position."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _call(self, method: str, *args: JsonValue) -> Any:
        async def call() -> JsonValue:
            return await self._engine.call_lead(f"datastore.{method}", {"args": list(args)})

        return from_thread.run(call)

    def name(self) -> str:
        return str(self._call("name"))

    def set_name(self, name: str) -> None:
        self._call("set_name", name)

    def description(self) -> str:
        return str(self._call("description"))

    def set_description(self, description: str) -> None:
        self._call("set_description", description)

    def datalist(self) -> list[dict[str, Any]]:
        return list(self._call("datalist") or [])

    def list_images(self) -> list[str]:
        return list(self._call("list_images") or [])

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return list(self._call("get_labeled_images", label_tag, labels) or [])

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return list(self._call("get_unlabeled_images", label_tag, labels) or [])

    def get_image_uri(self, image_id: str) -> str:
        return str(self._call("get_image_uri", image_id) or "")

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        return dict(self._call("get_image_info", image_id) or {})

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        return str(self._call("get_label_uri", label_id, label_tag) or "")

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        return dict(self._call("get_label_info", label_id, label_tag) or {})

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        return dict(self._call("get_labels_by_image_id", image_id) or {})

    def add_image(self, image_id: str | None, image_filename: str, image_info: dict[str, Any]) -> str:
        return str(self._call("add_image", image_id, image_filename, image_info))

    def remove_image(self, image_id: str) -> None:
        self._call("remove_image", image_id)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        return str(self._call("save_label", image_id, label_filename, label_tag, label_info))

    def remove_label(self, label_id: str, label_tag: str) -> None:
        self._call("remove_label", label_id, label_tag)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        self._call("update_image_info", image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        self._call("update_label_info", label_id, label_tag, info)

    def get_dataset_archive(self, limit_cases: int | None = None) -> str:
        return str(self._call("get_dataset_archive", limit_cases))

    def refresh(self) -> None:
        self._call("refresh")

    def status(self) -> dict[str, Any]:
        return dict(self._call("status") or {})

    def json(self) -> dict[str, Any]:
        return dict(self._call("json") or {})

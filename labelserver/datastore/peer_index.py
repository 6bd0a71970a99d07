"""``datastore_v2.json``, the index of a MONAI Label studies folder: read once, never written.

Shape: ``{"name", "description", "objects": {id: {"image": {"ext", "info"}, "labels": {tag: {"ext", "info"}}}}}``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labelserver.datastore.plain_json import plain_object
from labelserver.domain.json_types import JsonObject


@dataclass(frozen=True, slots=True)
class PeerIndex:
    """What it tells: image infos by path below the images folder, label infos by tag and file below the tag."""

    name: str = ""
    description: str = ""
    images: dict[str, JsonObject] = field(default_factory=dict)
    labels: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    problem: str = ""


def read_peer_index(path: Path) -> PeerIndex:
    """Empty if there is no such file; a damaged one is empty too and says so in `problem`."""
    try:
        document = json.loads(path.read_bytes())
        objects = document.get("objects", {})
        images: dict[str, JsonObject] = {}
        labels: dict[tuple[str, str], JsonObject] = {}
        for image_id, entry in objects.items():
            image = entry.get("image") or {}
            images[f"{image_id}{image.get('ext', '')}"] = _info(image)
            for tag, label in (entry.get("labels") or {}).items():
                labels[tag, f"{image_id}{label.get('ext', '')}"] = _info(label)
        return PeerIndex(str(document.get("name", "")), str(document.get("description", "")), images, labels)
    except FileNotFoundError:
        return PeerIndex()
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return PeerIndex(problem="This MONAI Label index is damaged; infos of images and labels were not taken over.")


def _info(entry: Any) -> JsonObject:
    info = entry.get("info")
    return plain_object(info) if isinstance(info, dict) else {}

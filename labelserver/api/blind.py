"""Readers of the same image do not see each other's labels before they have submitted their own.

`sees_label` is a dependency of every router whose paths name an image and a tag; whole-store answers are filtered.
"""

from __future__ import annotations

from anyio import to_thread
from fastapi import Request

from labelserver.api.context import ServerOf
from labelserver.api.identity import person_of
from labelserver.bootstrap import Server
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import BlindReading
from labelserver.domain.ids import FINAL, ImageId, parse_image_id, parse_tag
from labelserver.domain.json_types import JsonObject

#: Saves go under the saver's own tag, whatever he asks for, so they show nothing and replace nobody's label.
_SAVES = ("/datastore/label", "/voxels")


async def sees_label(request: Request, server: ServerOf) -> None:
    """Raises `BlindReading` if the caller must not see the label that the path or query names."""
    query = request.query_params
    image = request.path_params.get("image_id") or query.get("label") or query.get("image") or query.get("id") or ""
    tag = request.path_params.get("tag") or query.get("tag") or FINAL
    path = request.url.path.rstrip("/")
    if not image or (request.method == "PUT" and (path.endswith(_SAVES) or path.endswith(f"/labels/{tag}"))):
        return
    await to_thread.run_sync(ensure_sees, server, parse_image_id(image), tag, person_of(request))


def ensure_sees(server: Server, image_id: ImageId, tag: str, person: str) -> None:
    """May block. Raises `BlindReading`."""
    store = server.datastore
    if isinstance(store, LocalDatastore) and not store.work.reviews.may_see(image_id, parse_tag(tag), person):
        raise BlindReading(
            f"The label {tag!r} of {image_id!r} is one of several readings, which nobody sees before he has submitted "
            "his own. Submit yours, or wait until all readers have."
        )


def without_hidden(document: JsonObject, hidden: frozenset[tuple[str, str]]) -> JsonObject:
    """The whole index without the labels that the caller must not see. Changes `document`."""
    objects = document.get("objects")
    for image_id, tag in hidden:
        found = objects.get(image_id) if isinstance(objects, dict) else None
        labels = found.get("labels") if isinstance(found, dict) else None
        if isinstance(labels, dict):
            labels.pop(tag, None)
    return document


def hidden_from(server: Server, person: str) -> frozenset[tuple[str, str]]:
    """(image, tag) of the labels that this person must not see now. May block."""
    store = server.datastore
    return store.work.reviews.hidden_from(person) if isinstance(store, LocalDatastore) else frozenset()

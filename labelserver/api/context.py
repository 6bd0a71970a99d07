"""What a route needs to know about the server it belongs to and about its caller."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from labelserver.bootstrap import Server
from labelserver.contracts.datastore import RevisionStore
from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import ImageNotFound, TaskNotFound
from labelserver.domain.hosts import is_loopback
from labelserver.domain.ids import ImageId
from labelserver.domain.json_types import JsonObject


def server_of(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


async def _server(request: Request) -> Server:
    return server_of(request)  # a coroutine, because FastAPI sends other dependencies to a thread


ServerOf = Annotated[Server, Depends(_server)]


def shares_files(request: Request) -> bool:
    """True if the caller surely runs on this machine, so that a server path means something to it (S-15)."""
    proxied = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))
    if request.client is None or proxied or server_of(request).settings.behind_proxy:
        return False
    return is_loopback(request.client.host)


def table(document: JsonObject, key: str) -> JsonObject:
    """``document[key]`` if it is an object, else {}."""
    value = document.get(key)
    return dict(value) if isinstance(value, dict) else {}


def known_task(description: AppDescription | None, family: str, name: str, what: str) -> JsonObject:
    """What the app says about its task `name` of ``info[family]``; {} while the app has never been described.

    Raises:
        TaskNotFound: with the names that exist.
    """
    if description is None:
        return {}
    tasks = table(description.info, family)
    if name not in tasks:
        known = f"Known: {', '.join(sorted(tasks)[:20]) or 'none'}."
        raise TaskNotFound(f"There is no {what} named {name[:100]!r}. {description.info.get('no_app') or known}")
    return table(tasks, name)


def ensure_image(server: Server, image_id: ImageId) -> None:
    """Raise `ImageNotFound` unless the datastore has the image. May block."""
    store = server.datastore
    if isinstance(store, RevisionStore):
        store.image(image_id)
    elif not store.get_image_uri(image_id):
        raise ImageNotFound(f"There is no image {image_id!r}. List the ids with GET /datastore/?output=all.")

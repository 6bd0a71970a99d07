"""``POST /activelearning/{strategy}``: the image to label next, leased to whoever asks.

Clients of this route know no leases, so that each call gives an image that nobody has, also not the caller; a lease
ends when its label is submitted, or after the longer time that `Workflow.quiet_lease_s` says.
"""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from pathlib import Path

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf, known_task, shares_files
from labelserver.api.forms import read_json_object
from labelserver.api.giving import asked_of, give
from labelserver.api.identity import person_of
from labelserver.api.openapi import json_body
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import Datastore
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.queue import Asking
from labelserver.domain.errors import InvalidParams, LabelServerError
from labelserver.domain.ids import FINAL
from labelserver.domain.json_types import JsonObject
from labelserver.domain.work import Lease, NoWork
from labelserver.imaging.formats import split_ext
from labelserver.tasks.strategies import completed

logger = logging.getLogger(__name__)
router = APIRouter(tags=["Active learning"])

#: bytes; hashing this much takes about half a second once, and clients that cache downloads by checksum win it back.
CHECKSUM_LIMIT_BYTES = 512 * 2**20


@router.post(
    "/activelearning/{strategy}", summary="The next image to label, or {} when none is left", openapi_extra=json_body()
)
async def next_sample(request: Request, server: ServerOf, strategy: str) -> Response:
    params = await read_json_object(request)
    description = server.engine.description()
    known_task(description, "strategies", strategy, "strategy")
    if params.get("strategy") not in (None, "", strategy):
        raise InvalidParams("The strategy is taken from the path; remove 'strategy' from the body.")
    person = person_of(request, params.get("client_id"))
    store = await to_thread.run_sync(_store, server)
    if isinstance(store, LocalDatastore):
        asked = asked_of(server, strategy, params)
        narrowed = params.get("label_tag") not in (None, "", FINAL) or bool(params.get("labels"))
        asking = Asking(person, strategy, resume=False, quiet=True, any_order=False, done_too=narrowed)
        given = await give(server, store, asking, asked)
        if isinstance(given, NoWork):
            return json_answer({})
        sample = await to_thread.run_sync(_sample, store, given, {**params, "client_id": person})
    else:
        request_of_app: JsonObject = {**params, "strategy": strategy, "client_id": params.get("client_id") or person}
        answered = await server.engine.call_lead("next_sample", {"request": request_of_app})
        sample = dict(answered) if isinstance(answered, dict) else {}
    if not sample.get("id"):
        return json_answer({})
    return json_answer(await to_thread.run_sync(_completed, server, sample, shares_files(request)))


def _store(server: Server) -> Datastore:
    return server.datastore  # may open the store that the app asks for


def _sample(store: LocalDatastore, lease: Lease, asked: JsonObject) -> JsonObject:
    """What the strategy said, and the image's info; who was offered the image is remembered there."""
    details = lease.reason.get("details")
    chosen: JsonObject = {**(details if isinstance(details, dict) else {}), "id": lease.image_id}
    if lease.roi is not None:
        chosen["roi"] = lease.roi
    return completed(lease.strategy, chosen, asked, store)


def _completed(server: Server, sample: JsonObject, shared: bool) -> JsonObject:
    """With what clients need to fetch and name the image (R-30, R-31)."""
    image_id = str(sample["id"])
    path = Path(str(sample.get("path") or server.datastore.get_image_uri(image_id)))
    ext = split_ext(path.name)[1]
    name = str(sample.get("name") or path.name or image_id)
    if ext and split_ext(name)[1].lower() != ext.lower():
        name = split_ext(name)[0] + ext if split_ext(name)[1] else name + ext
    result: JsonObject = {**sample, "path": str(path) if shared else path.name or name, "name": name}
    checksum = checksum_of(path)
    if checksum and "checksum" not in result:
        result["checksum"] = f"SHA256:{checksum}"
    return result


def checksum_of(path: Path) -> str:
    """SHA-256 of a file that is not too large to hash while somebody waits; else ""."""
    try:
        stat = path.stat()
        if not path.is_file() or stat.st_size > CHECKSUM_LIMIT_BYTES:
            return ""
        return file_digest(path, "sha256", stat.st_mtime_ns, stat.st_size)
    except (OSError, LabelServerError) as error:
        logger.info("no checksum: %s", error)
        return ""


@lru_cache(maxsize=1024)
def file_digest(path: Path, algorithm: str, mtime_ns: int, size_bytes: int) -> str:
    """Hex digest of the file as it was at `mtime_ns` with `size_bytes`, which make the cache's key."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()

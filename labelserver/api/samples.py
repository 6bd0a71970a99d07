"""``POST /activelearning/{strategy}``: the image to label next.

Ready-made strategies need no torch and run here, in a thread; an app's own run in the lead worker, never behind an
inference.
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
from labelserver.api.identity import person_of
from labelserver.api.openapi import json_body
from labelserver.bootstrap import Server
from labelserver.domain.errors import InvalidParams, LabelServerError
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.formats import split_ext
from labelserver.tasks.strategies import READY_MADE, choose_next

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
    asked: JsonObject = {
        **params,
        "strategy": strategy,
        "client_id": params.get("client_id") or person_of(request, params.get("client_id")),
    }
    ready_made = description.ready_made_strategies.get(strategy) if description is not None else None
    overridden = description is None or "next_sample" in description.overridden_hooks
    if ready_made in READY_MADE and not overridden and description is not None and description.local_store is not None:
        sample = await to_thread.run_sync(_choose_here, server, strategy, str(ready_made), asked)
    else:
        answered = await server.engine.call_lead("next_sample", {"request": asked})
        sample = dict(answered) if isinstance(answered, dict) else {}
    if not sample.get("id"):
        return json_answer({})
    return json_answer(await to_thread.run_sync(_completed, server, sample, shares_files(request)))


def _choose_here(server: Server, strategy: str, ready_made: str, asked: JsonObject) -> JsonObject:
    return dict(choose_next(strategy, READY_MADE[ready_made](), asked, server.datastore))


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

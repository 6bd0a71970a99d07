"""Signs of life for the time log: what people do with images, seen in the requests they send.

Drawing is seen in drafts, looking in slices, prompts in sessions; a page may tell more (``POST .../activity``). A sign
costs a request nothing: it is noted in memory and written later.
"""

from __future__ import annotations

import logging
import re
import time
from functools import partial
from urllib.parse import parse_qs

from anyio import to_thread
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from labelserver.api.identity import person_of
from labelserver.api.info_document import contiguous
from labelserver.app.proof import keep_proposal
from labelserver.bootstrap import Server
from labelserver.domain.effort import Proposal, Sign
from labelserver.domain.errors import LabelServerError
from labelserver.domain.infer import InferAnswer, InferRequest, Priority

logger = logging.getLogger(__name__)

#: Method and path of what people do with an image -> its sign. Group 1 is the image's id.
_ON_IMAGES = (
    ("PUT", re.compile(r"^/api/v1/images/(.+)/drafts/[^/]+(?:/voxels)?$"), Sign.EDIT),
    ("GET", re.compile(r"^/api/v1/images/(.+)/volume(?:/slab)?$"), Sign.ACTIVE),
    ("POST", re.compile(r"^/api/v1/images/(.+)/predictions/[^/]+$"), Sign.ACTIVE),
)
#: The same for sessions, which name no image: the one that the person was last seen with is meant.
_IN_SESSIONS = re.compile(r"^/api/v1/sessions/[^/]+/(?:grid/)?(prompts|undo|redo|reset)$")

#: seconds; signs that only say that somebody is there are noted no more often.
_EVERY_S = 5.0
#: people and images that are remembered for that.
_REMEMBERED = 4096


class ActivityMiddleware:
    """ASGI middleware that notes what requests show."""

    def __init__(self, app: ASGIApp, server: Server, prefix: str = "") -> None:
        self._app = app
        self._server = server
        self._prefix = prefix
        self._noted: dict[tuple[str, str], float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            found = self._seen(scope)
            if found is not None:
                self._note(person_of(HTTPConnection(scope)), *found)
        await self._app(scope, receive, send)

    def _seen(self, scope: Scope) -> tuple[Sign, str] | None:
        method, path = str(scope["method"]), str(scope["path"])
        if path.startswith("/api/v1/images/"):
            for wanted, pattern, sign in _ON_IMAGES:
                matched = pattern.match(path) if method == wanted else None
                if matched is not None:
                    return sign, matched.group(1)
        elif method == "POST" and (matched := _IN_SESSIONS.match(path)):
            return (Sign.PROMPT if matched.group(1) == "prompts" else Sign.ACTIVE), ""
        elif method == "POST" and path.removeprefix(self._prefix).startswith("/infer/"):
            image = parse_qs(scope["query_string"].decode("latin-1")).get("image", [""])[0]
            return (Sign.ACTIVE, image) if image else None
        return None

    def _note(self, person: str, sign: Sign, image_id: str) -> None:
        store = self._server.stores.local
        if store is None:
            return
        now = time.time()
        if sign is Sign.ACTIVE:
            if now - self._noted.get((person, image_id), 0.0) < _EVERY_S:
                return
            if len(self._noted) > _REMEMBERED:
                self._noted.clear()
            self._noted[person, image_id] = now
        store.work.times.note(person, sign, image_id, ts=now)


def note_prompt(server: Server, person: str, image_id: str | None) -> None:
    """Somebody has prompted a session on this image."""
    store = server.stores.local
    if store is not None and image_id:
        store.work.times.note(person, Sign.PROMPT, image_id)


async def remember_proposal(server: Server, ask: InferRequest, answer: InferAnswer) -> None:
    """Keep what a model answers to somebody who holds the image, to compare it with his label; clicks are counted.

    Trouble with it is logged: the answer counts more.
    """
    store = server.stores.local
    if store is None or ask.image_id is None or (answer.file is None and answer.box is None):
        return
    held = await to_thread.run_sync(partial(store.work.queue.leases, ask.person))
    if all(lease.image_id != ask.image_id for lease in held):
        return
    if ask.priority is Priority.CLICK:
        store.work.times.note(ask.person, Sign.PROMPT, ask.image_id)
        return
    mask = answer.box if answer.box is not None else server.roots.resolve(answer.file) if answer.file else b""
    names = contiguous(answer.params.get("label_names"))
    values = {name: number for name, number in names.items() if isinstance(number, int) and number}
    proposal = Proposal(ask.model, answer.model_version)
    try:
        await to_thread.run_sync(keep_proposal, store, ask.image_id, ask.person, proposal, mask, values)
        await to_thread.run_sync(store.work.queue.touch, ask.image_id, ask.person)
    except (LabelServerError, OSError) as error:
        logger.info("a proposal could not be kept", extra={"image_id": ask.image_id, "reason": str(error)})

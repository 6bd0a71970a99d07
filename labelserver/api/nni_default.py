"""The second port: one task at ``/``, so that nobody has to type a path into nnInteractive's clients (NI-01).

Both protocols meet there, and share four path names. NI-02 tells them apart: a lease token or a binary body belongs to
the official one, a form or the older one's words in a JSON body to the older one.
"""

from __future__ import annotations

import json

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labelserver.wire.nni import LEASE_HEADER

#: paths of the older protocol alone, and those that both have.
_OLDER = frozenset({"/upload_image", "/upload_segment"})
_SHARED = frozenset(f"/add_{kind}_interaction" for kind in ("point", "bbox", "scribble", "lasso"))
#: words of the older protocol in a JSON body.
_OLDER_WORDS = frozenset({"voxel_coord", "outer_point_one"})
#: bytes of a body that is looked into.
PEEK_BYTES = 1 << 16


class DefaultMount:
    """ASGI middleware that gives requests at the second port the path of their mount."""

    def __init__(self, app: ASGIApp, *, port: int, mount: str) -> None:
        """`mount`: MODEL or MODEL/LABEL."""
        self._app = app
        self._port = port
        self._mount = mount.strip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        if scope["type"] != "http" or server is None or server[1] != self._port:
            await self._app(scope, receive, send)
            return
        older, receive = await _is_older(scope, receive)
        prefix = "/nni-slicer/" if older else "/nni/"
        root = scope.get("root_path", "")
        route = scope["path"][len(root) :] if scope["path"].startswith(root) else scope["path"]
        path = f"{root}{prefix}{self._mount}{route}"
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send)


async def _is_older(scope: Scope, receive: Receive) -> tuple[bool, Receive]:
    """Whether a request is one of the older protocol, and what gives its body, which may have been looked into."""
    path = scope["path"].rstrip("/")
    name = path[path.rfind("/") :]
    if name in _OLDER:
        return True, receive
    headers = Headers(scope=scope)
    if name not in _SHARED or LEASE_HEADER in headers:
        return False, receive
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return kind == "multipart/form-data", receive
    body, receive = await _peeked(receive)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False, receive
    return isinstance(document, dict) and not _OLDER_WORDS.isdisjoint(document), receive


async def _peeked(receive: Receive) -> tuple[bytes, Receive]:
    """The begin of a body, and a `receive` that gives the whole of it."""
    heard: list[Message] = []
    body = b""
    more = True
    while more and len(body) < PEEK_BYTES:
        message = await receive()
        heard.append(message)
        body += message.get("body", b"")
        more = message["type"] == "http.request" and bool(message.get("more_body", False))

    async def again() -> Message:
        return heard.pop(0) if heard else await receive()

    return body, again

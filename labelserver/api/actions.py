"""Notices that somebody works, for what waits until nobody does."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from labelserver.api.access import READING

#: What programs ask for by themselves, or what is about jobs: nobody labels by it.
_NO_WORK = ("/train", "/scoring", "/batch", "/api/v1/jobs", "/api/v1/training", "/api/v1/models", "/api/v1/events")
#: What a person opens to look at it.
_LOOKING = ("/datastore/image", "/datastore/label", "/api/v1/images/")


class ActionsMiddleware:
    """ASGI middleware that calls `note` for each request by which a person works on images and labels."""

    def __init__(self, app: ASGIApp, note: Callable[[], None], prefix: str = "") -> None:
        self._app = app
        self._note = note
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or (scope["type"] == "http" and self._is_work(scope)):
            self._note()
        await self._app(scope, receive, send)

    def _is_work(self, scope: Scope) -> bool:
        path = str(scope["path"]).removeprefix(self._prefix)
        if scope["method"] in READING:
            return path.startswith(_LOOKING)
        return not path.startswith(_NO_WORK)

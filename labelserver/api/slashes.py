"""Collection routes are known with a trailing slash and item routes without; both spellings answer, none redirects.

A redirect would be built from the ``Host`` header and would cost uploads their body.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

#: The peer registers these with a slash, and its clients print them so.
COLLECTIONS = frozenset({"/info", "/train", "/scoring", "/datastore", "/session", "/logs"})


class EitherSlash:
    """ASGI middleware that gives the router the spelling it knows."""

    def __init__(self, app: ASGIApp, prefix: str = "") -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": self._known(scope["path"], scope.get("root_path", ""))}
        await self._app(scope, receive, send)

    def _known(self, path: str, root_path: str) -> str:
        before = ""
        for prefix in (root_path, self._prefix):
            rest = path[len(before) :]
            if prefix and (rest == prefix or rest.startswith(prefix + "/")):
                before += prefix
        route = path[len(before) :]
        bare = route.rstrip("/")
        if bare in COLLECTIONS:
            return f"{before}{bare}/"
        if not bare:
            return f"{before}/"
        return f"{before}{bare}" if route.endswith("/") and not bare.startswith(("/proxy", "/ohif")) else path

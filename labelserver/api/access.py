"""The door is closed by default: which Host names are ours, which web pages may talk to us, who may change things.

A page of another site that a user happens to open can send requests to this server, and a name that an attacker
controls can be made to point to 127.0.0.1. So the ``Host`` header must be one of ours, a change with a foreign
``Origin`` is refused, and only allowed origins may read answers.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Self

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labelserver.api.problem_responses import problem_response
from labelserver.domain.errors import NotAllowed
from labelserver.domain.hosts import host_of_header, host_of_origin, is_loopback, is_wildcard
from labelserver.settings import Settings

READING = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
#: seconds a browser may remember a preflight, as in the peer.
MAX_AGE_S = 600
#: headers of answers that scripts of allowed origins may read.
EXPOSED = "Content-Disposition, ETag, Retry-After, Server-Timing, X-Meta"


@dataclass(frozen=True, slots=True)
class Access:
    """The rules, drawn from the settings."""

    bind_host: str
    host_names: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        names = {host_of_header(name) or name.lower() for name in settings.allowed_hosts}
        if not is_loopback(settings.host):
            names.add(socket.gethostname().lower())
        if not is_wildcard(settings.host):
            names.add(settings.host.strip("[]").lower())
        origins = frozenset(origin.strip().rstrip("/").lower() for origin in settings.cors_origins)
        return cls(settings.host, frozenset(names), origins)

    def host_is_ours(self, host: str, reached: str) -> bool:
        """`host`: name in the Host header. `reached`: the address at which the connection arrived."""
        if is_loopback(host) or host in self.host_names or "*" in self.host_names:
            return True
        # An address cannot be made to point elsewhere, so the one that was really reached is as good as a name.
        return is_wildcard(self.bind_host) and host != "" and host == reached.lower()

    def origin_is_allowed(self, origin: str, host: str) -> bool:
        """The same host (any port: viewers run beside the server), loopback, or named in ``--cors-origins``."""
        if "*" in self.origins or origin.rstrip("/").lower() in self.origins:
            return True
        name = host_of_origin(origin)
        return name != "" and (name == host or is_loopback(name))


class AccessMiddleware:
    """ASGI middleware that applies `Access` to HTTP requests and WebSocket handshakes."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, receive, send, refusal)
        elif scope["type"] == "http" and origin is not None:
            await self._with_origin(scope, receive, send, headers, origin)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> NotAllowed | None:
        host = host_of_header(headers.get("host", ""))
        server = scope.get("server")
        if not self._access.host_is_ours(host, server[0] if server else ""):
            return NotAllowed(
                f"This server does not go by the name {host[:100]!r}. "
                "Call it by its address, or start it with --allowed-hosts and this name."
            )
        if scope["type"] == "http" and scope["method"] in READING:
            return None
        origin = headers.get("origin")
        foreign = (
            not self._access.origin_is_allowed(origin, host)
            if origin is not None
            else headers.get("sec-fetch-site") == "cross-site"
        )
        if foreign:
            return NotAllowed(
                f"A page of {(origin or 'another site')[:100]!r} may not change anything here. "
                "If it should, start the server with --cors-origins and that origin."
            )
        return None

    async def _with_origin(self, scope: Scope, receive: Receive, send: Send, headers: Headers, origin: str) -> None:
        allowed = self._access.origin_is_allowed(origin, host_of_header(headers.get("host", "")))
        shared = {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"} if allowed else {}
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            if not allowed:
                await _refuse(scope, receive, send, NotAllowed(f"The origin {origin[:100]!r} is not allowed here."))
                return
            preflight = {
                **shared,
                "Access-Control-Allow-Methods": METHODS,
                "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "*"),
                "Access-Control-Max-Age": str(MAX_AGE_S),
                "Vary": "Origin",
            }
            await PlainTextResponse("OK", headers=preflight)(scope, receive, send)
            return

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.add_vary_header("Origin")
                for name, value in shared.items():
                    answer[name] = value
                if shared:
                    answer["Access-Control-Expose-Headers"] = EXPOSED
            await send(message)

        await self._app(scope, receive, send_shared)


async def _refuse(scope: Scope, receive: Receive, send: Send, error: NotAllowed) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
    else:
        await problem_response(scope["path"], error)(scope, receive, send)

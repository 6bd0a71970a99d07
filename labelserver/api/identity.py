"""Who is calling. The one place that says so; accounts will replace this file.

The answer is a claim, not a proof, and ``/info/`` says so: the header ``X-Labelserver-Person``, the page's name cookie,
the ``client_id`` that the peer's clients send, else ``anonymous@<address>``.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import unquote

from starlette.requests import HTTPConnection

from labelserver.domain.json_types import JsonValue

HEADER = "X-Labelserver-Person"
COOKIE = "labelserver_person"

#: characters; a name is stored with every label.
MAX_LENGTH = 120

CLAIM = (
    "The person is what the caller says (header X-Labelserver-Person, the page's name cookie, or client_id); "
    "this server does not check it."
)


def person_of(request: HTTPConnection, client_id: JsonValue = None) -> str:
    """The caller's name. `client_id` is the value from the request's parameters, where it has any."""
    return _claimed(request, client_id) or f"anonymous@{request.client.host if request.client else 'unknown'}"


def named(request: HTTPConnection) -> bool:
    """Has the caller given a name?"""
    return bool(_claimed(request, None))


def _claimed(request: HTTPConnection, client_id: JsonValue) -> str:
    claims = (
        request.headers.get(HEADER, ""),
        request.cookies.get(COOKIE, ""),
        client_id if isinstance(client_id, str) else request.query_params.get("client_id", ""),
    )
    return next((name for claim in claims if (name := _printable(unquote(claim)))), "")


def _printable(text: str) -> str:
    kept = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c)[0] != "C")
    return kept.strip()[:MAX_LENGTH]

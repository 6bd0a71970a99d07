"""What may go wrong for a caller.

ClientError
  ServerUnreachable   nobody answers at the address, or the connection broke
  AnswerUnclear       something answered that is not this server
  RequestFailed       the server said no; `status` and its own sentence
    NothingThere      404
    NotAllowedHere    401, 403
    Refused           400, 413, 422
      Conflict        409, 412: somebody or something was there before; `fields` say who
    ServerBusy        429: try again after `retry_after_s`
    NotBuilt          501: a part that this server does not have
    ServerFailed      500 and above
  JobFailed           a job that was waited for ended without success
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from labelserver.domain.json_types import JsonValue


class ClientError(Exception):
    """Root of the tree."""


class ServerUnreachable(ClientError):
    """Nobody answers at the address, or the connection broke."""


class AnswerUnclear(ClientError):
    """Something answered that is not this server."""


class JobFailed(ClientError):
    """A job that was waited for ended without success."""


class RequestFailed(ClientError):
    """The server said no. The message is its own sentence."""

    def __init__(
        self,
        status: int,
        sentence: str,
        retry_after_s: float | None = None,
        fields: Mapping[str, JsonValue] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.fields = dict(fields or {})  #: ids and numbers that the server names
        self.status = status
        self.sentence = sentence
        self.retry_after_s = retry_after_s


class NothingThere(RequestFailed):
    """No such image, label, model, job or route."""


class NotAllowedHere(RequestFailed):
    """This caller may not do this."""


class Refused(RequestFailed):
    """The request cannot be carried out as it stands."""


class Conflict(Refused):
    """Something else stands in the way: a newer label or schema, a name that is taken."""

    @property
    def newest(self) -> int | None:
        """The number of the label revision that is current now, if that is what the conflict is about."""
        number = self.fields.get("number")
        return number if isinstance(number, int) else None

    @property
    def author(self) -> str:
        """Who saved it."""
        return str(self.fields.get("author") or "")

    @property
    def etag(self) -> str:
        """Of the label that is current now; "" if there is none."""
        sha256 = self.fields.get("sha256")
        return f'"{sha256}"' if sha256 else ""


class ServerBusy(RequestFailed):
    """Try again later."""


class NotBuilt(RequestFailed):
    """A part that this server does not have."""


class ServerFailed(RequestFailed):
    """The server, or the app in it, failed."""


def _class_of(status: int) -> type[RequestFailed]:
    table: dict[int, type[RequestFailed]] = {
        401: NotAllowedHere,
        403: NotAllowedHere,
        404: NothingThere,
        409: Conflict,
        412: Conflict,
        429: ServerBusy,
        501: NotBuilt,
    }
    return table.get(status, ServerFailed if status >= 500 else Refused)


def failure_of(answer: httpx.Response) -> RequestFailed:
    """The error for an answer that is not a success; its body must have been read."""
    wait = answer.headers.get("retry-after", "")
    retry_after_s = float(wait) if wait.isdigit() else None
    return _class_of(answer.status_code)(answer.status_code, _sentence(answer), retry_after_s, _fields(answer))


def _fields(answer: httpx.Response) -> dict[str, JsonValue]:
    try:
        document: JsonValue = answer.json()
    except ValueError:
        return {}
    fields = document.get("fields") if isinstance(document, dict) else None
    return dict(fields) if isinstance(fields, dict) else {}


def _sentence(answer: httpx.Response) -> str:
    try:
        document: JsonValue = answer.json()
    except ValueError:
        return answer.text.strip()[:500] or f"The server answered with status {answer.status_code}."
    detail = document.get("detail") if isinstance(document, dict) else document
    if isinstance(detail, list):  # the peer's shape for a request that does not validate
        lines = [f"{'.'.join(map(str, d.get('loc', ())))}: {d.get('msg', '')}" for d in detail if isinstance(d, dict)]
        return "; ".join(lines)
    return str(detail) if detail else f"The server answered with status {answer.status_code}."

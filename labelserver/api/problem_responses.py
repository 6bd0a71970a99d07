"""The only place that knows HTTP status codes for errors: one table, looked up along the error's ancestry.

The peer's routes answer ``{"detail": "<sentence>"}``; ``/api/v1/`` and the operators' routes answer a problem document.
What nobody foresaw is logged under an id and answered with a sentence that names the id, never a traceback or a path.
"""

from __future__ import annotations

import logging
import uuid

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labelserver.domain import errors
from labelserver.domain.errors import LabelServerError
from labelserver.domain.json_types import JsonValue
from labelserver.wire.problems import MEDIA_TYPE, Problem

logger = logging.getLogger(__name__)

STATUS_OF: dict[type[LabelServerError], int] = {
    errors.NotFound: 404,
    errors.LeaseLost: 410,
    errors.Refused: 422,
    errors.Conflict: 409,
    errors.LabelChanged: 412,
    errors.NotAllowed: 403,
    errors.KeyRefused: 401,
    errors.TooLarge: 413,
    errors.Busy: 429,
    errors.SlotsTaken: 503,  # nnInteractive's clients read it so, and nothing else may answer it to them
    errors.Absent: 501,
    errors.UploadsOff: 406,  # what the peer's clients know
    errors.AppFailed: 500,
    errors.TookTooLong: 504,
    errors.StorageFailed: 500,
    errors.DiskFull: 507,
    errors.DeviceMemoryFull: 507,
}

#: nnInteractive's clients expect 400 for whatever they said wrong.
NNI_STATUS_OF = {errors.Refused: 400}

#: seconds after which a client that got no slot may try again, as in nnInteractive's own server.
SLOT_RETRY_AFTER_S = 10
#: seconds that a client told to wait should wait; a warm worker frees up within one inference.
RETRY_AFTER_S = 5


def status_of(error: LabelServerError) -> int:
    """The status of the nearest ancestor in the table; 500 for the bare root."""
    for cls in type(error).__mro__:
        if cls in STATUS_OF:
            return STATUS_OF[cls]
    return 500


def nni_response(error: LabelServerError) -> Response:
    """The answer for `error` to a client of nnInteractive's official protocol."""
    status = next((code for cls, code in NNI_STATUS_OF.items() if isinstance(error, cls)), status_of(error))
    return JSONResponse({"detail": error.message}, status, _headers(error, status))


def speaks_problems(path: str) -> bool:
    """True for routes that answer errors as problem documents."""
    return "/api/v1/" in path or path.endswith(("/healthz", "/readyz"))


def problem_response(path: str, error: LabelServerError) -> Response:
    """The answer for `error` in the shape that clients of `path` expect."""
    status = status_of(error)
    return _shaped(path, Problem.from_domain(error, status), error.message, _headers(error, status))


def _headers(error: LabelServerError, status: int) -> dict[str, str]:
    if isinstance(error, errors.SlotsTaken):
        return {"Retry-After": str(SLOT_RETRY_AFTER_S)}
    if isinstance(error, errors.TooLarge):
        return {"Connection": "close"}
    return {"Retry-After": str(RETRY_AFTER_S)} if status == 429 else {}


def _shaped(path: str, problem: Problem, detail: JsonValue, headers: dict[str, str]) -> Response:
    if speaks_problems(path):
        return JSONResponse(problem.to_json(), problem.status, headers, media_type=MEDIA_TYPE)
    return JSONResponse({"detail": detail}, problem.status, headers)


async def _on_our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LabelServerError)
    if status_of(error) >= 500 and not isinstance(error, errors.Absent):
        logger.warning(
            "request failed",
            extra={"path": request.url.path, "code": error.code, **{f"field_{k}": v for k, v in error.fields.items()}},
            exc_info=error,
        )
    return problem_response(request.url.path, error)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    """Query and path values of the wrong type: FastAPI's list on the peer's routes, a sentence on the new ones."""
    assert isinstance(error, RequestValidationError)
    found = [{key: item[key] for key in ("type", "loc", "msg", "input")} for item in error.errors()]
    sentence = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in found)
    problem = Problem(title="The request is not valid", status=422, detail=sentence, code="InvalidParams")
    return _shaped(request.url.path, problem, jsonable_encoder(found), {})


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods, found by the router."""
    assert isinstance(error, HTTPException)
    problem = Problem(title=str(error.detail), status=error.status_code, detail=str(error.detail))
    return _shaped(request.url.path, problem, str(error.detail), dict(error.headers or {}))


def install(app: FastAPI) -> None:
    """Answer every error of `app` in its shape."""
    app.add_exception_handler(LabelServerError, _on_our_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)


class LastHandler:
    """ASGI middleware that turns an exception nobody foresaw into a logged id and a sentence."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched_send(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ClientDisconnect:
            logger.info("client went away", extra={"path": scope["path"]})
        except LabelServerError as error:  # raised while an answer was being built outside the router
            if begun:
                raise
            await problem_response(scope["path"], error)(scope, receive, send)
        except Exception:
            # The last handler: whatever failed, the caller gets a sentence and the log gets the traceback.
            incident = uuid.uuid4().hex[:12]
            logger.exception("unforeseen error", extra={"incident": incident, "path": scope["path"]})
            if begun:
                raise
            sentence = f"The server made a mistake. Its log says more under the id {incident}."
            problem = Problem(title="Unforeseen error", status=500, detail=sentence, fields={"incident": incident})
            await _shaped(scope["path"], problem, sentence, {})(scope, receive, send)

"""``/healthz`` and ``/readyz`` for operators: alive, and ready for work."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from labelserver import __version__
from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.wire.problems import MEDIA_TYPE, Problem

router = APIRouter(tags=["Operation"])


@router.get("/healthz", summary="The server process answers")
async def healthz() -> Response:
    return json_answer({"status": "ok", "version": __version__})


@router.get("/readyz", summary="200 once a worker has loaded the app, else 503 with the reason")
async def readyz(server: ServerOf) -> Response:
    readiness = server.engine.readiness()
    if readiness.ready:
        return json_answer({"status": "ready"})
    problem = Problem(title="Not ready", status=503, detail=readiness.reason or "The app is still loading.")
    return JSONResponse(problem.to_json(), 503, {"Retry-After": "1"}, media_type=MEDIA_TYPE)

"""``/scoring``: scoring methods as jobs."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api import tasks
from labelserver.api.context import ServerOf, known_task, table
from labelserver.api.forms import read_json_object
from labelserver.api.identity import person_of
from labelserver.api.infer_params import checked_job_params
from labelserver.api.openapi import json_body
from labelserver.domain.errors import TaskNotFound, WorkerNotReady
from labelserver.domain.jobs import JobKind

router = APIRouter(tags=["Scoring"])


@router.get("/scoring/", summary="The running scoring, else the last one")
async def scoring_status(server: ServerOf, all: bool = False, check_if_running: bool = False) -> Response:
    return tasks.status_answer(server, JobKind.SCORING, every=all, only_running=check_if_running)


@router.post("/scoring/", summary="Start every scoring method, one behind the other", openapi_extra=json_body())
async def scoring_all(request: Request, server: ServerOf, run_sync: bool = False) -> Response:
    params = await read_json_object(request)
    description = server.engine.description()
    if description is None:
        raise WorkerNotReady("The app is still loading, so its scoring is not known yet. Try again in some seconds.")
    methods = table(description.info, "scoring")
    if not methods:
        raise TaskNotFound("The app has no scoring method. Add one in init_scoring_methods.")
    asked = {
        name: checked_job_params(params, "method", name, table(table(methods, name), "config")) for name in methods
    }
    person = person_of(request, params.get("client_id"))
    return await tasks.start_each(server, JobKind.SCORING, asked, person, run_sync=run_sync)


@router.post("/scoring/{method}", summary="Start a scoring method", openapi_extra=json_body())
async def scoring(request: Request, server: ServerOf, method: str, run_sync: bool = False) -> Response:
    params = await read_json_object(request)
    described = known_task(server.engine.description(), "scoring", method, "scoring method")
    person = person_of(request, params.get("client_id"))
    params = checked_job_params(params, "method", method, table(described, "config"))
    return await tasks.start_answer(server, JobKind.SCORING, method, params, person, enqueue=False, run_sync=run_sync)


@router.delete("/scoring/", summary="Stop the running scoring")
async def scoring_stop(server: ServerOf) -> Response:
    return await tasks.stop_answer(server, JobKind.SCORING)

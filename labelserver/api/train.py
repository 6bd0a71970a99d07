"""``/train``: trainings as jobs."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api import tasks
from labelserver.api.context import ServerOf, known_task, table
from labelserver.api.forms import read_json_object
from labelserver.api.identity import person_of
from labelserver.api.infer_params import checked_job_params
from labelserver.api.openapi import json_body
from labelserver.domain.errors import InvalidParams, TaskNotFound, WorkerNotReady
from labelserver.domain.jobs import JobKind
from labelserver.domain.json_types import JsonObject

router = APIRouter(tags=["Training"])


@router.get("/train/", summary="The running training, else the last one")
async def train_status(server: ServerOf, all: bool = False, check_if_running: bool = False) -> Response:
    return tasks.status_answer(server, JobKind.TRAIN, every=all, only_running=check_if_running)


@router.post("/train/", summary="Start every trainer, one behind the other", openapi_extra=json_body())
async def train_all(request: Request, server: ServerOf, run_sync: bool = False) -> Response:
    params = await read_json_object(request)
    description = server.engine.description()
    if description is None:
        raise WorkerNotReady("The app is still loading, so its trainers are not known yet. Try again in some seconds.")
    trainers = table(description.info, "trainers")
    if not trainers:
        raise TaskNotFound(
            "The app has no trainer. Add one in init_trainers, or start it with --conf skip_trainers false."
        )
    shared = {key: value for key, value in params.items() if key not in trainers}
    asked: dict[str, JsonObject] = {}
    for name in trainers:
        own = params.get(name, {})
        if not isinstance(own, dict):
            raise InvalidParams(f"The options of trainer {name!r} must be an object.")
        offered = table(table(trainers, name), "config")
        asked[name] = checked_job_params({**shared, **own}, "model", name, offered)
    person = person_of(request, params.get("client_id"))
    return await tasks.start_each(server, JobKind.TRAIN, asked, person, run_sync=run_sync)


@router.post("/train/{model}", summary="Start a training", openapi_extra=json_body())
async def train(
    request: Request, server: ServerOf, model: str, run_sync: bool = False, enqueue: bool = False
) -> Response:
    params = await read_json_object(request)
    trainer = known_task(server.engine.description(), "trainers", model, "trainer")
    person = person_of(request, params.get("client_id"))
    params = checked_job_params(params, "model", model, table(trainer, "config"))
    return await tasks.start_answer(server, JobKind.TRAIN, model, params, person, enqueue=enqueue, run_sync=run_sync)


@router.delete("/train/", summary="Stop the running training")
async def train_stop(server: ServerOf) -> Response:
    return await tasks.stop_answer(server, JobKind.TRAIN)

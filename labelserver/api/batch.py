"""``/batch/infer``: inference over many images as a job."""

from __future__ import annotations

from enum import StrEnum

from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api import tasks
from labelserver.api.context import ServerOf, known_task, table
from labelserver.api.forms import read_json_object
from labelserver.api.identity import person_of
from labelserver.api.infer_params import checked_job_params
from labelserver.api.openapi import json_body
from labelserver.domain.errors import InvalidParams, Refused
from labelserver.domain.ids import parse_image_id
from labelserver.domain.jobs import JobKind
from labelserver.domain.json_types import JsonObject, JsonValue

router = APIRouter(tags=["Batch inference"])

#: What a missing body means; a body replaces it (contract 1.9).
DEFAULT_PARAMS: JsonObject = {
    "device": "cuda",
    "multi_gpu": True,
    "gpus": "all",
    "logging": "WARNING",
    "save_label": True,
    "label_tag": "original",
    "max_workers": 1,
    "max_batch_size": 0,
}


class Images(StrEnum):
    """Which images; `labeled` means with a ``final`` label."""

    ALL = "all"
    LABELED = "labeled"
    UNLABELED = "unlabeled"


@router.get("/batch/infer", summary="The running batch inference, else the last one")
async def batch_status(server: ServerOf, all: bool = False, check_if_running: bool = False) -> Response:
    return tasks.status_answer(server, JobKind.BATCH_INFER, every=all, only_running=check_if_running)


@router.post("/batch/infer/{model}", summary="Run a model over many images", openapi_extra=json_body())
async def batch_infer(
    request: Request, server: ServerOf, model: str, images: Images = Images.ALL, run_sync: bool = False
) -> Response:
    if not server.settings.tasks_batch_infer:
        raise Refused("Batch inference is switched off here. Start the server with LABELSERVER_TASKS_BATCH_INFER=true.")
    params = await read_json_object(request) or dict(DEFAULT_PARAMS)
    described = known_task(server.engine.description(), "models", model, "model")
    person = person_of(request, params.get("client_id"))
    chosen = _chosen(params.pop("images", None), images)
    params = checked_job_params(params, "model", model, table(described, "config"))
    params["images"] = chosen
    return await tasks.start_answer(
        server, JobKind.BATCH_INFER, model, params, person, enqueue=False, run_sync=run_sync
    )


@router.delete("/batch/infer", summary="Stop the running batch inference")
async def batch_stop(server: ServerOf) -> Response:
    return await tasks.stop_answer(server, JobKind.BATCH_INFER)


def _chosen(named: JsonValue, images: Images) -> JsonValue:
    """A list of ids in the body wins over the query."""
    if named in (None, ""):
        return images.value
    if isinstance(named, str) and named in set(Images):
        return named
    if isinstance(named, list) and all(isinstance(item, str) for item in named):
        return [parse_image_id(str(item)) for item in named]
    raise InvalidParams("images must be 'all', 'labeled', 'unlabeled', or a list of image ids.")

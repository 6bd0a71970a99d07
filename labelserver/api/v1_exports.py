"""Exports: a version of a model becomes an archive, in a job of its own."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api.answers import file_answer, json_answer
from labelserver.api.context import ServerOf, known_task
from labelserver.api.identity import person_of
from labelserver.domain.errors import Conflict, JobNotFound
from labelserver.domain.ids import parse_job_id
from labelserver.domain.jobs import EXPORT_ARCHIVE, JobKind, JobState
from labelserver.domain.json_types import JsonObject
from labelserver.wire.jobs import Job
from labelserver.wire.models import Export

router = APIRouter(prefix="/api/v1", tags=["Models"])


@router.post(
    "/models/{model}/versions/{number}/export",
    summary="Take a version out: a job whose archive can be fetched",
    response_model=Job,
    status_code=202,
)
async def export(request: Request, server: ServerOf, model: str, number: int, asked: Export | None = None) -> Response:
    """Queue the export. Follow its job, then fetch ``/api/v1/jobs/{id}/archive``."""
    wanted = asked or Export.model_validate({})
    description = server.engine.description()
    known_task(description, "models", model, "model")
    lineage = description.trainer_models.get(model, model) if description is not None else model
    await to_thread.run_sync(server.model_store.version, lineage, number)
    params: JsonObject = {"version": number, **wanted.model_dump(mode="json")}
    record = await server.engine.jobs.submit(JobKind.EXPORT, model, params, person_of(request), enqueue=True)
    return json_answer(Job.from_domain(record).model_dump(mode="json"), 202)


@router.get("/jobs/{job_id}/archive", summary="What an export job made, as a zip file")
async def archive(server: ServerOf, job_id: str) -> Response:
    jobs = server.engine.jobs
    record = jobs.get(parse_job_id(job_id))
    if record.spec.kind is not JobKind.EXPORT:
        raise JobNotFound(f"The job {job_id} is a {record.spec.kind.value} job; only exports make an archive.")
    if record.state is not JobState.DONE:
        raise Conflict(f"The export {job_id} is {record.state.value}; its archive is there once it is done.")
    path = jobs.file(record.spec.job_id, EXPORT_ARCHIVE)
    name = f"{record.spec.task}-{record.spec.params.get('version')}.zip"
    return await to_thread.run_sync(file_answer, path, name, "application/zip")

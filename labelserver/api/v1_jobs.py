"""``/api/v1/jobs``: jobs with everything that is known about them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.domain.ids import parse_job_id
from labelserver.domain.jobs import JobKind, JobState
from labelserver.wire.jobs import Curve, Job, JobList

router = APIRouter(prefix="/api/v1", tags=["Jobs"])


@router.get("/jobs", summary="Jobs, oldest first", response_model=JobList)
async def list_jobs(server: ServerOf, kind: JobKind | None = None, state: JobState | None = None) -> Response:
    records = [r for r in server.engine.jobs.list(kind) if state is None or r.state is state]
    return json_answer(JobList(jobs=[Job.from_domain(r) for r in records]).model_dump(mode="json"))


@router.get("/jobs/{job_id}", summary="One job", response_model=Job)
async def get_job(server: ServerOf, job_id: str) -> Response:
    record = server.engine.jobs.get(parse_job_id(job_id))
    return json_answer(Job.from_domain(record).model_dump(mode="json"))


@router.post("/jobs/{job_id}/stop", summary="Ask a job to end at its next step", response_model=Job)
async def stop_job(server: ServerOf, job_id: str) -> Response:
    record = await server.engine.jobs.stop(parse_job_id(job_id))
    return json_answer(Job.from_domain(record).model_dump(mode="json"))


@router.post(
    "/jobs/{job_id}/resume", summary="Let a stopped or failed job go on from its checkpoint", response_model=Job
)
async def resume_job(server: ServerOf, job_id: str) -> Response:
    record = await server.engine.jobs.resume(parse_job_id(job_id))
    return json_answer(Job.from_domain(record).model_dump(mode="json"))


@router.get("/jobs/{job_id}/curve", summary="Loss, learning rate and metrics by epoch", response_model=Curve)
async def get_curve(server: ServerOf, job_id: str) -> Response:
    record = server.engine.jobs.get(parse_job_id(job_id))
    return json_answer(Curve.from_domain(record).model_dump(mode="json"))

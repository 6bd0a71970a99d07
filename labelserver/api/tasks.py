"""What the three task families share: starting, watching and stopping jobs in the peer's words."""

from __future__ import annotations

from starlette.responses import Response

from labelserver.api.answers import finite, json_answer
from labelserver.api.task_documents import preferred, task_document
from labelserver.bootstrap import Server
from labelserver.domain.errors import IllegalTransition, JobNotFound, QueueFull, TaskFailed
from labelserver.domain.jobs import JobKind, JobRecord, JobState
from labelserver.domain.json_types import JsonObject, JsonValue

#: what the peer calls each family in its sentences.
TITLES = {JobKind.TRAIN: "Train", JobKind.SCORING: "Scoring", JobKind.BATCH_INFER: "Batch_infer"}


def status_answer(server: Server, kind: JobKind, *, every: bool, only_running: bool) -> Response:
    """The running task, else the last one; all of them; or the running one alone (R-34).

    Raises:
        JobNotFound: there is none.
    """
    records = server.engine.jobs.list(kind)
    if only_running:
        records = [r for r in records if r.state.is_active]
        if not records:
            raise JobNotFound(f"No {TITLES[kind]} Tasks are currently Running")
    chosen = preferred(records)
    if chosen is None:
        raise JobNotFound(f"No {TITLES[kind]} Tasks Found")
    return json_answer([task_document(r) for r in records] if every else task_document(chosen))


async def submit(
    server: Server, kind: JobKind, task: str, params: JsonObject, person: str, *, enqueue: bool
) -> JobRecord:
    """Start a job. Raises `QueueFull` in the peer's words."""
    try:
        return await server.engine.jobs.submit(kind, task, params, person, enqueue=enqueue)
    except QueueFull as error:
        raise QueueFull(
            f"++++++++++ {TITLES[kind]} Task is Already Running. {error.message}", **error.fields
        ) from error


async def result_of(server: Server, record: JobRecord) -> JsonValue:
    """Wait for the job's end and give what its task returned. Raises `TaskFailed` if it failed or was stopped."""
    ended = await server.engine.jobs.wait(record.spec.job_id)
    if ended.state is not JobState.DONE:
        why = ended.message or f"it was {ended.state.value}"
        raise TaskFailed(f"The {ended.spec.kind.value} job {ended.spec.job_id} did not finish: {why}")
    result: JsonValue = finite(ended.result or {})
    return result


async def start_answer(
    server: Server, kind: JobKind, task: str, params: JsonObject, person: str, *, enqueue: bool, run_sync: bool
) -> Response:
    """Start one job and answer its task object, or its result with `run_sync`."""
    record = await submit(server, kind, task, params, person, enqueue=enqueue)
    return json_answer(await result_of(server, record) if run_sync else task_document(record))


async def start_each(
    server: Server, kind: JobKind, asked: dict[str, JsonObject], person: str, *, run_sync: bool
) -> Response:
    """Start one job for each task, queued behind one another, and answer the peer's table of results."""
    answers: JsonObject = {}
    records = [await submit(server, kind, task, params, person, enqueue=True) for task, params in asked.items()]
    for record in records:
        answers[record.spec.task] = {
            "result": await result_of(server, record) if run_sync else task_document(record),
            "detail": None,
        }
    return json_answer(answers)


async def stop_answer(server: Server, kind: JobKind) -> Response:
    """Stop the running task; ``null`` if there is none (R-33)."""
    active = [r for r in server.engine.jobs.list(kind) if r.state.is_active]
    if not active:
        return json_answer(None)
    try:
        return json_answer(task_document(await server.engine.jobs.stop(active[-1].spec.job_id)))
    except IllegalTransition:  # it ended by itself in this moment
        return json_answer(task_document(server.engine.jobs.get(active[-1].spec.job_id)))

"""``/api/v1/sessions``: an image opened for prompts, and a mask that answers each of them.

A session belongs to the person who opened it; to anybody else it does not exist. It stays, with everything that was
drawn, until it is closed or was not used for ``keep_sessions_days``. Answers take the form that ``Accept`` names (see
`session_answers`). A caller who goes away cancels the prediction, and nothing is changed.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from labelserver.api import session_answers
from labelserver.api.answers import file_answer, json_answer, json_bytes
from labelserver.api.context import ServerOf, table
from labelserver.api.disconnects import while_connected
from labelserver.api.identity import person_of
from labelserver.api.label_saving import expected_of, said_by_app
from labelserver.api.problem_responses import status_of
from labelserver.api.session_answers import Form, Shell
from labelserver.api.session_bodies import prompts_of, read_body, read_model
from labelserver.api.sessions import ensure_on
from labelserver.app.image_files import opened_image
from labelserver.bootstrap import Server
from labelserver.domain.errors import LabelServerError, NoImageGiven, NotThereYet
from labelserver.domain.ids import ImageId, parse_image_id, parse_tag
from labelserver.domain.interaction import OpenSession, SessionAnswer
from labelserver.domain.paths import Root, RootedPath
from labelserver.domain.prompts import Prompt
from labelserver.imaging.formats import split_ext
from labelserver.wire.labels import LabelRevision
from labelserver.wire.problems import Problem
from labelserver.wire.sessions import (
    AcceptRequest,
    PrefetchRequest,
    PromptAnswer,
    PromptModel,
    PromptModelList,
    PromptRequest,
    ResetRequest,
    SessionDocument,
    SessionList,
    SessionRequest,
)

router = APIRouter(prefix="/api/v1/sessions", tags=["Interactive sessions"])


@router.get("/models", summary="Models that take prompts, and which", response_model=PromptModelList)
def list_models(server: ServerOf) -> Response:
    description = server.engine.description()
    models = table(description.info, "models") if description is not None else {}
    found = []
    for name in models:
        told = table(models, name)
        interactive = table(told, "interactive")
        if interactive:
            document = {**interactive, "labels": interactive.get("label_values"), "name": name}
            found.append(PromptModel.model_validate({**document, "description": told.get("description", "")}))
    return json_answer(PromptModelList(models=found).model_dump(mode="json"))


@router.post("", summary="Open an image for prompts", status_code=201, response_model=SessionDocument)
async def open_session(request: Request, server: ServerOf, body: SessionRequest) -> Response:
    if bool(body.image) == bool(body.upload):
        raise NoImageGiven(
            "Name the image of a session: 'image' is an id of the datastore, 'upload' one of PUT /session/."
        )
    image_id: ImageId | None = None
    image_file: RootedPath | None = None
    if body.image:
        image_id = parse_image_id(body.image)
    else:
        image_file = await to_thread.run_sync(_copied_upload, server, body.upload)
    started = time.perf_counter()
    try:
        session = await while_connected(
            request,
            server.interactions.open(
                person_of(request), body.task, image_id=image_id, image_file=image_file, params=dict(body.params)
            ),
        )
    finally:
        if image_file is not None:  # the session has taken it, or there is none
            server.roots.resolve(image_file).unlink(missing_ok=True)
    answer = json_answer(SessionDocument.from_domain(session).model_dump(mode="json"), 201)
    answer.headers["Location"] = f"/api/v1/sessions/{session.session_id}"
    answer.headers["Server-Timing"] = session_answers.stage_header(session.seconds, time.perf_counter() - started)
    return answer


@router.post("/prefetch", summary="Let a worker read and prepare an image that will be opened soon", status_code=204)
async def prefetch(request: Request, server: ServerOf, body: PrefetchRequest) -> Response:
    work = server.interactions.prefetch(body.task, parse_image_id(body.image), person_of(request))
    await while_connected(request, work)
    return Response(status_code=204)


@router.get("", summary="Open sessions of the caller", response_model=SessionList)
async def list_sessions(
    request: Request, server: ServerOf, image: Annotated[str, Query(description="Of this image alone.")] = ""
) -> Response:
    found = await server.interactions.list(person_of(request), image_id=image)
    listed = SessionList(sessions=[SessionDocument.from_domain(session) for session in found])
    return json_answer(listed.model_dump(mode="json"))


@router.get("/{session_id}", summary="One session", response_model=SessionDocument)
async def get_session(request: Request, server: ServerOf, session_id: str) -> Response:
    session = await server.interactions.get(session_id, person_of(request))
    return json_answer(SessionDocument.from_domain(session).model_dump(mode="json"))


_ANSWERS = {
    200: {
        "content": {name: {} for name in session_answers.FORMS if name != session_answers.JSON},
        "description": "What changed, in the form that Accept names.",
    }
}


@router.post(
    "/{session_id}/prompts",
    summary="Draw: points, scribbles, boxes, lassos, masks; answers what changed",
    response_model=PromptAnswer,
    responses=_ANSWERS,  # type: ignore[arg-type]  # FastAPI's own type is wider than it says
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": PromptRequest.model_json_schema(ref_template="#/components/schemas/{model}")
                },
                "application/vnd.labelserver.box+zstd": {"schema": {"type": "string", "format": "binary"}},
                "application/vnd.labelserver.box+gzip": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
async def prompt(request: Request, server: ServerOf, session_id: str) -> Response:
    person, form = person_of(request), session_answers.chosen_form(request.headers.get("accept", ""))
    session = await server.interactions.get(session_id, person)
    prompts, predict = await prompts_of(request.headers.get("content-type", ""), await read_body(request), session)
    sessions = server.interactions
    if form.streamed:
        return await _streamed(request, server, session, person, form, prompts, predict)
    answer = await while_connected(request, sessions.prompt(session_id, person, prompts, predict=predict))
    return await _answered(server, session_id, person, form, answer)


@router.post("/{session_id}/undo", summary="Take back the last step", response_model=PromptAnswer)
async def undo(request: Request, server: ServerOf, session_id: str) -> Response:
    person, form = person_of(request), session_answers.chosen_form(request.headers.get("accept", ""))
    return await _answered(server, session_id, person, form, await server.interactions.undo(session_id, person))


@router.post("/{session_id}/redo", summary="Make the last undone step again", response_model=PromptAnswer)
async def redo(request: Request, server: ServerOf, session_id: str) -> Response:
    person, form = person_of(request), session_answers.chosen_form(request.headers.get("accept", ""))
    return await _answered(server, session_id, person, form, await server.interactions.redo(session_id, person))


@router.post("/{session_id}/reset", summary="Empty the mask, forget the prompts", response_model=PromptAnswer)
async def reset(request: Request, server: ServerOf, session_id: str) -> Response:
    person, form = person_of(request), session_answers.chosen_form(request.headers.get("accept", ""))
    body = read_model(ResetRequest, await read_body(request) or b"{}")
    answer = await server.interactions.reset(session_id, person, forget=body.forget)
    return await _answered(server, session_id, person, form, answer)


@router.get("/{session_id}/mask", summary="The whole mask on the image's grid", response_class=Response)
async def get_mask(
    request: Request,
    server: ServerOf,
    session_id: str,
    ext: Annotated[
        str, Query(description="Format: .nii.gz, .nii, .nrrd, .mha, .png, or .lsmb (the packed box).")
    ] = ".nii.gz",
) -> Response:
    path = await server.interactions.mask_file(session_id, person_of(request), ext=ext)
    return await to_thread.run_sync(lambda: file_answer(path, f"mask{ext}", delete=True))


@router.post(
    "/{session_id}/accept", summary="Make the mask a label of the image", status_code=201, response_model=LabelRevision
)
async def accept(request: Request, server: ServerOf, session_id: str) -> Response:
    person = person_of(request)
    body = read_model(AcceptRequest, await read_body(request) or b"{}")
    client = request.headers.get("user-agent", "")[:200]
    label_id, revision = await server.interactions.accept(
        session_id,
        person,
        parse_tag(body.tag),
        client=client,
        info=dict(body.info),
        expected=expected_of(request.headers),
    )
    session = await server.interactions.get(session_id, person)
    await said_by_app(server, str(session.image_id), label_id)
    if revision is None:
        raise NotThereYet("The label is saved, but the app's own store keeps no revisions that could be described.")
    answer = json_answer(LabelRevision.from_domain(revision, current=True).model_dump(mode="json"), 201)
    answer.headers["ETag"] = f'"{revision.sha256}"'
    return answer


@router.delete("/{session_id}", summary="Close a session and forget what was drawn in it", status_code=204)
async def close_session(request: Request, server: ServerOf, session_id: str) -> Response:
    await server.interactions.close(session_id, person_of(request))
    return Response(status_code=204)


async def _answered(server: Server, session_id: str, person: str, form: Form, answer: SessionAnswer) -> Response:
    started = time.perf_counter()
    session = await server.interactions.get(session_id, person)
    if form.shell is Shell.FILE:
        path = await server.interactions.mask_file(session_id, person)
        response = await to_thread.run_sync(lambda: file_answer(path, "mask.nii.gz", delete=True))
    else:
        body = await _encoded(form, answer, session)
        response = Response(body, media_type=form.media_type)
    response.headers["Vary"] = "Accept"
    response.headers["Server-Timing"] = session_answers.stage_header(answer.seconds, time.perf_counter() - started)
    return response


async def _encoded(form: Form, answer: SessionAnswer, session: OpenSession) -> bytes:
    """The body; a large one is made in a thread, so that nobody else waits for it."""

    def encode() -> bytes:
        if form.shell is Shell.BOX:
            return session_answers.box_bytes(answer, session, form.codec, {})
        return session_answers.json_text(answer, session).encode()

    return await to_thread.run_sync(encode) if answer.change.values.size > _LARGE_VOXELS else encode()


#: voxels of a change from which a thread encodes it; below, a thread costs more than it saves.
_LARGE_VOXELS = 2**18


async def _streamed(
    request: Request,
    server: Server,
    session: OpenSession,
    person: str,
    form: Form,
    prompts: list[Prompt],
    predict: bool,
) -> Response:
    """Coarse answers as they come. Whatever fails before the first one is an error like any other."""
    coarse: asyncio.Queue[SessionAnswer] = asyncio.Queue()
    sessions = server.interactions
    work = asyncio.ensure_future(
        sessions.prompt(session.session_id, person, prompts, predict=predict, on_partial=coarse.put_nowait)
    )
    try:
        first = await while_connected(request, _next(coarse, work))
    except BaseException:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        raise
    if first is None:
        work.result()

    async def parts() -> AsyncIterator[bytes]:
        shown = first
        try:
            while shown is not None:
                yield _part(form, await _encoded(form, shown, session))
                shown = await _next(coarse, work)
            try:
                final = work.result()
            except LabelServerError as error:
                yield _failed_part(form, session, error)
                return
            now = await sessions.get(session.session_id, person)
            yield _part(form, await _encoded(form, final, now))
        finally:  # the caller has left
            work.cancel()

    return StreamingResponse(parts(), media_type=form.media_type, headers={"Vary": "Accept"})


async def _next(coarse: asyncio.Queue[SessionAnswer], work: asyncio.Future[SessionAnswer]) -> SessionAnswer | None:
    """The next coarse answer; None once `work` is done and all were taken."""
    if coarse.empty() and not work.done():
        waiting = asyncio.ensure_future(coarse.get())
        try:
            either: list[asyncio.Future[SessionAnswer]] = [work, waiting]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not waiting.done():
                waiting.cancel()
        if waiting.done() and not waiting.cancelled():
            return waiting.result()
    return None if coarse.empty() else coarse.get_nowait()


def _part(form: Form, body: bytes) -> bytes:
    return session_answers.framed(body) if form.shell is Shell.BOX else body + b"\n"


def _failed_part(form: Form, session: OpenSession, error: LabelServerError) -> bytes:
    problem = Problem.from_domain(error, status_of(error)).to_json()
    if form.shell is Shell.BOX:
        return _part(form, session_answers.problem_box(problem, session.grid.shape, form.codec, {}))
    return _part(form, json_bytes({"problem": problem}))


def _copied_upload(server: Server, upload_id: str) -> RootedPath:
    """A copy of an upload's image that a session may keep. Blocks."""
    ensure_on(server)
    with opened_image(str(server.uploads.get(upload_id).image), server.datastore) as path:
        target = server.spool / f"session-{uuid.uuid4().hex}{split_ext(Path(path).name)[1]}"
        shutil.copyfile(path, target)
    return server.roots.relative(target, Root.STATE)

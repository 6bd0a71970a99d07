"""``/api/v1/sessions/<id>/grid``: prompts and answers of a session in voxels of the RAS+ grid (docs/page-api.md).

The answer's bytes are what changed, x fastest, in the schema's values; what belongs to them stands in a header. A
caller says with `at` which state his copy of the mask is in: if answers were lost or dropped, he gets the whole mask.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.api.disconnects import while_connected
from labelserver.api.identity import person_of
from labelserver.api.session_answers import stage_header
from labelserver.api.session_bodies import read_body, read_model
from labelserver.api.v1_grid_labels import binary
from labelserver.api.v1_volumes import takes_gzip
from labelserver.bootstrap import Server
from labelserver.domain.interaction import LabelMap, OpenSession, SessionAnswer
from labelserver.domain.prompts import Prompt, check_on
from labelserver.imaging.formats import is_picture
from labelserver.viewing.grid_maps import map_bytes
from labelserver.viewing.grid_prompts import SchemaValues, change_on_grid, prompt_in_file, schema_values
from labelserver.viewing.ras_volumes import Placed, placed_on
from labelserver.wire.grid_sessions import GridAnswer, GridPromptRequest, GridSession, GridTurn
from labelserver.wire.mask_box import NOTHING, Box, Ijk, decode_box
from labelserver.wire.volumes import header_text

router = APIRouter(prefix="/api/v1/sessions/{session_id}/grid", tags=["Page"])

ANSWER_HEADER = "X-Labelserver-Answer"
_BINARY = {200: {"content": {"application/octet-stream": {}}, "description": "What changed, x fastest."}}
#: voxels of an answer from which a thread makes its bytes; below, a thread costs more than it saves.
_LARGE_VOXELS = 2**18


@dataclass(frozen=True, slots=True)
class _Seen:
    """A session, where its image lies, and what its labels are called."""

    session: OpenSession
    where: Placed
    values: SchemaValues


@router.get("", summary="The session on the RAS+ grid", response_model=GridSession)
async def get_session(request: Request, server: ServerOf, session_id: str) -> Response:
    seen = await _seen(server, session_id, person_of(request))
    session = seen.session
    document = GridSession(
        id=session.session_id,
        task=session.task,
        image=session.image_id,
        dims=seen.where.grid.shape,
        at=session.at,
        labels=seen.values.labels,
        unknown=list(seen.values.unknown),
        prompt_kinds=sorted(session.prompt_kinds),
        undoable=session.undoable,
        redoable=session.redoable,
        prompts=session.prompts,
        model_version=session.model_version,
    )
    return json_answer(document.model_dump(mode="json"))


@router.post(
    "/prompts",
    summary="Draw in voxels of the RAS+ grid; answers what changed",
    response_class=Response,
    responses=_BINARY,  # type: ignore[arg-type]  # FastAPI's own type is wider than it says
)
async def prompt(request: Request, server: ServerOf, session_id: str, body: GridPromptRequest) -> Response:
    person = person_of(request)
    seen = await _seen(server, session_id, person)
    prompts = await to_thread.run_sync(_prompts, body, seen)
    work = server.interactions.prompt(session_id, person, prompts, predict=body.predict)
    return await _turn(request, server, seen, body, while_connected(request, work))


@router.post("/undo", summary="Take back the last step", response_class=Response, responses=_BINARY)  # type: ignore[arg-type]
async def undo(request: Request, server: ServerOf, session_id: str) -> Response:
    person, body = person_of(request), read_model(GridTurn, await read_body(request) or b"{}")
    seen = await _seen(server, session_id, person)
    return await _turn(request, server, seen, body, server.interactions.undo(session_id, person))


@router.post("/redo", summary="Make the last undone step again", response_class=Response, responses=_BINARY)  # type: ignore[arg-type]
async def redo(request: Request, server: ServerOf, session_id: str) -> Response:
    person, body = person_of(request), read_model(GridTurn, await read_body(request) or b"{}")
    seen = await _seen(server, session_id, person)
    return await _turn(request, server, seen, body, server.interactions.redo(session_id, person))


@router.post("/reset", summary="Empty the mask, forget the prompts", response_class=Response, responses=_BINARY)  # type: ignore[arg-type]
async def reset(request: Request, server: ServerOf, session_id: str) -> Response:
    person, body = person_of(request), read_model(GridTurn, await read_body(request) or b"{}")
    seen = await _seen(server, session_id, person)
    return await _turn(request, server, seen, body, server.interactions.reset(session_id, person))


@router.get("/mask", summary="The whole mask: the box round everything marked", response_class=Response)
async def get_mask(request: Request, server: ServerOf, session_id: str) -> Response:
    person = person_of(request)
    seen = await _seen(server, session_id, person)
    told = GridAnswer(lo=NOTHING.lo, hi=NOTHING.hi, labels={}, unknown=[])
    return await _whole(request, server, seen, person, told)


async def _turn(
    request: Request, server: Server, seen: _Seen, asked: GridTurn, work: Awaitable[SessionAnswer]
) -> Response:
    began = time.perf_counter()
    answer = await work
    person = person_of(request)
    told = GridAnswer(
        seq=asked.seq,
        at=answer.at,
        ran=answer.ran,
        lo=NOTHING.lo,
        hi=NOTHING.hi,
        labels={},
        unknown=[],
        model_version=answer.model_version,
        seconds={**answer.seconds, "total": time.perf_counter() - began},
        notes=dict(answer.notes),
    )
    if asked.at is not None and asked.at != answer.before:
        return await _whole(request, server, seen, person, told)
    session = await server.interactions.get(seen.session.session_id, person)
    change, gzipped = answer.change, takes_gzip(request)

    def encode() -> Response:
        return _body(seen, session, told, change.lo, change.values, gzipped=gzipped)

    large = change.values.size > _LARGE_VOXELS
    response = await to_thread.run_sync(encode) if large else encode()
    response.headers["Server-Timing"] = stage_header(answer.seconds, 0.0)
    return response


async def _whole(request: Request, server: Server, seen: _Seen, person: str, told: GridAnswer) -> Response:
    session_id = seen.session.session_id
    file, at = await server.interactions.mask_at(session_id, person)
    session = await server.interactions.get(session_id, person)
    gzipped = takes_gzip(request)

    def encode() -> Response:
        found = decode_box(_taken(file), expected_shape=session.grid.shape)
        whole = told.model_copy(update={"at": at, "whole": True})
        return _body(seen, session, whole, found.box.lo, found.voxels, gzipped=gzipped)

    return await to_thread.run_sync(encode)


def _taken(file: Path) -> bytes:
    try:
        return file.read_bytes()
    finally:
        file.unlink(missing_ok=True)


def _body(seen: _Seen, session: OpenSession, told: GridAnswer, lo: Ijk, values: LabelMap, *, gzipped: bool) -> Response:
    part = seen.values.of(values)
    box: Box = NOTHING
    if part.size:
        box, part = change_on_grid(lo, part, seen.where)
    document = told.model_copy(
        update={
            "lo": box.lo,
            "hi": box.hi,
            "dtype": part.dtype.name,
            "labels": seen.values.labels,
            "unknown": list(seen.values.unknown),
            "undoable": session.undoable,
            "redoable": session.redoable,
            "prompts": session.prompts,
        }
    )
    headers = {ANSWER_HEADER: header_text(document), "Cache-Control": "no-store"}
    return binary(map_bytes(part) if part.size else b"", headers, gzipped=gzipped)


async def _seen(server: Server, session_id: str, person: str) -> _Seen:
    session = await server.interactions.get(session_id, person)

    def look() -> _Seen:
        store = server.datastore
        uri = store.get_image_uri(session.image_id) if session.image_id is not None else ""
        where = placed_on(session.grid, picture=is_picture(Path(uri).suffix))
        return _Seen(session, where, schema_values(store, session.label_values))

    return await to_thread.run_sync(look)


def _prompts(body: GridPromptRequest, seen: _Seen) -> list[Prompt]:
    """In the file's voxels. Raises `InvalidPrompt`, in words about the grid."""
    grid = seen.where.grid
    found = [asked.to_domain(grid) for asked in body.prompts]
    for told in found:
        check_on(told, grid, seen.session.prompt_kinds)
    return [prompt_in_file(told, seen.where) for told in found]

"""``/api/v1/sessions/{id}/stream``: a WebSocket for one session, for clients that click often.

    caller   text    {"verb": "prompt", "prompts": [...], "predict": true, "id": 7}, or "undo", "redo", "reset"
             binary  a mask (`wire.mask_box`) whose JSON says kind, label, positive, predict, id
    server   binary  what changed (`wire.mask_box`), its JSON as in `wire.sessions.PromptAnswer`, with the caller's id;
                     coarse answers first, with "final": false
             text    {"problem": {...}, "id": 7}

Messages are carried out in their order. A caller who goes away cancels what runs; the session stays.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from labelserver.api import session_answers
from labelserver.api.activity import note_prompt
from labelserver.api.answers import json_bytes
from labelserver.api.identity import person_of
from labelserver.api.problem_responses import problem_response, status_of
from labelserver.api.session_bodies import prompts_of, read_model
from labelserver.bootstrap import Server
from labelserver.domain.errors import InvalidParams, LabelServerError, QueueFull
from labelserver.domain.interaction import OpenSession, SessionAnswer
from labelserver.wire.mask_box import MEDIA_TYPE_ZSTD, BoxCodec, decode_box
from labelserver.wire.problems import Problem
from labelserver.wire.sessions import PromptRequest, ResetRequest

router = APIRouter(prefix="/api/v1/sessions", tags=["Interactive sessions"])

#: messages that may wait for their turn.
MAX_WAITING = 16
_CODECS = {"gzip": BoxCodec.GZIP, "zstd": BoxCodec.ZSTD}

Message = str | bytes


@router.websocket("/{session_id}/stream")
async def stream(
    socket: WebSocket,
    session_id: str,
    codec: Annotated[str, Query(description="Of the answers: gzip (browsers inflate it) or zstd.")] = "gzip",
) -> None:
    server: Server = socket.app.state.server
    person = person_of(socket)
    try:
        if codec not in _CODECS:
            raise InvalidParams("codec is gzip or zstd.")
        session = await server.interactions.get(session_id, person)
    except LabelServerError as error:
        await socket.send_denial_response(problem_response(socket.url.path, error))
        return
    await socket.accept()
    await _Conversation(socket, server, session, person, _CODECS[codec]).run()


class _Conversation:
    """One connection: a reader that hears the caller leave, and a worker that answers in turn."""

    def __init__(self, socket: WebSocket, server: Server, session: OpenSession, person: str, codec: BoxCodec) -> None:
        self._socket = socket
        self._server = server
        self._sessions = server.interactions
        self._session = session
        self._person = person
        self._codec = codec
        self._waiting: asyncio.Queue[Message] = asyncio.Queue()

    async def run(self) -> None:
        """Returns when the caller has left."""
        answering = asyncio.ensure_future(self._answer_all())
        reading = asyncio.ensure_future(self._read_all())
        try:
            await asyncio.wait({answering, reading}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, reading):
                task.cancel()
            ended = await asyncio.gather(answering, reading, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception) and not isinstance(error, WebSocketDisconnect):
                raise error

    async def _read_all(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            said: Message = message.get("bytes") or message.get("text") or ""
            if self._waiting.qsize() >= MAX_WAITING:
                error = QueueFull(f"{MAX_WAITING} messages are waiting already. Wait for their answers.")
                await self._say_problem(error, _id_of(said))
            else:
                self._waiting.put_nowait(said)

    async def _answer_all(self) -> None:
        while True:
            said = await self._waiting.get()
            marker = _id_of(said)
            try:
                await self._answer(said, marker)
            except LabelServerError as error:
                await self._say_problem(error, marker)

    async def _answer(self, said: Message, marker: dict[str, object]) -> None:
        coarse: asyncio.Queue[SessionAnswer] = asyncio.Queue()
        work = asyncio.ensure_future(self._carried_out(said, coarse))
        try:
            while not work.done() or not coarse.empty():
                waiting = asyncio.ensure_future(coarse.get())
                either: list[asyncio.Future[SessionAnswer]] = [work, waiting]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    await self._say(waiting.result(), self._session, marker)
                waiting.cancel()
            final = work.result()
        finally:
            work.cancel()
        note_prompt(self._server, self._person, self._session.image_id)
        now = await self._sessions.get(self._session.session_id, self._person)
        await self._say(final, now, marker)

    async def _carried_out(self, said: Message, coarse: asyncio.Queue[SessionAnswer]) -> SessionAnswer:
        sid, person = self._session.session_id, self._person
        if isinstance(said, bytes):
            prompts, predict = await prompts_of(MEDIA_TYPE_ZSTD, said, self._session)
            return await self._sessions.prompt(sid, person, prompts, predict=predict, on_partial=coarse.put_nowait)
        document = _object(said)
        document.pop("id", None)
        verb = document.pop("verb", None)
        rest = json.dumps(document)
        match verb:
            case "prompt":
                read_model(PromptRequest, rest)
                prompts, predict = await prompts_of("application/json", rest.encode(), self._session)
                return await self._sessions.prompt(sid, person, prompts, predict=predict, on_partial=coarse.put_nowait)
            case "undo":
                return await self._sessions.undo(sid, person)
            case "redo":
                return await self._sessions.redo(sid, person)
            case "reset":
                return await self._sessions.reset(sid, person, forget=read_model(ResetRequest, rest).forget)
        raise InvalidParams("A message has a 'verb': prompt, undo, redo or reset.")

    async def _say(self, answer: SessionAnswer, session: OpenSession, marker: dict[str, object]) -> None:
        await self._socket.send_bytes(session_answers.box_bytes(answer, session, self._codec, marker))

    async def _say_problem(self, error: LabelServerError, marker: dict[str, object]) -> None:
        problem = Problem.from_domain(error, status_of(error)).to_json()
        if self._socket.application_state is WebSocketState.CONNECTED:
            await self._socket.send_text(json_bytes({"problem": problem, **marker}).decode())


def _object(said: str) -> dict[str, object]:
    """Raises `InvalidParams`."""
    try:
        document = json.loads(said)
    except ValueError as error:
        raise InvalidParams("A text message is a JSON object.") from error
    if not isinstance(document, dict):
        raise InvalidParams("A text message is a JSON object.")
    return document


def _id_of(said: Message) -> dict[str, object]:
    """``{"id": ...}`` as the caller said it, for the answer; empty if it said none."""
    try:
        document = decode_box(said).params if isinstance(said, bytes) else _object(said)
    except LabelServerError:
        return {}
    return {"id": document["id"]} if "id" in document else {}

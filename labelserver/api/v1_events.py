"""``/api/v1/events``: what happens here, as server-sent events that a reader takes up again where it left off.

Each event is a JSON object ``{"id", "ts", "kind", "data"}`` with ``job_id`` where it tells of a job. A reader that was
away too long gets one event of the kind ``gap`` first: then it asks the other routes how things are now. Comments keep
the connection alive. The stream ends when the server goes down.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse

from labelserver.api.answers import finite
from labelserver.api.context import ServerOf
from labelserver.domain.errors import InvalidParams
from labelserver.engine.event_hub import Event, EventHub, Wanted

router = APIRouter(prefix="/api/v1", tags=["Events"])

#: seconds between comments; proxies close what is silent for a minute.
KEEP_ALIVE_S = 15.0
KEEP_ALIVE = ": keep-alive\n\n"
#: milliseconds after which a browser connects again.
RETRY_MS = 1000


@router.get(
    "/events",
    summary="What happens: jobs, versions, labels, images",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def events(
    server: ServerOf,
    job: Annotated[str, Query(description="Of this job alone.")] = "",
    kind: Annotated[
        list[str] | None, Query(description="Of these kinds alone, e.g. job, job.epoch, version; may be repeated.")
    ] = None,
    after: Annotated[
        int | None, Query(ge=0, description="Begin behind this id; 0: with the oldest kept. Default: what is new.")
    ] = None,
    follow: Annotated[bool, Query(description="Wait for what comes; else end after what is there.")] = True,
    last_event_id: Annotated[str, Header(description="As `after`; sent by browsers that connect again.")] = "",
) -> StreamingResponse:
    kinds = tuple(word for text in kind or [] for word in text.split(",") if word)
    place = _number(last_event_id) if last_event_id else after
    lines = _lines(server.events, Wanted(job, kinds), place, follow=follow)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


async def _lines(hub: EventHub, wanted: Wanted, after: int | None, *, follow: bool) -> AsyncIterator[str]:
    place = hub.last_number if after is None else after
    yield f"retry: {RETRY_MS}\n\n"
    told_gap = after == 0  # who asks for the oldest kept knows that there may have been older ones
    if place > hub.last_number:  # an id of another server, or of no one: waiting for a greater one might never end
        place = hub.last_number
        yield "event: gap\ndata: {}\n\n"
    while True:
        found, place, missed = hub.after(place, wanted)
        if missed and not told_gap:
            yield "event: gap\ndata: {}\n\n"
        told_gap = False
        for event in found:
            yield _line(event)
        if found:
            continue
        if hub.closed or not follow:
            return
        if not await hub.wait(place, KEEP_ALIVE_S) and not hub.closed:
            yield KEEP_ALIVE


def _line(event: Event) -> str:
    document = json.dumps(finite(event.to_json()), ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.number}\nevent: {event.kind}\ndata: {document}\n\n"


def _number(text: str) -> int:
    if not text.isdecimal():
        raise InvalidParams(f"Last-Event-ID must be the id of an event, a whole number; got {text[:50]!r}.")
    return int(text)

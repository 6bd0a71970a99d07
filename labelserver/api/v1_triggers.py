"""``/api/v1/training/triggers``: when trainings start by themselves; changed while the server runs."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf, known_task
from labelserver.bootstrap import Server
from labelserver.wire.triggers import TrainingTriggers, TriggersInUse

router = APIRouter(prefix="/api/v1", tags=["Training"])


@router.get("/training/triggers", summary="When trainings start by themselves", response_model=TriggersInUse)
async def get_triggers(server: ServerOf) -> Response:
    return json_answer(in_use(server).model_dump(mode="json"))


@router.put("/training/triggers", summary="Say when trainings start by themselves", response_model=TriggersInUse)
async def set_triggers(server: ServerOf, wanted: TrainingTriggers) -> Response:
    for name in wanted.trainers:
        known_task(server.engine.description(), "trainers", name, "trainer")
    await asyncio.to_thread(server.triggers.set, wanted.to_domain())
    server.events.publish("training.triggers", wanted.model_dump(mode="json"))
    return json_answer(in_use(server).model_dump(mode="json"))


def in_use(server: Server) -> TriggersInUse:
    """The rules and what they have counted."""
    rules = TrainingTriggers.from_domain(server.triggers.triggers)
    return TriggersInUse(**rules.model_dump(), labels_waiting=server.triggers.labels_waiting)

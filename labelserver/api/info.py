"""``GET /info/``: the kept description of the app with what is live beside it. Never waits for a worker."""

from __future__ import annotations

import logging

from anyio import to_thread
from fastapi import APIRouter
from starlette.responses import Response

from labelserver import __version__
from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf, table
from labelserver.api.identity import CLAIM
from labelserver.api.info_document import wire_info
from labelserver.api.task_documents import train_stats
from labelserver.api.v1_triggers import in_use
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import RevisionStore
from labelserver.contracts.labels import SchemaStore
from labelserver.datastore.through_lead import GUARANTEES_END, DatastoreThroughLead
from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import LabelServerError
from labelserver.domain.jobs import JobKind
from labelserver.domain.json_types import JsonObject
from labelserver.domain.schema import names_in_order
from labelserver.storage.space import low_space

logger = logging.getLogger(__name__)
router = APIRouter()

LOADING = "The app is still loading; models appear here when it is ready."
#: problems listed; the rest is counted.
MAX_PROBLEMS = 50


@router.get("/info/", tags=["App"], summary="The app: models, trainers, strategies, scoring, labels and progress")
async def get_info(server: ServerOf) -> Response:
    description = server.engine.description()
    document = wire_info(description.info if description is not None else {})
    trainers = list(table(document, "trainers"))
    document["train_stats"] = train_stats(trainers, server.engine.jobs.list(JobKind.TRAIN))
    if description is not None and description.local_store is None:
        document["datastore"] = await _status_of_other_store(server)
    else:
        document["datastore"] = await to_thread.run_sync(_status, server)
        document["labels"] = await to_thread.run_sync(_labels, server, names_in_order(document["labels"]))
    document["training"] = {"triggers": in_use(server).model_dump(mode="json")}
    document.update(await to_thread.run_sync(_server_state, server, description))
    return json_answer(document)


def _labels(server: Server, names: list[str]) -> list[str]:
    """The schema's names in the order of their values, so that a name's position is its id on old routes (R-12)."""
    store = server.datastore
    ordered = list(store.label_values()) if isinstance(store, SchemaStore) else []
    return list(dict.fromkeys([*ordered, *names]))


def _status(server: Server) -> JsonObject:
    """In a thread, because the store in use may have to be opened first."""
    return server.datastore.status()


async def _status_of_other_store(server: Server) -> JsonObject:
    """Of a store in the lead worker, which may be busy or not there yet: then zeros, so that nobody waits."""
    try:
        if not server.engine.readiness().ready:
            raise LabelServerError(LOADING)
        status = await server.engine.call_lead("datastore.status", {"args": []}, timeout_s=1.0)
    except (LabelServerError, TimeoutError) as error:
        logger.info("no status of the app's store: %s", error)
        status = {}
    return {"total": 0, "completed": 0, "label_tags": {}, **(dict(status) if isinstance(status, dict) else {})}


def _server_state(server: Server, description: AppDescription | None) -> JsonObject:
    """What the peer's document does not have."""
    readiness = server.engine.readiness()
    store = server.datastore
    notes = [GUARANTEES_END] if isinstance(store, DatastoreThroughLead) else []
    if description is None:
        notes.append(LOADING)
    notes += [said for folder in (server.roots.state, server.roots.app) if (said := low_space(folder))]
    problems = store.problems() if isinstance(store, RevisionStore) else []
    return {
        "ready": readiness.ready,
        "message": readiness.reason or " ".join(notes),
        "notes": notes,
        "identity": CLAIM,
        "server": {"name": "labelserver", "version": __version__},
        "problems": [{"path": p.path, "reason": p.reason} for p in problems[:MAX_PROBLEMS]],
        "problem_count": len(problems),
    }

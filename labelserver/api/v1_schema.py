"""``/api/v1/schema``: what the voxel values of this project's labels mean."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.api.identity import person_of
from labelserver.bootstrap import Server
from labelserver.contracts.labels import SchemaStore
from labelserver.domain.errors import NotThereYet
from labelserver.wire.labels import Schema

router = APIRouter(prefix="/api/v1", tags=["Labels"])


@router.get("/schema", summary="The project's label schema", response_model=Schema, response_model_exclude={"based_on"})
def get_schema(server: ServerOf) -> Response:
    return _answer(Schema.from_domain(_store(server).schema()))


@router.put("/schema", summary="Change the schema; labels in use keep their id and value", response_model=Schema)
def put_schema(request: Request, server: ServerOf, wanted: Schema) -> Response:
    schema = _store(server).set_schema(wanted.to_domain(), based_on=wanted.based_on, person=person_of(request))
    return _answer(Schema.from_domain(schema))


def _answer(schema: Schema) -> Response:
    return json_answer(schema.model_dump(mode="json", exclude={"based_on"}))


def _store(server: Server) -> SchemaStore:
    store = server.datastore
    if not isinstance(store, SchemaStore):
        raise NotThereYet("The app keeps its labels in a store of its own, which has no schema.")
    return store

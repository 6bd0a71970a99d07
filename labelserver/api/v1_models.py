"""``/api/v1/models``: versions of trained networks, and which of them is in use."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.api.identity import person_of
from labelserver.bootstrap import Server
from labelserver.domain.errors import ModelNotFound
from labelserver.wire.models import Model, ModelList, PublishRequest, Version, VersionList

router = APIRouter(prefix="/api/v1", tags=["Models"])


@router.get("/models", summary="Models that have versions", response_model=ModelList)
def list_models(server: ServerOf) -> Response:
    store = server.model_store
    found = []
    for name in store.models():
        current = store.current(name)
        number = current.number if current is not None else None
        found.append(Model(model=name, current=number, versions=len(store.versions(name))))
    return json_answer(ModelList(models=found).model_dump(mode="json"))


@router.get("/models/{model}/versions", summary="Versions of a model, oldest first", response_model=VersionList)
def list_versions(server: ServerOf, model: str) -> Response:
    versions = server.model_store.versions(model)
    if not versions:
        known = ", ".join(server.model_store.models()) or "none"
        raise ModelNotFound(f"The model {model[:100]!r} has no version yet. Models with versions: {known}.")
    listed = [_version(server, model, v.number) for v in versions]
    return json_answer(VersionList(versions=listed).model_dump(mode="json"))


@router.get("/models/{model}/versions/{number}", summary="One version", response_model=Version)
def get_version(server: ServerOf, model: str, number: int) -> Response:
    return json_answer(_version(server, model, number).model_dump(mode="json"))


@router.post(
    "/models/{model}/versions/{number}/publish",
    summary="Make a version current, whatever the gate said about it",
    response_model=Version,
)
def publish(
    request: Request, server: ServerOf, model: str, number: int, asked: PublishRequest | None = None
) -> Response:
    reason = (asked.reason if asked is not None else "") or "Published by hand."
    server.model_store.publish(model, number, f"{reason} ({person_of(request)})")
    return json_answer(_version(server, model, number).model_dump(mode="json"))


def _version(server: Server, model: str, number: int) -> Version:
    store = server.model_store
    current = store.current(model)
    is_current = current is not None and current.number == number
    return Version.from_domain(store.version(model, number), store.decision(model, number), current=is_current)

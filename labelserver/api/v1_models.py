"""``/api/v1/models``: versions of trained networks, and which of them is in use.

Whatever somebody changes here stands in the audit log of the store in use, if it keeps one.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.api.identity import person_of
from labelserver.bootstrap import Server
from labelserver.contracts.audit import ActLog
from labelserver.domain.errors import ModelNotFound
from labelserver.domain.json_types import JsonObject
from labelserver.domain.models import ModelAct
from labelserver.model_store.comparing import compared
from labelserver.wire.models import Model, ModelList, Reason, Values, Version, VersionComparison, VersionList

router = APIRouter(prefix="/api/v1", tags=["Models"])

_VERSION = "/models/{model}/versions/{number}"


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


@router.get(_VERSION, summary="One version", response_model=Version)
def get_version(server: ServerOf, model: str, number: int) -> Response:
    return _answer(server, model, number)


@router.get(
    "/models/{model}/compare",
    summary="Two versions on the cases that both were measured on: each label, each case",
    response_model=VersionComparison,
)
def compare(server: ServerOf, model: str, first: int, second: int) -> Response:
    store = server.model_store
    found = compared(store.version(model, first), store.version(model, second))
    answer = VersionComparison(
        model=model,
        first=first,
        second=second,
        metrics={name: Values.of(pair) for name, pair in found.metrics.items()},
        cases={case: {name: Values.of(pair) for name, pair in row.items()} for case, row in found.cases.items()},
    )
    return json_answer(answer.model_dump(mode="json"))


@router.post(f"{_VERSION}/publish", summary="Make a version current, whatever the gate said", response_model=Version)
def publish(request: Request, server: ServerOf, model: str, number: int, asked: Reason | None = None) -> Response:
    person = person_of(request)
    server.model_store.publish(model, number, _reason(asked, "Published by hand.", person), person)
    _note(server, ModelAct.PUBLISH, model, number, person, asked)
    return _answer(server, model, number)


@router.post(
    "/models/{model}/rollback",
    summary="Make current what was in use before the current version",
    response_model=Version,
)
def roll_back(request: Request, server: ServerOf, model: str, asked: Reason | None = None) -> Response:
    person = person_of(request)
    number = server.model_store.roll_back(model, _reason(asked, "Gone back to by hand.", person), person)
    _note(server, ModelAct.ROLL_BACK, model, number, person, asked)
    return _answer(server, model, number)


@router.post(f"{_VERSION}/reject", summary="Say that a version shall not be used", response_model=Version)
def reject(request: Request, server: ServerOf, model: str, number: int, asked: Reason | None = None) -> Response:
    person = person_of(request)
    server.model_store.reject(model, number, _reason(asked, "Rejected by hand.", person), person)
    _note(server, ModelAct.REJECT, model, number, person, asked)
    return _answer(server, model, number)


@router.post(f"{_VERSION}/pin", summary="Keep a version: not pruned, not deleted, not replaced", response_model=Version)
def pin(request: Request, server: ServerOf, model: str, number: int) -> Response:
    return _pinned(server, model, number, person_of(request), pinned=True)


@router.delete(f"{_VERSION}/pin", summary="No longer keep a version", response_model=Version)
def unpin(request: Request, server: ServerOf, model: str, number: int) -> Response:
    return _pinned(server, model, number, person_of(request), pinned=False)


@router.delete(_VERSION, summary="Delete a version that is neither in use nor pinned")
def delete(request: Request, server: ServerOf, model: str, number: int) -> Response:
    person = person_of(request)
    sha256 = server.model_store.version(model, number).sha256
    server.model_store.delete(model, number, person)
    _note(server, ModelAct.DELETE, model, number, person, None, sha256)
    return json_answer({})


def _pinned(server: Server, model: str, number: int, person: str, *, pinned: bool) -> Response:
    server.model_store.pin(model, number, person, pinned=pinned)
    _note(server, ModelAct.PIN if pinned else ModelAct.UNPIN, model, number, person, None)
    return _answer(server, model, number)


def _answer(server: Server, model: str, number: int) -> Response:
    return json_answer(_version(server, model, number).model_dump(mode="json"))


def _version(server: Server, model: str, number: int) -> Version:
    store = server.model_store
    current = store.current(model)
    return Version.from_domain(
        store.version(model, number),
        store.decision(model, number),
        current=current is not None and current.number == number,
        pinned=store.is_pinned(model, number),
    )


def _reason(asked: Reason | None, default: str, person: str) -> str:
    return f"{(asked.reason if asked is not None else '') or default} ({person})"


def _note(
    server: Server, act: ModelAct, model: str, number: int, person: str, asked: Reason | None, sha256: str = ""
) -> None:
    store = server.datastore
    if isinstance(store, ActLog):
        digest = sha256 or server.model_store.version(model, number).sha256
        reason = asked.reason if asked is not None else ""
        detail: JsonObject = {
            "model": model,
            "version": number,
            "sha256": digest,
            **({"reason": reason} if reason else {}),
        }
        store.note_act(f"model_{act.value}", person, detail)

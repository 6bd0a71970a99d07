"""``/api/v1/queue``: the next image, leased to whoever asks, and the project's rules of work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from labelserver.api.answers import finite, json_answer
from labelserver.api.context import ServerOf
from labelserver.api.giving import asked_of, default_strategy, give, local_store, now
from labelserver.api.identity import person_of
from labelserver.api.v1_images import listed_image
from labelserver.bootstrap import Server
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.queue import Asking
from labelserver.domain.annotation import moved_region, region_from_json, region_to_json
from labelserver.domain.json_types import JsonObject
from labelserver.domain.work import Lease, NoWork
from labelserver.viewing.ras_volumes import placed
from labelserver.wire.images import Image
from labelserver.wire.queue import (
    GivenImage,
    LeaseGiven,
    LeaseList,
    NextAsked,
    NoImage,
    Reason,
    SkipAsked,
    WorkRules,
)

router = APIRouter(prefix="/api/v1/queue", tags=["Work queue"])


@router.post(
    "/next",
    summary="The next image for the caller, leased; or why there is none",
    response_model=GivenImage | NoImage,
)
async def next_image(
    request: Request, server: ServerOf, wanted: Annotated[NextAsked | None, Body()] = None
) -> Response:
    wanted = wanted or NextAsked()
    store = await local_store(server)
    rules = store.work.rules
    asked = asked_of(server, default_strategy(server, wanted.strategy or rules.strategy), finite(wanted.params))
    asking = Asking(person_of(request), asked.strategy, resume=wanted.resume, again=wanted.again)
    before = now()
    given = await give(server, store, asking, asked)
    if isinstance(given, NoWork):
        return json_answer(NoImage.from_domain(given, before).model_dump(mode="json"))
    document = await to_thread.run_sync(_given, server, store, given, given.granted_ts < before)
    return json_answer(document.model_dump(mode="json"))


def _given(server: Server, store: LocalDatastore, lease: Lease, resumed: bool) -> GivenImage:
    reason = lease.reason
    details, returned = reason.get("details"), reason.get("returned")
    return GivenImage(
        image=Image.from_domain(listed_image(store, lease.image_id)),
        lease=LeaseGiven.from_domain(lease),
        reason=Reason(
            strategy=lease.strategy,
            why=str(reason.get("why", "")),
            details=dict(details) if isinstance(details, dict) else {},
        ),
        roi=lease.roi,
        roi_on_grid=_on_grid(store, lease),
        labels=list(store.work.rules.labels_for(lease.person, lease.image_id)),
        resumed=resumed,
        returned=dict(returned) if isinstance(returned, dict) else None,
    )


def _on_grid(store: LocalDatastore, lease: Lease) -> JsonObject | None:
    """The region that is asked for, as pages count it (`viewing/ras_volumes.py`)."""
    if lease.roi is None:
        return None
    where = placed(Path(store.get_image_uri(lease.image_id)))
    change = where.change
    region = moved_region(region_from_json(lease.roi), change.order, change.reversed_axes, where.grid.shape)
    return region_to_json(region)


@router.get("/leases", summary="Who has which image now; ids of the caller's own alone", response_model=LeaseList)
async def list_leases(request: Request, server: ServerOf) -> Response:
    person = person_of(request)
    store = await local_store(server)
    leases = await to_thread.run_sync(store.work.queue.leases)
    shown = [LeaseGiven.from_domain(lease).model_dump(mode="json") for lease in leases]
    mine = [row if row["person"] == person else {k: v for k, v in row.items() if k != "id"} for row in shown]
    return json_answer({"leases": mine})


@router.post("/leases/{lease_id}/heartbeat", summary="The caller is still there", response_model=LeaseGiven)
async def beat(request: Request, server: ServerOf, lease_id: str) -> Response:
    store = await local_store(server)
    lease = await to_thread.run_sync(store.work.queue.beat, lease_id, person_of(request))
    return json_answer(LeaseGiven.from_domain(lease).model_dump(mode="json"))


@router.post("/leases/{lease_id}/release", summary="Give the image back")
async def release(request: Request, server: ServerOf, lease_id: str) -> Response:
    store = await local_store(server)
    lease = await to_thread.run_sync(store.work.queue.release, lease_id, person_of(request))
    return json_answer({"image": lease.image_id})


@router.post("/leases/{lease_id}/skip", summary="Give the image back and be given others")
async def skip(
    request: Request, server: ServerOf, lease_id: str, said: Annotated[SkipAsked | None, Body()] = None
) -> Response:
    store = await local_store(server)
    reason = said.reason if said is not None else ""
    lease = await to_thread.run_sync(store.work.queue.skip, lease_id, person_of(request), reason)
    return json_answer({"image": lease.image_id})


@router.get("/rules", summary="The project's rules of work", response_model=WorkRules)
async def get_rules(server: ServerOf) -> Response:
    store = await local_store(server)
    return json_answer(_rules(WorkRules.from_domain(store.work.rules)))


@router.put("/rules", summary="Change the rules of work", response_model=WorkRules)
async def put_rules(request: Request, server: ServerOf, wanted: WorkRules) -> Response:
    store = await local_store(server)
    person = person_of(request)
    if wanted.strategy:
        asked_of(server, wanted.strategy, {})

    def change() -> WorkRules:
        rules = store.work.workflows.replace(wanted.to_domain(), based_on=wanted.based_on, person=person)
        return WorkRules.from_domain(rules)

    return json_answer(_rules(await to_thread.run_sync(change)))


def _rules(rules: WorkRules) -> JsonObject:
    return rules.model_dump(mode="json", exclude={"based_on"})

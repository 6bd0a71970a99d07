"""``/api/v1/time-log``, ``/learning-curve``, ``/benefit``: what labeling costs, and what it brings."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import fmean, median
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf, ensure_image
from labelserver.api.giving import local_store
from labelserver.api.identity import person_of
from labelserver.api.stability import agreement_of_last_two
from labelserver.app.proof import LearningCurve, benefit, learning_curve
from labelserver.bootstrap import Server
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.effort import Piece, Proposal, Sign
from labelserver.domain.errors import InvalidParams, ModelNotFound
from labelserver.domain.ids import parse_image_id
from labelserver.domain.models import ADOPTED
from labelserver.learning.progress import Benefit, Forecast
from labelserver.wire.proof import (
    ActivityTold,
    AdviceShown,
    BenefitList,
    BenefitShown,
    CriterionShown,
    CurvePointShown,
    CurveShown,
    ForecastShown,
    PersonShown,
    PieceShown,
    TimeLogShown,
    VersionWork,
)

router = APIRouter(prefix="/api/v1", tags=["Proof"])

#: seconds that what happened may lie back when it is told
_OLDEST_S = 3600.0


@router.post("/images/{image_id:path}/activity", summary="Tell what the caller did with an image")
async def tell(request: Request, server: ServerOf, image_id: str, told: ActivityTold) -> Response:
    checked, person = parse_image_id(image_id), person_of(request)
    store = await local_store(server)
    await to_thread.run_sync(ensure_image, server, checked)
    now = time.time()
    times = [now if event.at is None else event.at for event in told.events]
    if any(not now - _OLDEST_S <= at <= now + 60.0 for at in times):
        raise InvalidParams("'at' is in Unix seconds, not later than now and not more than an hour ago.")
    for event, at in zip(told.events, times, strict=True):
        shown = event.kind is Sign.PROPOSAL
        proposal = Proposal(event.model or "unknown", event.version) if shown else None
        store.work.times.note(person, event.kind, checked, ts=min(at, now), proposal=proposal)
    return json_answer({"noted": len(times)})


@router.get("/time-log", summary="Pieces of work: who worked how long on what", response_model=TimeLogShown)
async def time_log(
    server: ServerOf,
    image: str = "",
    person: str = "",
    model: str = "",
    submitted: Annotated[bool | None, Query(description="Only finished work, or only unfinished.")] = None,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    store = await local_store(server)

    def read() -> list[Piece]:
        return store.work.times.pieces(
            image_id=image, person=person, model=model, submitted=submitted, after=after, limit=limit + 1
        )

    found = await to_thread.run_sync(read)
    page = [_piece(piece) for piece in found[:limit]]
    more = page[-1].number if len(found) > limit else None
    return json_answer(TimeLogShown(pieces=page, next=more).model_dump(mode="json"))


@router.get("/learning-curve", summary="What labels brought, and what more of them will", response_model=CurveShown)
async def get_learning_curve(
    server: ServerOf, model: Annotated[str, Query(description="Default: the only one that was trained.")] = ""
) -> Response:
    store = await local_store(server)
    curve = await to_thread.run_sync(_curve, server, store, model)
    return json_answer(curve_shown(curve).model_dump(mode="json"))


def _curve(server: Server, store: LocalDatastore, model: str) -> LearningCurve:
    chosen = model or _trained(server)
    return learning_curve(server.model_store, store, chosen, agreement_of_last_two(server.roots.state, chosen))


def _trained(server: Server) -> str:
    """The model with the newest version."""
    versions = {name: server.model_store.versions(name) for name in server.model_store.models()}
    newest = {name: found[-1].created_ts for name, found in versions.items() if found and found[-1].number != ADOPTED}
    if not newest:
        raise ModelNotFound("No model has been trained here yet. Train one with POST /train/{trainer}.")
    return max(newest, key=lambda name: newest[name])


def curve_shown(curve: LearningCurve) -> CurveShown:
    """As it travels."""
    advice = curve.advice
    return CurveShown(
        model=curve.model,
        metric=curve.metric,
        points=[
            CurvePointShown(
                version=p.version,
                labels=p.labels,
                hours=p.hours,
                metric=p.metric,
                error=p.error,
                created_ts=p.created_ts,
            )
            for p in curve.points
        ],
        by_labels=_forecast(curve.by_labels),
        by_hours=_forecast(curve.by_hours),
        advice=AdviceShown(
            stop=advice.stop,
            sentence=advice.sentence,
            criteria=[
                CriterionShown(name=c.name, met=c.met, value=c.value, limit=c.limit, sentence=c.sentence)
                for c in advice.criteria
            ],
        ),
    )


def _forecast(found: Forecast | None) -> ForecastShown | None:
    if found is None:
        return None
    law = found.law
    return ForecastShown(
        a=law.a,
        b=law.b,
        c=law.c,
        x=found.x,
        step=found.step,
        gain=found.gain,
        low=found.low,
        high=found.high,
    )


@router.get("/benefit", summary="Minutes that proposals save, or cost, by model version", response_model=BenefitList)
async def get_benefit(server: ServerOf, model: str = "") -> Response:
    store = await local_store(server)

    def read() -> BenefitList:
        pieces = store.work.times.pieces(submitted=True, limit=10**9)
        found = [_benefit(b) for b in benefit(store, model)]
        return BenefitList(benefits=found, people=_people(pieces), versions=_versions(pieces, model))

    return json_answer((await to_thread.run_sync(read)).model_dump(mode="json"))


def _benefit(found: Benefit) -> BenefitShown:
    return BenefitShown(
        version=found.version,
        saving=found.saving.value,
        pieces=found.pieces,
        minutes=found.minutes,
        without=found.without,
        saved=found.saved,
        low=found.low,
        high=found.high,
        within_people=found.within_people,
        sentence=found.sentence,
    )


def _people(pieces: list[Piece]) -> list[PersonShown]:
    by_person: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        by_person[piece.person].append(piece)
    shown = []
    for person, done in sorted(by_person.items()):
        timed = [piece.active_s for piece in done if piece.active_s > 0]
        shown.append(
            PersonShown(
                person=person,
                submitted=len(done),
                hours=sum(timed) / 3600.0,
                minutes_per_image=sum(timed) / len(timed) / 60.0 if timed else None,
                prompts=sum(piece.prompts for piece in done),
            )
        )
    return shown


def _versions(pieces: list[Piece], model: str) -> list[VersionWork]:
    groups: dict[tuple[str, str, str], list[Piece]] = defaultdict(list)
    for piece in pieces:
        proposal = piece.proposal or Proposal("", "")
        if not model or proposal.model in ("", model):
            groups[proposal.model, proposal.version, piece.person].append(piece)
    shown = []
    for (name, version, person), done in sorted(groups.items()):
        timed = [piece.active_s / 60.0 for piece in done if piece.active_s > 0]
        compared = [piece for piece in done if piece.proposal_dice is not None]
        shown.append(
            VersionWork(
                model=name,
                version=version,
                person=person,
                submitted=len(done),
                minutes_per_image=median(timed) if timed else None,
                prompts=sum(piece.prompts for piece in done),
                voxels_changed=fmean(piece.voxels_changed or 0 for piece in compared) if compared else None,
                proposal_dice=fmean(piece.proposal_dice or 0.0 for piece in compared) if compared else None,
                accepted=fmean(bool(piece.accepted) for piece in compared) if compared else None,
            )
        )
    return shown


def _piece(piece: Piece) -> PieceShown:
    proposal = piece.proposal
    return PieceShown(
        number=piece.number,
        image=piece.image_id,
        person=piece.person,
        opened_ts=piece.opened_ts,
        edited_ts=piece.edited_ts,
        submitted_ts=piece.submitted_ts,
        active_s=piece.active_s,
        prompts=piece.prompts,
        tag=piece.tag,
        revision=piece.revision,
        model=proposal.model if proposal is not None else "",
        model_version=proposal.version if proposal is not None else "",
        voxels_changed=piece.voxels_changed,
        voxels=piece.voxels,
        proposal_dice=piece.proposal_dice,
    )

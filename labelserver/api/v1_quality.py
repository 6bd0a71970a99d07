"""``/api/v1/quality``: accepted labels that deserve a second look, each with a picture."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.bootstrap import Server
from labelserver.contracts.quality import QualityStore
from labelserver.domain.errors import LabelNotFound, NotThereYet
from labelserver.domain.oddities import Oddity
from labelserver.wire.quality import LabelOddity, OddityList

router = APIRouter(prefix="/api/v1/quality", tags=["Label quality"])


@router.get("", summary="Labels that deserve a second look, the oddest first", response_model=OddityList)
def list_oddities(
    server: ServerOf,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    kind: Oddity | None = None,
    image: str = "",
) -> Response:
    found = _store(server).oddities(limit, kind.value if kind else "", image)
    shown = [
        LabelOddity(
            number=one.number,
            image=one.image_id,
            label=one.finding.label,
            kind=one.finding.kind,
            severity=round(one.finding.severity, 4),
            center_ijk=one.finding.center_ijk,
            detail=one.finding.detail,
            picture=f"/api/v1/quality/{one.number}/picture",
        )
        for one in found
    ]
    return json_answer(OddityList(oddities=shown).model_dump(mode="json"))


@router.get("/{number}/picture", summary="The slice that shows it", response_class=Response)
def oddity_picture(server: ServerOf, number: int) -> Response:
    png = _store(server).oddity_picture(number)
    if not png:
        raise LabelNotFound(f"There is no picture {number}. List the findings with GET /api/v1/quality.")
    return Response(png, media_type="image/png", headers={"Cache-Control": "no-cache"})


def _store(server: Server) -> QualityStore:
    store = server.datastore
    if not isinstance(store, QualityStore):
        raise NotThereYet("The app keeps its labels in a store of its own, which keeps no findings.")
    return store

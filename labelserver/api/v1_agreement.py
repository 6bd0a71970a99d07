"""``/api/v1/images/<id>/agreement`` and ``/consensus``: several readings of an image compared and made one."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api.answers import file_answer, json_answer
from labelserver.api.blind import ensure_sees
from labelserver.api.context import ServerOf
from labelserver.api.identity import person_of
from labelserver.app.agreeing import Method, Readings, agree, disagreement_map, make_consensus, readings_of
from labelserver.bootstrap import Server
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import NotThereYet
from labelserver.domain.ids import ImageId, parse_image_id, parse_tag
from labelserver.domain.work import reader_tag
from labelserver.imaging.volumes import write_volume
from labelserver.learning.agreement import LabelAgreement
from labelserver.wire.labels import LabelRevision
from labelserver.wire.review import (
    AgreementShown,
    ConsensusAsked,
    LabelShown,
    PairShown,
    ReaderShown,
    SpotShown,
)

router = APIRouter(prefix="/api/v1/images/{image_id:path}", tags=["Review"])


@router.get("/agreement", summary="How far the readers of an image agree", response_model=AgreementShown)
def get_agreement(request: Request, server: ServerOf, image_id: str) -> Response:
    store = _store(server)
    found = agree(_seen(request, server, store, parse_image_id(image_id)))
    names = {entry.value: entry.name for entry in store.schema().entries}
    readings = found.readings
    document = AgreementShown(
        image=readings.image_id,
        wanted=readings.wanted,
        readers=[
            ReaderShown(tag=tag, person=reading.person, revision=reading.revision.number)
            for tag, reading in readings.readings.items()
        ],
        labels=[_label(label, names) for label in found.labels],
        differing=found.share,
        spots=[SpotShown(voxels=s.voxels, center=s.center_ijk, low=s.low_ijk, high=s.high_ijk) for s in found.spots],
    )
    return json_answer(document.model_dump(mode="json"))


def _label(label: LabelAgreement, names: dict[int, str]) -> LabelShown:
    pairs = [
        PairShown(
            first=p.first,
            second=p.second,
            dice=p.dice,
            surface_mm=p.surface_mm,
            surface95_mm=p.surface95_mm,
            kappa=p.kappa,
        )
        for p in label.pairs
    ]
    name = names.get(label.value, f"label {label.value}")
    return LabelShown(value=label.value, name=name, mean_dice=label.mean_dice, pairs=pairs)


@router.get(
    "/agreement/map",
    summary="A volume on the image's grid: percent of the readers that differ from the majority",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_map(request: Request, server: ServerOf, image_id: str) -> Response:
    readings = _seen(request, server, _store(server), parse_image_id(image_id))
    server.spool.mkdir(parents=True, exist_ok=True)
    file = server.spool / f"agreement-{uuid.uuid4().hex}.nii.gz"
    write_volume(file, disagreement_map(readings), readings.grid.affine, compress=True)
    return file_answer(file, f"{readings.image_id.rpartition('/')[2]}.disagreement.nii.gz", delete=True)


@router.post("/consensus", summary="Make the label final from the readings", response_model=LabelRevision)
def post_consensus(request: Request, server: ServerOf, image_id: str, asked: ConsensusAsked) -> Response:
    store, checked = _store(server), parse_image_id(image_id)
    tag = parse_tag(asked.tag) if asked.tag else None
    client = request.headers.get("user-agent", "")[:200]
    ensure_sees(server, checked, reader_tag(1), person_of(request))
    server.spool.mkdir(parents=True, exist_ok=True)
    revision = make_consensus(
        store, checked, Method(asked.method.value), person_of(request), server.spool, client=client, tag=tag
    )
    return json_answer(LabelRevision.from_domain(revision, current=True).model_dump(mode="json"))


def _seen(request: Request, server: Server, store: LocalDatastore, image_id: ImageId) -> Readings:
    """Raises `BlindReading` unless the caller may see every reading."""
    person = person_of(request)
    store.image(image_id)
    for tag in store.get_labels_by_image_id(image_id):
        ensure_sees(server, image_id, tag, person)
    return readings_of(store, image_id)


def _store(server: Server) -> LocalDatastore:
    store = server.datastore
    if not isinstance(store, LocalDatastore):
        raise NotThereYet("The app keeps its labels in a store of its own, which knows no readings.")
    return store

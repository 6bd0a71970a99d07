"""``/api/v1/scores``: how unsure the model is about each image, and where; read from what the scoring job has kept."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import Datastore
from labelserver.contracts.scores import Look, ScoreStore
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import ImageNotFound, NotThereYet
from labelserver.domain.ids import ImageId, parse_image_id
from labelserver.domain.jobs import JobKind
from labelserver.wire.scores import ImageScores, ScoredKind, ScoreOverview

router = APIRouter(prefix="/api/v1/scores", tags=["Active learning"])


@router.get("", summary="How far scoring has got, by model and version", response_model=ScoreOverview)
async def overview(server: ServerOf) -> Response:
    jobs = [r for r in server.engine.jobs.list(JobKind.SCORING) if not r.state.is_final]
    found = await to_thread.run_sync(_overview, server, str(jobs[0].spec.job_id) if jobs else "")
    return json_answer(found.model_dump(mode="json"))


def _overview(server: Server, job: str) -> ScoreOverview:
    store = server.datastore
    if not isinstance(store, ScoreStore):
        raise NotThereYet(_NO_SCORES)
    seen: set[str] = set()
    kinds = []
    for one in store.scored():
        kinds.append(ScoredKind.model_validate({**one, "current": one["kind"] not in seen}))
        seen.add(str(one["kind"]))
    total = store.status()["total"] if isinstance(store, Datastore) else 0
    return ScoreOverview(images=int(total), kinds=kinds, names=_score_names(server), job=job)


def _score_names(server: Server) -> list[str]:
    store = server.datastore
    return store.score_names() if isinstance(store, LocalDatastore) else []


@router.get("/map/{image_id:path}", summary="A small picture of where the model is unsure", response_class=Response)
def picture(server: ServerOf, image_id: str, model: str = "") -> Response:
    look, _ = _look(server, parse_image_id(image_id), model)
    if not look.picture:
        raise ImageNotFound(f"There is no map of {image_id!r} yet. It comes with the next scoring by a model.")
    headers = {"Cache-Control": "no-cache", "ETag": f'"{look.content[:16]}-{look.version}"'}
    return Response(look.picture, media_type="image/png", headers=headers)


@router.get("/{image_id:path}", summary="What the last look at an image gave", response_model=ImageScores)
def image_scores(server: ServerOf, image_id: str, model: str = "") -> Response:
    look, stale = _look(server, parse_image_id(image_id), model)
    shown = ImageScores(
        image=look.image_id,
        kind=look.kind,
        version=look.version,
        ts=look.ts,
        content=look.content,
        scores=look.scores,
        classes=[round(value, 6) for value in look.classes],
        picture=bool(look.picture),
        stale=stale,
    )
    return json_answer(shown.model_dump(mode="json"))


def _look(server: Server, image_id: ImageId, model: str) -> tuple[Look, bool]:
    """The last look, and whether the image is another now. Raises `ImageNotFound`."""
    store = server.datastore
    if not isinstance(store, ScoreStore):
        raise NotThereYet(_NO_SCORES)
    found = store.look_at(image_id, model)
    if found is None:
        store.content_of(image_id)
        by = f" by {model!r}" if model else ""
        raise ImageNotFound(f"The image {image_id!r} has not been looked at{by} yet. Start it with POST /scoring/.")
    return found, bool(store.stale(found.kind, found.version, [image_id]))


_NO_SCORES = "The app keeps its images in a store of its own, which keeps no scores."

"""``/api/v1/images/<id>/restore``: an image that was removed comes back."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.api.identity import person_of
from labelserver.contracts.datastore import RevisionStore
from labelserver.domain.errors import NotThereYet
from labelserver.domain.ids import parse_image_id
from labelserver.wire.restoring import RestoredImage

router = APIRouter(prefix="/api/v1", tags=["Datastore"])


@router.post("/images/{image_id:path}/restore", summary="Undo the removal of an image", response_model=RestoredImage)
def restore_image(request: Request, server: ServerOf, image_id: str) -> Response:
    store = server.datastore
    if not isinstance(store, RevisionStore):
        raise NotThereYet("The app keeps its images in a store of its own, which cannot restore them.")
    checked = parse_image_id(image_id)
    store.restore_image(checked, person_of(request))
    tags = list(server.datastore.get_labels_by_image_id(checked))
    return json_answer(RestoredImage(image=checked, tags=tags).model_dump(mode="json"))

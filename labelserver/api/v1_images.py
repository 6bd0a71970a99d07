"""``/api/v1/images``: the image list in pages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.contracts.datastore import ImageListing
from labelserver.domain.errors import NotThereYet
from labelserver.wire.images import ImageList, ImageListQuery

router = APIRouter(prefix="/api/v1", tags=["Datastore"])


@router.get("/images", summary="Images in pages, by id or by a score", response_model=ImageList)
def list_images(server: ServerOf, asked: Annotated[ImageListQuery, Query()]) -> Response:
    store = server.datastore
    if not isinstance(store, ImageListing):
        raise NotThereYet("The app's own datastore has no pages. List all images with GET /datastore/?output=all.")
    return json_answer(ImageList.from_domain(store.image_page(asked.to_domain())).model_dump(mode="json"))

"""``/api/v1/images``: the image list in pages, and one image's record."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.contracts.datastore import Datastore, ImageListing, RevisionStore
from labelserver.contracts.splits import SplitStore
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import NotThereYet
from labelserver.domain.ids import ImageId, parse_image_id
from labelserver.domain.image_lists import ListedImage
from labelserver.wire.images import Image, ImageList, ImageListQuery

router = APIRouter(prefix="/api/v1", tags=["Datastore"])

#: Behind all routes with words after the id, which may hold "/" and so any words itself.
record_router = APIRouter(prefix="/api/v1", tags=["Datastore"])


@router.get("/images", summary="Images in pages, by id or by a score", response_model=ImageList)
def list_images(server: ServerOf, asked: Annotated[ImageListQuery, Query()]) -> Response:
    store = server.datastore
    if not isinstance(store, ImageListing):
        raise NotThereYet("The app's own datastore has no pages. List all images with GET /datastore/?output=all.")
    return json_answer(ImageList.from_domain(store.image_page(asked.to_domain())).model_dump(mode="json"))


@record_router.get("/images/{image_id:path}", summary="One image, and what it is for", response_model=Image)
def get_image_record(server: ServerOf, image_id: str) -> Response:
    store = server.datastore
    if not isinstance(store, RevisionStore):
        raise NotThereYet("The app's own datastore has no records. Ask GET /datastore/image/info?image=ID.")
    return json_answer(Image.from_domain(listed_image(store, parse_image_id(image_id))).model_dump(mode="json"))


def listed_image(store: RevisionStore, image_id: ImageId) -> ListedImage:
    """What is known about one image. Raises `ImageNotFound`."""
    record = store.image(image_id)
    side = store.sides([image_id]).get(image_id) if isinstance(store, SplitStore) else None
    tags = tuple(store.get_labels_by_image_id(image_id)) if isinstance(store, Datastore) else ()
    work = store.work.works([image_id]).get(image_id) if isinstance(store, LocalDatastore) else None
    return ListedImage(record, tags, side=side, work=work)

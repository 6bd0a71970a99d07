"""A page's drafts: label maps of the RAS+ grid, kept after each gesture, one for each person, image and tag."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.api.forms import Form, use_form
from labelserver.api.identity import person_of
from labelserver.api.openapi import form_body
from labelserver.api.session_bodies import read_model
from labelserver.api.v1_volumes import ASK_AGAIN, image_path
from labelserver.bootstrap import Server
from labelserver.datastore import drafts
from labelserver.datastore.drafts import MAX_DRAFT_BYTES, Drafts
from labelserver.domain.errors import Conflict, LabelNotFound, TooLarge
from labelserver.domain.ids import FINAL, ImageId, Tag, parse_image_id, parse_tag
from labelserver.domain.json_types import JsonObject
from labelserver.viewing import grid_maps
from labelserver.viewing.ras_volumes import placed
from labelserver.wire.volumes import DraftList, DraftParams, GridDraft, ListedDraft, header_text

router = APIRouter(prefix="/api/v1/images/{image_id:path}/drafts/mine", tags=["Page"])
list_router = APIRouter(prefix="/api/v1", tags=["Page"])

DRAFT_HEADER = "X-Labelserver-Draft"
#: of the draft's file; other clients' drafts are label files
EXTENSION = ".map.gz"
#: bytes of a page's own notes, as JSON
MAX_STATE_BYTES = 256 * 2**10

TagText = Annotated[str, Query(description="Of the label that the draft may become.")]


@router.put(
    "/voxels",
    summary="Keep a label map of the RAS+ grid as a draft",
    openapi_extra=form_body(("voxels",), ("params",)),
    response_model=GridDraft,
)
async def put_draft(request: Request, server: ServerOf, image_id: str, tag: TagText = FINAL) -> Response:
    checked, checked_tag, person = parse_image_id(image_id), parse_tag(tag), person_of(request)

    def keep(form: Form) -> GridDraft:
        return _keep(server, form, checked, checked_tag, person)

    limit = min(server.settings.max_upload_bytes, MAX_DRAFT_BYTES)
    kept = await use_form(request, server.spool, limit, keep)
    return json_answer(kept.model_dump(mode="json"))


@router.get(
    "/voxels",
    summary="The draft's label map, x fastest",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_draft(request: Request, server: ServerOf, image_id: str, tag: TagText = FINAL) -> Response:
    checked = parse_image_id(image_id)
    draft = _mine(server, checked, parse_tag(tag), person_of(request))
    told = _document(draft)
    if told.dims != placed(image_path(server, checked)).grid.shape:
        raise Conflict("The image has another size now than when your draft was drawn, so it cannot be shown on it.")
    headers = {
        "ETag": f'"{draft.sha256}"',
        "Cache-Control": ASK_AGAIN,
        "Content-Encoding": "gzip",
        DRAFT_HEADER: header_text(told, without="state"),
    }
    return Response(draft.file.read_bytes(), media_type="application/octet-stream", headers=headers)


@router.get("/state", summary="The draft without its voxels", response_model=GridDraft)
def get_draft_state(request: Request, server: ServerOf, image_id: str, tag: TagText = FINAL) -> Response:
    draft = _mine(server, parse_image_id(image_id), parse_tag(tag), person_of(request))
    return json_answer(_document(draft).model_dump(mode="json"))


@list_router.get("/drafts", summary="The caller's drafts, the newest first", response_model=DraftList)
def list_drafts(request: Request, server: ServerOf) -> Response:
    found = Drafts(server.roots.state).of_person(person_of(request))
    listed = [ListedDraft(image=d.image_id, tag=d.tag, number=d.number, updated_ts=d.updated_ts) for d in found]
    return json_answer(DraftList(drafts=listed).model_dump(mode="json"))


def _keep(server: Server, form: Form, image_id: ImageId, tag: Tag, person: str) -> GridDraft:
    upload = form.required_file("voxels")
    told = read_model(DraftParams, form.texts.get("params") or "{}")
    if len(json.dumps(told.state)) > MAX_STATE_BYTES:
        raise TooLarge(f"The state of a draft may have {MAX_STATE_BYTES} bytes as JSON.")
    path = image_path(server, image_id)
    dims = placed(path).grid.shape
    if told.content and told.content != (now := server.volumes.header(image_id, path).content):
        raise Conflict("The image has other pixels now than those that you drew on. Open it again.", content=now)
    info: JsonObject = {
        "dims": list(dims),
        "dtype": grid_maps.check_packed(upload.path, dims).name,
        "label_etag": told.label_etag,
        "content": told.content,
        "state": told.state,
    }
    based_on = None if told.force else told.based_on
    kept = Drafts(server.roots.state).put(image_id, tag, person, upload.path, EXTENSION, info, based_on=based_on)
    return _document(kept)


def _mine(server: Server, image_id: ImageId, tag: Tag, person: str) -> drafts.Draft:
    """Raises `LabelNotFound` also for a draft that is a label file."""
    draft = Drafts(server.roots.state).get(image_id, tag, person)
    if draft.ext != EXTENSION:
        raise LabelNotFound(f"Your draft of {image_id!r} is a {draft.ext} file of another program. Download it.")
    return draft


def _document(draft: drafts.Draft) -> GridDraft:
    return GridDraft.model_validate(
        {
            **draft.info,
            "image": draft.image_id,
            "tag": draft.tag,
            "number": draft.number,
            "updated_ts": draft.updated_ts,
            "size_bytes": draft.size_bytes,
        }
    )

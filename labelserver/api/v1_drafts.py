"""``/api/v1/images/<id>/drafts/<draft>``: what a page saves by itself while somebody draws.

A draft belongs to one person. ``mine`` is the caller's own; its answer names the id that stands for it. Other people's
ids answer 404, as if there were nothing.
"""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from labelserver.api.answers import file_answer, json_answer
from labelserver.api.context import ServerOf, ensure_image
from labelserver.api.forms import Form, receive_form
from labelserver.api.identity import person_of
from labelserver.api.openapi import form_body
from labelserver.bootstrap import Server
from labelserver.datastore import drafts
from labelserver.datastore.drafts import Drafts
from labelserver.domain.errors import InvalidParams, LabelNotFound
from labelserver.domain.ids import FINAL, ImageId, Tag, folder_key, parse_image_id, parse_tag
from labelserver.imaging.formats import LABEL_EXTENSIONS, split_ext
from labelserver.wire.labels import Draft

router = APIRouter(prefix="/api/v1/images/{image_id:path}/drafts", tags=["Labels"])

MINE = "mine"

TagText = Annotated[str, Query(description="Of the label that the draft may become.")]


@router.put("/{draft}", summary="Keep a draft", openapi_extra=form_body(("label",), ("params",)), response_model=Draft)
async def put_draft(request: Request, server: ServerOf, image_id: str, draft: str, tag: TagText = FINAL) -> Response:
    checked, checked_tag = parse_image_id(image_id), parse_tag(tag)
    person = _owner(request, draft)
    limit = min(server.settings.max_upload_bytes, drafts.MAX_DRAFT_BYTES)
    async with receive_form(request, server.spool, limit) as form:
        kept = await to_thread.run_sync(_put, server, form, checked, checked_tag, person)
    return _described(kept)


def _put(server: Server, form: Form, image_id: ImageId, tag: Tag, person: str) -> drafts.Draft:
    upload = form.required_file("label")
    ensure_image(server, image_id)
    ext = split_ext(upload.path.name)[1]
    if ext.lower() not in LABEL_EXTENSIONS:
        raise InvalidParams(f"The draft's file name ends with {ext or 'no extension'}; use that of a label.")
    return _drafts(server).put(image_id, tag, person, upload.path, ext, form.params())


@router.get("/{draft}", summary="The draft's file")
def get_draft(request: Request, server: ServerOf, image_id: str, draft: str, tag: TagText = FINAL) -> Response:
    kept = _drafts(server).get(parse_image_id(image_id), parse_tag(tag), _owner(request, draft))
    name = f"{kept.image_id.rpartition('/')[2]}{kept.ext}"
    return file_answer(kept.file, name, etag=kept.sha256)


@router.get("/{draft}/info", summary="What is known about the draft", response_model=Draft)
def get_draft_info(request: Request, server: ServerOf, image_id: str, draft: str, tag: TagText = FINAL) -> Response:
    return _described(_drafts(server).get(parse_image_id(image_id), parse_tag(tag), _owner(request, draft)))


@router.delete("/{draft}", summary="Drop the draft; {} also if there is none")
def delete_draft(request: Request, server: ServerOf, image_id: str, draft: str, tag: TagText = FINAL) -> Response:
    _drafts(server).remove(parse_image_id(image_id), parse_tag(tag), _owner(request, draft))
    return json_answer({})


def _drafts(server: Server) -> Drafts:
    return Drafts(server.roots.state)


def _owner(request: Request, draft: str) -> str:
    """The caller, if `draft` is his. Raises `LabelNotFound`."""
    person = person_of(request)
    if draft not in (MINE, folder_key(person)):
        raise LabelNotFound("You have no draft of this id. Your own is called 'mine'.")
    return person


def _described(draft: drafts.Draft) -> Response:
    document = Draft(
        id=folder_key(draft.person),
        image=draft.image_id,
        tag=draft.tag,
        updated_ts=draft.updated_ts,
        ext=draft.ext,
        size_bytes=draft.size_bytes,
        sha256=draft.sha256,
        info=dict(draft.info),
    )
    return json_answer(document.model_dump(mode="json"))

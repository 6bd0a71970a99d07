"""``/datastore/label``: labels by image and tag. A label is on its image's grid or it is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from labelserver.api.answers import file_answer, json_answer
from labelserver.api.blind import sees_label
from labelserver.api.context import ServerOf
from labelserver.api.contiguous_ids import contiguous_copy, contiguous_info
from labelserver.api.forms import Form, receive_form, use_form
from labelserver.api.identity import person_of
from labelserver.api.images import download_name, has_check_sum, info_of, note_edit
from labelserver.api.label_saving import expected_of, refuse_condition, said_by_app, save_upload, saver_of
from labelserver.api.openapi import form_body
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import RevisionStore
from labelserver.contracts.labels import RevisionHistory, SchemaStore
from labelserver.domain.errors import LabelNotFound, LabelServerError
from labelserver.domain.ids import FINAL, parse_image_id, parse_tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import Numbering, Revision

logger = logging.getLogger(__name__)
router = APIRouter(tags=["Datastore"], dependencies=[Depends(sees_label)])

LabelId = Annotated[str, Query(description="Id of a label, which is its image's id.")]
TagText = Annotated[str, Query(description="final, original, or a name of your own.")]


@router.put("/datastore/label", summary="Save a label", openapi_extra=form_body(("label",), ("params",)))
async def put_label(request: Request, server: ServerOf, image: LabelId, tag: TagText = FINAL) -> Response:
    image_id, checked_tag = parse_image_id(image), parse_tag(tag)

    def save(form: Form) -> tuple[str, Revision | None]:
        return save_upload(server, form, image_id, checked_tag, saver_of(request, form, Numbering.CONTIGUOUS))

    label_id, revision = await use_form(request, server.spool, server.settings.max_upload_bytes, save)
    answer = json_answer({"image": image_id, "label": label_id, **await said_by_app(server, image_id, label_id)})
    if revision is not None:
        answer.headers["ETag"] = f'"{revision.sha256}"'
    return answer


@router.delete("/datastore/label", summary="Remove a label; If-Match names the one that is meant")
def delete_label(request: Request, server: ServerOf, id: LabelId, tag: TagText = FINAL) -> Response:
    store, expected = server.datastore, expected_of(request.headers)
    try:
        if isinstance(store, RevisionStore):
            store.remove_label(parse_image_id(id), parse_tag(tag), person_of(request), expected=expected)
        else:
            refuse_condition(expected)
            store.remove_label(parse_image_id(id), parse_tag(tag))
    except LabelNotFound:
        logger.info("label was absent already", extra={"image_id": id, "tag": tag})
    return json_answer({})


@router.head("/datastore/label", summary="Does the label exist, with this check sum as stored or as GET sends it?")
def head_label(
    server: ServerOf, label: LabelId = "", image: LabelId = "", tag: TagText = FINAL, check_sum: str = ""
) -> Response:
    path = _path_of(server, label or image, tag)
    if check_sum and not has_check_sum(path, check_sum) and not _is_sent_with(server, label or image, tag, check_sum):
        raise LabelNotFound(f"The label {tag!r} of {label or image!r} has another check sum.")
    return Response()


def _is_sent_with(server: Server, label: str, tag: str, check_sum: str) -> bool:
    """Whether GET sends bytes with this check sum: they differ from the stored ones where the ids of /info/ do."""
    store = server.datastore
    if not isinstance(store, RevisionHistory) or not isinstance(store, SchemaStore):
        return False
    copy = contiguous_copy(*store.label_file(parse_image_id(label), parse_tag(tag)), store.schema(), server.spool)
    if copy is None:
        return False
    try:
        return has_check_sum(copy, check_sum)
    finally:
        copy.unlink(missing_ok=True)


@router.get("/datastore/label", summary="The label's file, with the ids 1..N of /info/")
def get_label(server: ServerOf, label: LabelId = "", image: LabelId = "", tag: TagText = FINAL) -> Response:
    store, label_id, checked_tag = server.datastore, label or image, parse_tag(tag)
    path = _path_of(server, label_id, tag)
    name = download_name(store.get_label_info(label_id, checked_tag), path)
    if not isinstance(store, RevisionHistory) or not isinstance(store, SchemaStore):
        return file_answer(path, name)
    revision, stored = store.label_file(parse_image_id(label_id), checked_tag)
    if not stored.is_file():
        return file_answer(path, name)
    schema = store.schema()
    copy = contiguous_copy(revision, stored, schema, server.spool)
    if copy is None:
        return file_answer(stored, name, etag=revision.sha256)
    return file_answer(copy, name, etag=f"{revision.sha256}-ids-{schema.version}", delete=True)


@router.get("/datastore/label/info", summary="What is known about the label; {} for an unknown one")
def get_label_info(server: ServerOf, label: LabelId = "", image: LabelId = "", tag: TagText = FINAL) -> Response:
    store = server.datastore
    try:
        info = store.get_label_info(parse_image_id(label or image), parse_tag(tag)) or {}
    except LabelServerError as error:
        if isinstance(error, LabelNotFound) or error.code == "ImageNotFound":
            return json_answer({})
        raise
    return json_answer(contiguous_info(info, store.schema()) if isinstance(store, SchemaStore) else info)


@router.put("/datastore/label/info", summary="Merge into the label's info", openapi_extra=form_body((), ("info",)))
async def put_label_info(
    request: Request, server: ServerOf, label: LabelId = "", image: LabelId = "", tag: TagText = FINAL
) -> Response:
    return await _merge_info(request, server, label or image, tag, "info")


@router.put("/datastore/updatelabelinfo", summary="The same, as the Reviewer calls it", include_in_schema=False)
async def update_label_info(
    request: Request, server: ServerOf, label: LabelId = "", image: LabelId = "", tag: TagText = FINAL
) -> Response:
    return await _merge_info(request, server, label or image, tag, "params")


async def _merge_info(request: Request, server: Server, label: str, tag: str, name: str) -> Response:
    label_id, checked_tag = parse_image_id(label), parse_tag(tag)
    async with receive_form(request, server.spool, server.settings.max_upload_bytes) as form:
        info = info_of(form, name)
    info["user"] = person_of(request, info.get("client_id"))
    await to_thread.run_sync(_update_info, server, label_id, checked_tag, info)
    return json_answer(None)


def _update_info(server: Server, label_id: str, tag: str, info: JsonObject) -> None:
    store = server.datastore
    store.update_label_info(label_id, tag, info)
    note_edit(store, "label_info", info, label_id, tag)


def _path_of(server: Server, label: str, tag: str) -> Path:
    uri = server.datastore.get_label_uri(parse_image_id(label), parse_tag(tag))
    if not uri or not Path(uri).is_file():
        raise LabelNotFound(f"Label NOT Found or is a directory: {label[:200]!r} has no label with tag {tag[:80]!r}.")
    return Path(uri)

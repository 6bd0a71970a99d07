"""``/datastore/label``: labels by image and tag. A label is on its image's grid or it is refused."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from labelserver.api.answers import file_answer, json_answer
from labelserver.api.context import ServerOf, ensure_image
from labelserver.api.forms import Form, receive_form
from labelserver.api.identity import person_of
from labelserver.api.images import download_name, has_check_sum, info_of
from labelserver.api.openapi import form_body
from labelserver.api.raw_labels import RAW_EXTENSION, raw_to_nifti
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import RevisionStore
from labelserver.domain.errors import InvalidParams, LabelNotFound, LabelServerError
from labelserver.domain.ids import FINAL, ImageId, Tag, parse_image_id, parse_tag
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.labels import Provenance
from labelserver.imaging.formats import LABEL_EXTENSIONS, split_ext

logger = logging.getLogger(__name__)
router = APIRouter(tags=["Datastore"])

LabelId = Annotated[str, Query(description="Id of a label, which is its image's id.")]
TagText = Annotated[str, Query(description="final, original, or a name of your own.")]


@router.put("/datastore/label", summary="Save a label", openapi_extra=form_body(("label",), ("params",)))
async def put_label(request: Request, server: ServerOf, image: LabelId, tag: TagText = FINAL) -> Response:
    image_id, checked_tag = parse_image_id(image), parse_tag(tag)
    async with receive_form(request, server.spool, server.settings.max_upload_bytes) as form:
        params = form.params()
        _check_label_info(params.get("label_info"))
        person = person_of(request, params.get("client_id"))
        agent = request.headers.get("user-agent", "")[:200]
        label_id = await to_thread.run_sync(_save, server, form, image_id, checked_tag, person, agent)
    return json_answer({"image": image_id, "label": label_id, **await _said_by_app(server, image_id, label_id)})


def _save(server: Server, form: Form, image_id: ImageId, tag: Tag, person: str, agent: str) -> str:
    upload = form.required_file("label")
    info = form.params()
    ensure_image(server, image_id)
    ext = split_ext(upload.path.name)[1]
    if ext.lower() not in LABEL_EXTENSIONS:
        known = ", ".join(sorted(LABEL_EXTENSIONS))
        raise InvalidParams(f"The label's file name ends with {ext or 'no extension'}; known are {known}.")
    if ext.lower() != RAW_EXTENSION:
        return _accept(server, image_id, upload.path, ext, tag, Provenance(person=person, client=agent), info)
    converted = server.spool / f"label-{uuid.uuid4().hex}.nii.gz"
    try:
        raw_to_nifti(upload.path, Path(server.datastore.get_image_uri(image_id)), converted)
        return _accept(server, image_id, converted, ".nii.gz", tag, Provenance(person=person, client=agent), info)
    finally:
        converted.unlink(missing_ok=True)


def _accept(
    server: Server, image_id: ImageId, file: Path, ext: str, tag: Tag, provenance: Provenance, info: JsonObject
) -> str:
    """Through the revision store where there is one, so that who saved it is kept."""
    store = server.datastore
    if isinstance(store, RevisionStore):
        return store.accept_label(image_id, file, ext, tag, provenance, info).image_id
    return store.save_label(image_id, str(file), tag, info)


async def _said_by_app(server: Server, image_id: str, label_id: str) -> JsonObject:
    """What the app's save hook wants in the answer. Its failure does not undo the save, and is told."""
    description = server.engine.description()
    if description is None or "on_save_label" not in description.overridden_hooks:
        return {}
    try:
        said = await server.engine.call_lead("on_save_label", {"image_id": image_id, "label_id": label_id})
    except LabelServerError as error:
        logger.warning("save hook failed", extra={"image_id": image_id, "code": error.code}, exc_info=error)
        return {"hook_problem": f"The label is saved, but the app's on_save_label failed: {error.message}"}
    return dict(said) if isinstance(said, dict) else {}


@router.delete("/datastore/label", summary="Remove a label")
def delete_label(request: Request, server: ServerOf, id: LabelId, tag: TagText = FINAL) -> Response:
    store = server.datastore
    try:
        if isinstance(store, RevisionStore):
            store.remove_label(parse_image_id(id), parse_tag(tag), person_of(request))
        else:
            store.remove_label(parse_image_id(id), parse_tag(tag))
    except LabelNotFound:
        logger.info("label was absent already", extra={"image_id": id, "tag": tag})
    return json_answer({})


@router.head("/datastore/label", summary="Does the label exist?")
def head_label(
    server: ServerOf, label: LabelId = "", image: LabelId = "", tag: TagText = FINAL, check_sum: str = ""
) -> Response:
    path = _path_of(server, label or image, tag)
    if check_sum and not has_check_sum(path, check_sum):
        raise LabelNotFound(f"The label {tag!r} of {label or image!r} has another check sum.")
    return Response()


@router.get("/datastore/label", summary="The label's file")
def get_label(server: ServerOf, label: LabelId = "", image: LabelId = "", tag: TagText = FINAL) -> Response:
    path = _path_of(server, label or image, tag)
    info = server.datastore.get_label_info(label or image, parse_tag(tag))
    return file_answer(path, download_name(info, path))


@router.get("/datastore/label/info", summary="What is known about the label; {} for an unknown one")
def get_label_info(server: ServerOf, label: LabelId = "", image: LabelId = "", tag: TagText = FINAL) -> Response:
    try:
        return json_answer(server.datastore.get_label_info(parse_image_id(label or image), parse_tag(tag)) or {})
    except LabelServerError as error:
        if isinstance(error, LabelNotFound) or error.code == "ImageNotFound":
            return json_answer({})
        raise


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
    await to_thread.run_sync(lambda: server.datastore.update_label_info(label_id, checked_tag, info))
    return json_answer(None)


def _check_label_info(label_info: JsonValue) -> None:
    if label_info is None:
        return
    if not isinstance(label_info, list) or not all(isinstance(entry, dict) for entry in label_info):
        raise InvalidParams('params.label_info must be a list of objects such as [{"name": "liver", "idx": 1}].')


def _path_of(server: Server, label: str, tag: str) -> Path:
    uri = server.datastore.get_label_uri(parse_image_id(label), parse_tag(tag))
    if not uri or not Path(uri).is_file():
        raise LabelNotFound(f"Label NOT Found or is a directory: {label[:200]!r} has no label with tag {tag[:80]!r}.")
    return Path(uri)

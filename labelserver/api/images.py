"""``/datastore/image``: images by id, their bytes and their info."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from labelserver.api.answers import file_answer, json_answer
from labelserver.api.context import ServerOf, shares_files
from labelserver.api.forms import Form, base_name, parse_json_object, receive_form
from labelserver.api.identity import person_of
from labelserver.api.openapi import form_body
from labelserver.api.samples import file_digest
from labelserver.bootstrap import Server
from labelserver.contracts.audit import ActLog
from labelserver.contracts.datastore import Datastore, RevisionStore
from labelserver.domain.errors import ImageNotFound, InvalidParams
from labelserver.domain.ids import parse_image_id
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.imaging.formats import split_ext

router = APIRouter(tags=["Datastore"])

#: hex digits -> algorithm, for check sums that do not name theirs.
_ALGORITHM_OF_LENGTH = {64: "sha256", 128: "sha512", 32: "md5"}
_CHECK_SUM = re.compile(r"^(?:(sha256|sha512|md5):)?([0-9a-f]+)$")

ImageId = Annotated[str, Query(description="Id of an image.")]


@router.put("/datastore/image", summary="Add an image", openapi_extra=form_body(("file",), ("params",)))
@router.put("/datastore/", include_in_schema=False)
async def put_image(request: Request, server: ServerOf, image: ImageId = "") -> Response:
    async with receive_form(request, server.spool, server.settings.max_upload_bytes) as form:
        person = person_of(request, form.params().get("client_id"))
        return json_answer({"image": await to_thread.run_sync(_add, server, form, image, person)})


def _add(server: Server, form: Form, image: str, person: str) -> str:
    file = form.required_file("file")
    info = {**form.params(), "user": person}
    image_id = parse_image_id(image or split_ext(base_name(file.client_name))[0])
    return server.datastore.add_image(image_id, str(file.path), info)


@router.delete("/datastore/image", summary="Remove an image and its labels")
@router.delete("/datastore/", include_in_schema=False)
def delete_image(request: Request, server: ServerOf, id: ImageId) -> Response:
    image_id = parse_image_id(id)
    if not server.datastore.get_image_info(image_id) and not server.datastore.get_image_uri(image_id):
        raise _unknown(image_id)
    store = server.datastore
    if isinstance(store, RevisionStore):
        store.remove_image(image_id, person_of(request))
    else:
        store.remove_image(image_id)
    return json_answer({})


@router.head("/datastore/image", summary="Does the image exist, and has it this check sum?")
def head_image(server: ServerOf, image: ImageId, check_sum: str = "") -> Response:
    path = _path_of(server, image)
    if check_sum and not has_check_sum(path, check_sum):
        raise ImageNotFound(f"The image {image!r} has another check sum.")
    return Response()


@router.get("/datastore/image", summary="The image's file; a DICOM series as .nii.gz")
def get_image(server: ServerOf, image: ImageId) -> Response:
    path = _path_of(server, image)
    return file_answer(path, download_name(server.datastore.get_image_info(image), path))


@router.get("/datastore/image/info", summary="What is known about the image; {} for an unknown one")
def get_image_info(request: Request, server: ServerOf, image: ImageId) -> Response:
    try:
        info = server.datastore.get_image_info(parse_image_id(image))
    except ImageNotFound:
        return json_answer({})
    if not info:
        return json_answer({})
    path = Path(server.datastore.get_image_uri(image))
    return json_answer({**info, "path": str(path) if shares_files(request) else path.name})


@router.put("/datastore/image/info", summary="Merge into the image's info", openapi_extra=form_body((), ("info",)))
async def put_image_info(request: Request, server: ServerOf, image: ImageId) -> Response:
    async with receive_form(request, server.spool, server.settings.max_upload_bytes) as form:
        info = info_of(form, "info")
    info["user"] = person_of(request, info.get("client_id"))
    image_id = parse_image_id(image)
    await to_thread.run_sync(_update_info, server, image_id, info)
    return json_answer(None)


def _update_info(server: Server, image_id: str, info: JsonObject) -> None:
    store = server.datastore
    store.update_image_info(image_id, info)
    note_edit(store, "image_info", info, image_id)


def note_edit(store: Datastore, action: str, info: JsonObject, image_id: str, tag: str = "") -> None:
    """Tell the audit log who changed which keys of an info; the values stay out of it."""
    if isinstance(store, ActLog):
        keys: list[JsonValue] = [*sorted(key for key in info if key != "user")]
        store.note_act(action, str(info.get("user") or ""), {"keys": keys}, image_id=image_id, tag=tag)


def info_of(form: Form, name: str) -> JsonObject:
    """The required text part `name` as an object. Raises `InvalidParams` if it is missing."""
    if name not in form.texts:
        raise InvalidParams(f"The form has no field '{name}'. Send a JSON object in it, as in curl -F {name}='{{}}'.")
    return parse_json_object(form.texts[name], name)


def download_name(info: JsonObject, path: Path) -> str:
    """The name that the store tells, with the extension that the file really has."""
    name = str(info.get("name") or path.name)
    ext = split_ext(path.name)[1]
    return base_name(name if name.lower().endswith(ext.lower()) else split_ext(name)[0] + ext)


def has_check_sum(path: Path, check_sum: str) -> bool:
    """`check_sum`: ``ALGORITHM:hex`` or hex alone, SHA-256, SHA-512 or MD5. Raises `InvalidParams` on other text."""
    match = _CHECK_SUM.match(check_sum.strip().lower())
    algorithm = match and (match.group(1) or _ALGORITHM_OF_LENGTH.get(len(match.group(2))))
    if match is None or algorithm not in hashlib.algorithms_available:
        raise InvalidParams("check_sum must be SHA256:<hex>, SHA512:<hex>, MD5:<hex>, or the hex digits alone.")
    stat = path.stat()
    return file_digest(path, str(algorithm), stat.st_mtime_ns, stat.st_size) == match.group(2)


def _path_of(server: Server, image: str) -> Path:
    uri = server.datastore.get_image_uri(parse_image_id(image))
    if not uri or not Path(uri).is_file():
        raise _unknown(image)
    return Path(uri)


def _unknown(image: str) -> ImageNotFound:
    return ImageNotFound(
        f"Image NOT Found or is a directory: {image[:200]!r}. List the ids with GET /datastore/?output=all."
    )

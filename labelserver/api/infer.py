"""``POST /infer/{model}``: one inference, of an image by id, an upload in the request, or an earlier upload.

Uploads are on disk before the worker hears of them and gone when the answer is sent. A caller that goes away cancels
the inference.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi import Path as PathValue
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from labelserver.api.answers import file_answer, infer_answer, json_answer, plain_name
from labelserver.api.context import ServerOf, ensure_image, known_task, table
from labelserver.api.forms import Form, UploadedFile, base_name, receive_form
from labelserver.api.identity import person_of
from labelserver.api.infer_params import checked_infer_params, priority_of
from labelserver.api.info_document import contiguous
from labelserver.api.openapi import form_body
from labelserver.api.raw_labels import RAW_EXTENSION, raw_to_nifti
from labelserver.api.sessions import ensure_on
from labelserver.bootstrap import Server
from labelserver.datastore.uploads import Upload
from labelserver.domain.errors import NoImageGiven, NotThereYet, Refused, TaskFailed
from labelserver.domain.ids import parse_image_id
from labelserver.domain.infer import InferAnswer, InferRequest, OutputMode
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import Root, RootedPath
from labelserver.imaging.formats import has_voxels, split_ext
from labelserver.imaging.volumes import check_whole

router = APIRouter(tags=["Inference"])


@router.post(
    "/infer/{model}",
    summary="Run a model on an image: by id, by upload, or by session",
    openapi_extra=form_body(("file", "label"), ("params",)),
)
async def infer(
    request: Request,
    server: ServerOf,
    model: Annotated[str, PathValue(description="Name of a model in /info/.")],
    image: Annotated[str, Query(description="Id of an image of the datastore.")] = "",
    session_id: Annotated[str, Query(description="Id that PUT /session/ answered.")] = "",
    output: Annotated[OutputMode, Query(description="all: mask and parameters; image: mask; json: parameters.")] = (
        OutputMode.ALL
    ),
) -> Response:
    settings = server.settings
    async with receive_form(request, server.spool, settings.max_upload_bytes) as form:
        if output is OutputMode.DICOM_SEG:
            raise NotThereYet("DICOM SEG output is not there yet. Ask for output=image and convert the mask.")
        links: list[Path] = []
        try:
            ask = await _ask(request, server, model, image, session_id, form, links)
            answer = await _while_connected(request, server, server.engine.infer(ask))
        except TaskFailed:
            await to_thread.run_sync(_blame_uploads, form)
            raise
        finally:
            for link in links:
                link.unlink(missing_ok=True)
    return await to_thread.run_sync(_respond, server, ask, answer, output)


async def _ask(
    request: Request, server: Server, model: str, image: str, session_id: str, form: Form, links: list[Path]
) -> InferRequest:
    """The request as a value. Files that it needs and that we make are added to `links`."""
    described = known_task(server.engine.description(), "models", model, "model")
    params = form.params()
    client_id = params.get("client_id")
    params = checked_infer_params(params, model, image, table(described, "config"))
    file, label = form.file("file"), form.file("label")
    image_id, image_file, session = None, None, None
    if session_id:
        upload = await to_thread.run_sync(_uploaded, server, session_id)
        session = upload.to_json()
        image_file = _rooted(server, upload.image, links)
    elif file is not None:
        image_file = _rooted(server, form.required_file("file").path, links)
    elif image:
        image_id = parse_image_id(image)
        await to_thread.run_sync(ensure_image, server, image_id)
    else:
        raise NoImageGiven(
            "No image was given: name one (?image=ID), upload one (form part 'file'), or give session_id."
        )
    if image_id is None and params.get("save_label"):
        params["save_label"] = False  # an upload is no image of the datastore, so it can hold no label there
    label_file = None
    if label is not None:
        reference = await to_thread.run_sync(_reference, server, image_id, image_file)
        label_file = _rooted(server, await to_thread.run_sync(_label_on_disk, server, label, reference, links), links)
    return InferRequest(
        model=model,
        image_id=image_id,
        image_file=image_file,
        label_file=label_file,
        session=session,
        params=params,
        person=person_of(request, client_id),
        priority=priority_of(params, described.get("type")),
    )


def _blame_uploads(form: Form) -> None:
    """A task that failed on an unreadable upload is the upload's fault: raise what is wrong with it.

    Looked at only after a failure, so that good uploads are not read twice.
    """
    for upload in form.files:
        if has_voxels(split_ext(upload.path.name)[1]):
            check_whole(upload.path)


def _uploaded(server: Server, session_id: str) -> Upload:
    ensure_on(server)
    return server.uploads.get(session_id)


def _rooted(server: Server, path: Path, links: list[Path]) -> RootedPath:
    """`path` below the state folder; uploads kept elsewhere are reached through a link in the spool."""
    if path.is_relative_to(server.roots.state):
        return server.roots.relative(path, Root.STATE)
    link = server.spool / f"link-{uuid.uuid4().hex}{''.join(path.suffixes[-2:]) if path.is_file() else ''}"
    link.symlink_to(path)
    links.append(link)
    return server.roots.relative(link, Root.STATE)


def _reference(server: Server, image_id: str | None, image_file: RootedPath | None) -> Path:
    if image_file is not None:
        return server.roots.resolve(image_file)
    return Path(server.datastore.get_image_uri(image_id or ""))


def _label_on_disk(server: Server, label: UploadedFile, reference: Path, links: list[Path]) -> Path:
    if label.path.suffix != RAW_EXTENSION:
        return label.path
    target = server.spool / f"label-{uuid.uuid4().hex}.nii.gz"
    links.append(target)
    raw_to_nifti(label.path, reference, target)
    return target


async def _while_connected(request: Request, server: Server, work: Awaitable[InferAnswer]) -> InferAnswer:
    """The answer of `work`, unless the caller goes away first: then `work` is cancelled and its file removed."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            for ended in await asyncio.gather(task, return_exceptions=True):
                if isinstance(ended, InferAnswer) and ended.file is not None:
                    server.roots.resolve(ended.file).unlink(missing_ok=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _respond(server: Server, ask: InferRequest, answer: InferAnswer, output: OutputMode) -> Response:
    path = server.roots.resolve(answer.file) if answer.file is not None else None
    params = _wire_params(answer)
    if output is OutputMode.JSON or (path is None and output is OutputMode.ALL):
        if path is not None:
            path.unlink(missing_ok=True)
        return json_answer(params)
    if path is None:
        raise Refused(f"The model {ask.model!r} answers no mask. Ask for output=json.")
    name = _mask_name(ask, answer.ext or split_ext(path.name)[1])
    return file_answer(path, name, delete=True) if output is OutputMode.IMAGE else infer_answer(params, path, name)


def _wire_params(answer: InferAnswer) -> JsonObject:
    """The result as clients read it; labels as name -> id (R-27)."""
    params: JsonObject = {key: value for key, value in answer.params.items() if value is not None}
    if "label_names" in params:
        params["label_names"] = contiguous(params["label_names"])
    if answer.saved_label is not None:
        params["saved"] = {"label": answer.saved_label[0], "tag": answer.saved_label[1]}
    if answer.model_version:
        params["model_version"] = answer.model_version
    return params


def _mask_name(ask: InferRequest, ext: str) -> str:
    """A bare name with the extension of the mask's format (R-24)."""
    source = split_ext(base_name(ask.image_id))[0] if ask.image_id else "label"
    return plain_name(source) + ext

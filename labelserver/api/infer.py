"""``POST /infer/{model}``: one inference, of an image by id, an upload in the request, or an earlier upload.

Uploads are on disk before the worker hears of them and gone when the answer is sent. A caller that goes away cancels
the inference. The mask travels whole, in a file format, or, if ``Accept`` names a media type of `wire.mask_box`, as the
box round everything marked. ``Server-Timing`` says where the time went.
"""

from __future__ import annotations

import time
import uuid
from functools import partial
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi import Path as PathValue
from starlette.responses import Response

from labelserver.api.activity import remember_proposal
from labelserver.api.answers import file_answer, infer_answer, json_answer, plain_name
from labelserver.api.context import ServerOf, ensure_image, known_task, table
from labelserver.api.disconnects import while_connected
from labelserver.api.forms import Form, UploadedFile, base_name, receive_form
from labelserver.api.identity import person_of
from labelserver.api.infer_params import checked_infer_params, priority_of
from labelserver.api.info_document import contiguous
from labelserver.api.openapi import form_body
from labelserver.api.raw_labels import RAW_EXTENSION, raw_to_nifti
from labelserver.api.server_timing import server_timing
from labelserver.api.session_answers import preferred
from labelserver.api.sessions import ensure_on
from labelserver.bootstrap import Server
from labelserver.datastore.uploads import Upload
from labelserver.domain.errors import NoImageGiven, NotThereYet, Refused, TaskFailed
from labelserver.domain.ids import parse_image_id
from labelserver.domain.infer import InferAnswer, InferRequest, OutputMode
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import Root, RootedPath
from labelserver.imaging.formats import has_voxels, split_ext
from labelserver.imaging.volumes import check_whole, read_volume
from labelserver.wire import mask_box

router = APIRouter(tags=["Inference"])

_BOX_MEDIA = {mask_box.MEDIA_TYPE_ZSTD: "zstd", mask_box.MEDIA_TYPE_GZIP: "gzip"}


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
    codec = _box_codec(request, output)
    async with receive_form(request, server.spool, settings.max_upload_bytes) as form:
        if output is OutputMode.DICOM_SEG:
            raise NotThereYet("DICOM SEG output is not there yet. Ask for output=image and convert the mask.")
        links: list[Path] = []
        try:
            ask = await _ask(request, server, model, image, session_id, form, links)
            if codec is not None and not ask.params.get("save_label"):  # a label is saved from a file
                ask.params["result_box"] = codec
            began = time.perf_counter()
            answer = await while_connected(request, server.engine.infer(ask), discard=partial(_discard, server))
            await remember_proposal(server, ask, answer)
        except TaskFailed:
            await to_thread.run_sync(_blame_uploads, form)
            raise
        finally:
            for link in links:
                link.unlink(missing_ok=True)
    waited_s = time.perf_counter() - began
    if answer.box is not None and codec is not None:
        response = _box_response(mask_box.with_params(answer.box, _wire_params(answer)), codec)
    else:
        response = await to_thread.run_sync(_respond, server, ask, answer, output, codec)
    response.headers["Server-Timing"] = server_timing(answer.params.get("latencies"), waited_s)
    return response


def _box_codec(request: Request, output: OutputMode) -> str | None:
    """The codec in which the caller takes a box; None if it wants a file, or parameters alone."""
    if output is OutputMode.JSON:
        return None
    return _BOX_MEDIA.get(preferred(request.headers.get("accept", ""), _BOX_MEDIA))


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


def _discard(server: Server, answer: InferAnswer) -> None:
    if answer.file is not None:
        server.roots.resolve(answer.file).unlink(missing_ok=True)


def _respond(server: Server, ask: InferRequest, answer: InferAnswer, output: OutputMode, codec: str | None) -> Response:
    path = server.roots.resolve(answer.file) if answer.file is not None else None
    params = _wire_params(answer)
    if output is OutputMode.JSON or (path is None and output is OutputMode.ALL):
        if path is not None:
            path.unlink(missing_ok=True)
        return json_answer(params)
    if path is None:
        raise Refused(f"The model {ask.model!r} answers no mask. Ask for output=json.")
    if codec is not None:
        return _box_answer(path, codec, params)
    name = _mask_name(ask, answer.ext or split_ext(path.name)[1])
    return file_answer(path, name, delete=True) if output is OutputMode.IMAGE else infer_answer(params, path, name)


def _box_answer(path: Path, codec: str, params: JsonObject) -> Response:
    """The box of the mask file of a task that writes by itself; removes `path`."""
    try:
        mask = read_volume(path).voxels
    finally:
        path.unlink(missing_ok=True)
    packing = mask_box.BoxCodec.GZIP if codec == "gzip" else mask_box.BoxCodec.ZSTD
    body = mask_box.encode_box(mask, mask_box.changed_box(None, mask), codec=packing, params=params)
    return _box_response(body, codec)


def _box_response(body: bytes, codec: str) -> Response:
    media = next(media for media, name in _BOX_MEDIA.items() if name == codec)
    return Response(body, media_type=media, headers={"Vary": "Accept"})


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

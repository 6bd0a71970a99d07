"""Labels on the RAS+ grid, for pages that know no file format: boxes of any revision, whole maps saved as labels."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.blind import sees_label
from labelserver.api.context import ServerOf
from labelserver.api.forms import Form, use_form
from labelserver.api.label_saving import accept_file, annotated_part, check_label_info, said_by_app, saver_of
from labelserver.api.openapi import form_body
from labelserver.api.v1_labels import history_of, revision_of
from labelserver.api.v1_volumes import ASK_AGAIN, image_path, takes_gzip
from labelserver.bootstrap import Server
from labelserver.datastore.drafts import Drafts
from labelserver.datastore.label_diff import is_layered, masks_of
from labelserver.datastore.training_labels import flattened
from labelserver.domain.annotation import AnnotatedPart, WholeImage, moved_region
from labelserver.domain.errors import InvalidParams, NotThereYet, UnsupportedFormat
from labelserver.domain.ids import ImageId, Tag, parse_image_id, parse_tag
from labelserver.domain.labels import Numbering, Revision
from labelserver.imaging.formats import has_voxels
from labelserver.imaging.volumes import read_grid, read_volume
from labelserver.viewing import grid_maps
from labelserver.viewing.ras_volumes import Placed, placed
from labelserver.wire.labels import LabelRevision
from labelserver.wire.volumes import LabelBox, header_text

router = APIRouter(
    prefix="/api/v1/images/{image_id:path}/labels/{tag}", tags=["Page"], dependencies=[Depends(sees_label)]
)

BOX_HEADER = "X-Labelserver-Box"

_CORNER = re.compile(r"^(\d{1,9}),(\d{1,9}),(\d{1,9})$")
_Corner = Annotated[str, Query(description="x,y,z of the RAS+ grid.")]


@router.get(
    "/box",
    summary="Label values inside a box of the RAS+ grid, x fastest",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_box(
    request: Request,
    server: ServerOf,
    image_id: str,
    tag: str,
    lo: _Corner = "",
    hi: _Corner = "",
    revision: Annotated[int | None, Query(ge=1, description="Default: the current one.")] = None,
) -> Response:
    checked, checked_tag = parse_image_id(image_id), parse_tag(tag)
    image = image_path(server, checked)
    found, file = _revision(server, checked, checked_tag, revision)
    gzipped = takes_gzip(request)
    etag = f'"{found.sha256}-box-{lo or "0"}-{hi or "all"}{"-gz" if gzipped else ""}"'
    headers = {"ETag": etag, "Cache-Control": ASK_AGAIN, "Vary": "Accept-Encoding"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    where = placed(image)
    voxels, overlapping = _map_of(found, file, where)
    box = grid_maps.checked_box(_corner(lo), _corner(hi), where.grid.shape)
    part = grid_maps.smallest(voxels[box.slices])
    labels = found.annotation.labels
    told = LabelBox(
        lo=box.lo,
        hi=box.hi,
        dtype="uint8" if part.dtype.itemsize == 1 else "uint16",
        revision=found.number,
        etag=f'"{found.sha256}"',
        overlapping=overlapping,
        annotated_labels=None if labels is None else list(labels),
        annotated_part=not isinstance(found.annotation.region, WholeImage),
    )
    headers[BOX_HEADER] = header_text(told)
    return binary(grid_maps.map_bytes(part), headers, gzipped=gzipped)


@router.put(
    "/voxels",
    summary="Save a whole label map of the RAS+ grid as a label",
    openapi_extra=form_body(("voxels",), ("params", "annotated")),
    response_model=LabelRevision,
)
async def put_voxels(request: Request, server: ServerOf, image_id: str, tag: str) -> Response:
    checked, checked_tag = parse_image_id(image_id), parse_tag(tag)

    def save(form: Form) -> tuple[str, Revision | None]:
        return _save(request, server, form, checked, checked_tag)

    label_id, revision = await use_form(request, server.spool, server.settings.max_upload_bytes, save)
    await said_by_app(server, checked, label_id)
    if revision is None:
        raise NotThereYet("The label is saved, but the app's own store keeps no revisions that could be described.")
    answer = json_answer(LabelRevision.from_domain(revision, current=True).model_dump(mode="json"))
    answer.headers["ETag"] = f'"{revision.sha256}"'
    return answer


def binary(data: bytes, headers: dict[str, str], *, gzipped: bool) -> Response:
    """Bytes for a page; packed for callers of other machines."""
    if gzipped:
        headers = {**headers, "Content-Encoding": "gzip"}
        data = grid_maps.packed(data)
    return Response(data, media_type="application/octet-stream", headers=headers)


def _save(request: Request, server: Server, form: Form, image_id: ImageId, tag: Tag) -> tuple[str, Revision | None]:
    upload, info = form.required_file("voxels"), form.params()
    check_label_info(info.get("label_info"))
    draft = info.pop("draft", None)
    if draft is not None and (isinstance(draft, bool) or not isinstance(draft, int)):
        raise InvalidParams("params.draft is the number of your draft, a whole number.")
    where = placed(image_path(server, image_id))
    saver = saver_of(request, form, Numbering.SCHEMA)
    saver = replace(saver, annotated=_in_file(annotated_part(form), where))
    ext = ".png" if where.is_picture else ".nii.gz"
    file = server.spool / f"label-{uuid.uuid4().hex}{ext}"
    try:
        grid_maps.write_label(grid_maps.read_map(upload.path, where.grid.shape), where, file)
        saved = accept_file(server, image_id, file, ext, tag, saver, info)
    finally:
        file.unlink(missing_ok=True)
    if draft is not None:
        Drafts(server.roots.state).remove(image_id, tag, saver.person, number=draft)
    return saved


def _in_file(part: AnnotatedPart, where: Placed) -> AnnotatedPart:
    """What was annotated, told in voxels of the grid, in the file's axes. Raises `InvalidParams`."""
    if part.mask is not None:
        raise InvalidParams("Tell the annotated region as slices or boxes; a mask goes with PUT .../labels/{tag}.")
    back = where.change.inverse()
    return replace(part, region=moved_region(part.region, back.order, back.reversed_axes, where.file.shape))


def _revision(server: Server, image_id: ImageId, tag: Tag, number: int | None) -> tuple[Revision, Path]:
    history = history_of(server)
    if number is None:
        return history.label_file(image_id, tag)
    return revision_of(server, image_id, tag, number), history.revision_file(image_id, tag, number)


def _map_of(revision: Revision, file: Path, where: Placed) -> tuple[grid_maps.LabelVoxels, int]:
    """(X, Y, Z) on the grid, and how many voxels belong to several segments."""
    if not has_voxels(revision.ext):
        raise UnsupportedFormat(f"A label of type {revision.ext} has no voxels to draw on. Download its file.")
    if is_layered(revision, file):
        grid = read_grid(file)
        flat, overlapping = flattened(masks_of(revision, file), grid.shape)
        return grid_maps.on_grid(flat, grid, where), overlapping
    volume = read_volume(file)
    return grid_maps.on_grid(volume.voxels, volume.grid, where), 0


def _corner(text: str) -> tuple[int, int, int] | None:
    if not text:
        return None
    found = _CORNER.match(text)
    if found is None:
        raise InvalidParams(f"A corner of a box is three whole numbers such as 0,0,10; got {text[:60]!r}.")
    return (int(found[1]), int(found[2]), int(found[3]))

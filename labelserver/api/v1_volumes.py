"""``/api/v1/images/<id>/volume``: images for viewers that know no file format, on the RAS+ grid (docs/page-api.md)."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf, ensure_image, shares_files
from labelserver.bootstrap import Server
from labelserver.domain.errors import ImageNotFound
from labelserver.domain.ids import ImageId, parse_image_id
from labelserver.imaging.showing import is_ct
from labelserver.viewing.ras_volumes import SLAB, VolumeHeader
from labelserver.wire.volumes import Volume, VolumeWindow

router = APIRouter(prefix="/api/v1/images/{image_id:path}/volume", tags=["Page"])

Frame = Annotated[int, Query(ge=0, description="Of a file with several, e.g. points in time.")]
#: For answers whose address names their content.
FOR_EVER = "private, max-age=31536000, immutable"
ASK_AGAIN = "private, no-cache"


class Encoding(StrEnum):
    """How a slab travels."""

    AUTO = "auto"  #: raw on this machine, gzip for other machines that accept it
    RAW = "raw"
    GZIP = "gzip"


@router.get("", summary="Size, place, numbers and windows of an image on the RAS+ grid", response_model=Volume)
def get_volume(request: Request, server: ServerOf, image_id: str, frame: Frame = 0) -> Response:
    checked = parse_image_id(image_id)
    header = server.volumes.header(checked, image_path(server, checked), frame)
    headers = {"ETag": f'"{header.content}-{frame}"', "Cache-Control": ASK_AGAIN}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    answer = json_answer(_document(checked, header).model_dump(mode="json"))
    answer.headers.update(headers)
    return answer


@router.get(
    "/slab",
    summary="Slices z0 <= z < z1: raw little-endian numbers, x fastest",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_slab(
    request: Request,
    server: ServerOf,
    image_id: str,
    z0: Annotated[int, Query(ge=0)],
    z1: Annotated[int, Query(ge=1, description="One behind the last slice.")],
    content: Annotated[str, Query(max_length=64, description="Of the header; 409 if that is not the image now.")] = "",
    frame: Frame = 0,
    encoding: Encoding = Encoding.AUTO,
) -> Response:
    checked = parse_image_id(image_id)
    path = image_path(server, checked)
    if not content:
        known = server.volumes.header(checked, path, frame).content
    else:
        known = content
    packed = encoding is Encoding.GZIP or (encoding is Encoding.AUTO and takes_gzip(request))
    etag = f'"{known}-{frame}-{z0}-{z1}{"-gz" if packed else ""}"'
    headers = {"ETag": etag, "Cache-Control": FOR_EVER if content else ASK_AGAIN, "Vary": "Accept-Encoding"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    get = server.volumes.packed_slab if packed else server.volumes.slab
    body = get(checked, path, z0, z1, content=known, frame=frame)
    if packed:
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type="application/octet-stream", headers=headers)


def image_path(server: Server, image_id: ImageId) -> Path:
    """The file that image readers can open. Raises `ImageNotFound`."""
    ensure_image(server, image_id)
    uri = server.datastore.get_image_uri(image_id)
    if not uri:
        raise ImageNotFound(f"The file of the image {image_id!r} is not there any more.")
    return Path(uri)


def takes_gzip(request: Request) -> bool:
    """False for callers on this machine, whom packing would only slow down."""
    return "gzip" in request.headers.get("accept-encoding", "") and not shares_files(request)


def _document(image_id: ImageId, header: VolumeHeader) -> Volume:
    hounsfield = not header.picture and header.dtype == "int16" and is_ct(header.low, header.high, header.slope)
    return Volume(
        image=image_id,
        kind="image" if header.picture else "volume",
        content=header.content,
        dims=header.dims,
        spacing_mm=header.spacing_mm,
        affine=[list(row) for row in header.affine],
        dtype="uint8" if header.dtype == "uint8" else "int16",
        components=header.components,
        frames=header.frames,
        slope=header.slope,
        intercept=header.intercept,
        range=(header.low, header.high),
        unit="HU" if hounsfield else "",
        windows=[VolumeWindow(name=w.name, center=w.center, width=w.width) for w in header.windows],
        slab=SLAB,
        bytes=header.slice_bytes * header.dims[2],
        orientation=header.orientation,
        not_finite=header.not_finite,
    )

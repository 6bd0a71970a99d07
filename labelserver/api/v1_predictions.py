"""``/api/v1/images/<id>/predictions/<model>``: an automatic model's mask on the RAS+ grid, in the schema's values."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import Response

from labelserver.api.activity import remember_proposal
from labelserver.api.context import ServerOf, known_task, table
from labelserver.api.disconnects import while_connected
from labelserver.api.forms import read_json_object
from labelserver.api.identity import person_of
from labelserver.api.infer_params import checked_infer_params, priority_of
from labelserver.api.info_document import contiguous
from labelserver.api.openapi import json_body
from labelserver.api.server_timing import server_timing
from labelserver.api.v1_grid_labels import binary
from labelserver.api.v1_grid_sessions import ANSWER_HEADER
from labelserver.api.v1_volumes import image_path, takes_gzip
from labelserver.bootstrap import Server
from labelserver.domain.errors import Refused, UnsupportedFormat
from labelserver.domain.ids import ImageId, parse_image_id
from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.volumes import read_volume
from labelserver.viewing.grid_maps import map_bytes, marked_box, on_grid
from labelserver.viewing.grid_prompts import change_on_grid, schema_values
from labelserver.viewing.ras_volumes import Placed, placed
from labelserver.wire import mask_box
from labelserver.wire.grid_sessions import GridAnswer
from labelserver.wire.mask_box import NOTHING, Box
from labelserver.wire.volumes import header_text

router = APIRouter(prefix="/api/v1/images/{image_id:path}/predictions", tags=["Page"])


@router.post(
    "/{model}",
    summary="Run a model on an image; answers the box round what it marked",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
    openapi_extra=json_body(),
)
async def predict(request: Request, server: ServerOf, image_id: str, model: str) -> Response:
    asked = await read_json_object(request)
    checked = parse_image_id(image_id)
    described = known_task(server.engine.description(), "models", model, "model")
    params = checked_infer_params(asked, model, checked, table(described, "config"))
    params.pop("save_label", None)
    params["result_box"] = "zstd"
    where = await to_thread.run_sync(_placed, server, checked)
    person, priority = person_of(request), priority_of(params, described.get("type"))
    ask = InferRequest(model=model, image_id=checked, params=params, person=person, priority=priority)
    began = time.perf_counter()
    answer = await while_connected(request, server.engine.infer(ask), discard=partial(_discard, server))
    waited_s = time.perf_counter() - began
    await remember_proposal(server, ask, answer)
    gzipped = takes_gzip(request)
    response = await to_thread.run_sync(_answered, server, model, answer, where, waited_s, gzipped)
    response.headers["Server-Timing"] = server_timing(answer.params.get("latencies"), waited_s)
    return response


def _placed(server: Server, image_id: ImageId) -> Placed:
    return placed(image_path(server, image_id))


def _discard(server: Server, answer: InferAnswer) -> None:
    if answer.file is not None:
        server.roots.resolve(answer.file).unlink(missing_ok=True)


def _answered(
    server: Server, model: str, answer: InferAnswer, where: Placed, waited_s: float, gzipped: bool
) -> Response:
    if answer.box is not None:
        box, part = _of_box(answer.box, where)
    elif answer.file is not None:
        file = server.roots.resolve(answer.file)
        try:
            box, part = _marked(file, where)
        finally:
            file.unlink(missing_ok=True)
    else:
        raise Refused(f"The model {model!r} answers no mask: it does not segment.")
    numbers = contiguous(answer.params.get("label_names"))
    values = schema_values(server.datastore, {name: n for name, n in numbers.items() if isinstance(n, int) and n})
    shown = values.of(part)
    told = GridAnswer(
        lo=box.lo,
        hi=box.hi,
        whole=True,
        dtype="uint8" if shown.dtype.itemsize == 1 else "uint16",
        labels=values.labels,
        unknown=list(values.unknown),
        model_version=answer.model_version,
        seconds={"total": waited_s},
        notes=_notes(answer.params),
    )
    headers = {ANSWER_HEADER: header_text(told), "Cache-Control": "no-store"}
    return binary(map_bytes(shown) if part.size else b"", headers, gzipped=gzipped)


def _marked(file: Path, where: Placed) -> tuple[Box, NDArray[Any]]:
    """The box of the grid round everything marked, and its values. Raises `UnsupportedFormat`."""
    if file.suffix == mask_box.EXTENSION:
        return _of_box(file.read_bytes(), where)
    volume = read_volume(file)
    if volume.voxels.ndim != 3 or volume.voxels.max(initial=0) > 255:
        raise UnsupportedFormat("The model's answer is no map of labels, so it cannot be drawn on the image.")
    voxels = on_grid(volume.voxels, volume.grid, where)
    box = marked_box(voxels)
    return box, voxels[box.slices].astype(np.uint8)


def _of_box(data: bytes, where: Placed) -> tuple[Box, NDArray[Any]]:
    """The same of a mask that the worker packed."""
    found = mask_box.decode_box(data, expected_shape=where.file.shape)
    return change_on_grid(found.box.lo, found.voxels, where) if found.voxels.size else (NOTHING, found.voxels)


def _notes(params: JsonObject) -> JsonObject:
    """What a model says beside its mask, if it is short."""
    left_out = ("label_names", "latencies")
    kept: JsonObject = {key: value for key, value in params.items() if key not in left_out and value is not None}
    return kept if len(str(kept)) < 4096 else {}

"""The protocol of 3D Slicer's older nnInteractive extension (up to 0.3.2), one mount for each task.

Such a client knows no sessions and no keys: it sends a volume, then prompts, and each answer is the whole mask as bits.
Whom a request belongs to is said by the mount's path (with a secret, ``.../u/SECRET``, where several share an address)
and the address it comes from. Facts and rule numbers: that protocol as its client speaks it (NI-20 to NI-28 in the
tests). The client shows a text only if it comes with status 200, so nearly all errors do.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from pydantic import FiniteFloat, StrictBool
from starlette.responses import JSONResponse, Response

from labelserver.api.context import ServerOf, server_of
from labelserver.api.disconnects import while_connected
from labelserver.api.forms import body_of, receive_form
from labelserver.api.identity import person_of
from labelserver.api.nni_mounts import (
    IMAGE_WITHIN_S,
    JSON_LIMIT_BYTES,
    PROMPT_WITHIN_S,
    clipped,
    mount_at,
    open_image,
    same_key,
    spool_file,
    using,
)
from labelserver.api.problem_responses import nni_response
from labelserver.domain.errors import (
    InvalidPrompt,
    KeyRefused,
    LabelServerError,
    SessionNotFound,
    TaskNotFound,
    UnreadableFile,
)
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.imaging import arrays
from labelserver.interaction.array_session import Answer, ArraySession
from labelserver.interaction.leases import Lease
from labelserver.wire.nni import NniBody, parsed, tight

#: The words for which the client looks; it then sends image and segment again and repeats the prompt.
NO_IMAGE = "No image uploaded"
#: what the client's text field `positive_click` may say for yes.
_YES = frozenset({"true", "1", "yes"})
#: bytes of a packed mask; the largest that was ever seen has a few MiB.
PACKED_LIMIT_BYTES = 1 << 28
#: bytes of an .npy header beside its voxels, and of one voxel of a mask, at most.
_HEADER_BYTES, _MASK_ITEM_BYTES = 1 << 14, 8


class SlicerRoute(APIRoute):
    """Answers what the client can show as a text: errors with status 200, except where the address is wrong."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handler(request)
            except (TaskNotFound, KeyRefused) as error:
                return nni_response(error)
            except SessionNotFound:
                return _failed(NO_IMAGE)
            except LabelServerError as error:
                return _failed(error.message)

        return handled


router = APIRouter(tags=["nnInteractive (older)"], route_class=SlicerRoute)

#: Where a mount of this protocol is. The fixed word "u" first, so that it is never taken for a label.
PREFIXES = (
    "/nni-slicer/{model}/u/{secret}",
    "/nni-slicer/{model}",
    "/nni-slicer/{model}/{label}/u/{secret}",
    "/nni-slicer/{model}/{label}",
)

#: which of them the page /docs shows; the others have the same routes.
SHOWN = ("/nni-slicer/{model}",)

#: What a handler makes of the session.
Act = Callable[[ArraySession], Awaitable[Answer]]


class ClickBody(NniBody):
    """A point, as (k, j, i) of the array."""

    voxel_coord: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    positive_click: StrictBool


class CornersBody(NniBody):
    """Two opposite corners in any order, both inside the box."""

    outer_point_one: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    outer_point_two: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    positive_click: StrictBool


@router.post("/upload_image", summary="Send a volume as .npy; the one before is forgotten")
async def upload_image(request: Request, server: ServerOf) -> Response:
    lease = await _lease(request)
    async with receive_form(request, server.spool, server.settings.max_upload_bytes) as form:
        file = spool_file(request, arrays.EXTENSION)
        await to_thread.run_sync(_take_volume, form.required_file("file").path, file)
    await while_connected(request, open_image(request, lease, mount_at(request), file), within_s=IMAGE_WITHIN_S)
    return _fine()


@router.post("/upload_segment", summary="Begin anew with a mask; an empty one forgets everything")
async def upload_segment(request: Request) -> Response:
    lease = await _lease(request)
    packed, _ = await _mask_form(request)

    async def act(session: ArraySession) -> Answer:
        mask = await to_thread.run_sync(_mask, packed, session.shape)
        return await session.seed(tight(mask != 0), predict=False)

    await while_connected(request, _acted(request, lease, act, whole=False), within_s=PROMPT_WITHIN_S)
    await server_of(request).leases.keep(lease)
    return _fine()


@router.post("/add_point_interaction", summary="A point")
async def add_point(request: Request) -> Response:
    lease = await _lease(request)
    body = parsed(ClickBody, await body_of(request, JSON_LIMIT_BYTES))
    points = np.rint(np.array([body.voxel_coord], dtype=np.float64))

    async def act(session: ArraySession) -> Answer:
        return await session.add(
            Prompt(PromptKind.POINT, session.mount.label, body.positive_click, points), predict=True
        )

    return await while_connected(request, _acted(request, lease, act), within_s=PROMPT_WITHIN_S)


@router.post("/add_bbox_interaction", summary="A box between two corners, both inside")
async def add_bbox(request: Request) -> Response:
    lease = await _lease(request)
    body = parsed(CornersBody, await body_of(request, JSON_LIMIT_BYTES))
    corners = np.array([body.outer_point_one, body.outer_point_two], dtype=np.float64)

    async def act(session: ArraySession) -> Answer:
        inside = clipped(np.array([corners.min(axis=0), corners.max(axis=0)]), session.shape)
        return await session.add(Prompt(PromptKind.BOX, session.mount.label, body.positive_click, inside), predict=True)

    return await while_connected(request, _acted(request, lease, act), within_s=PROMPT_WITHIN_S)


@router.post("/add_scribble_interaction", summary="A scribble as a mask of the whole volume")
async def add_scribble(request: Request) -> Response:
    return await _add_mask(request, PromptKind.SCRIBBLE)


@router.post("/add_lasso_interaction", summary="A filled contour as a mask of the whole volume")
async def add_lasso(request: Request) -> Response:
    return await _add_mask(request, PromptKind.LASSO)


async def _add_mask(request: Request, kind: PromptKind) -> Response:
    lease = await _lease(request)
    packed, text = await _mask_form(request)

    async def act(session: ArraySession) -> Answer:
        mask = await to_thread.run_sync(_drawn, packed, session.shape)
        prompt = Prompt(kind, session.mount.label, text.strip().lower() in _YES, mask=mask)
        return await session.add(prompt, predict=True)

    return await while_connected(request, _acted(request, lease, act), within_s=PROMPT_WITHIN_S)


async def _acted(request: Request, lease: Lease, act: Act, *, whole: bool = True) -> Response:
    """Let `act` use the session; answer the whole mask."""
    async with using(request, lease) as session:
        if session is None:
            raise SessionNotFound(NO_IMAGE)
        answer = await act(session)
        session.delivered(answer)
        if not whole:
            return _fine()
        body = await to_thread.run_sync(_bits, session.mask)
    return Response(body, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"})


async def _lease(request: Request) -> Lease:
    """Whose request it is (NI-28). Raises `TaskNotFound`, `KeyRefused`."""
    server, values = server_of(request), request.path_params
    secret, key = values.get("secret", ""), server.settings.nni_api_key
    if key and not same_key(secret, key):
        raise KeyRefused("This server asks for a key: let the address end with /u/ and the key.")
    mount_at(request)
    mount = "/nni-slicer/" + "/".join(values[name] for name in ("model", "label") if name in values)
    address = request.client.host if request.client is not None else ""
    return await server.leases.of_caller(f"{address}\0{secret}", mount, person_of(request))


async def _mask_form(request: Request) -> tuple[bytes, str]:
    """The packed mask of a form and its field `positive_click`."""
    server = server_of(request)
    async with receive_form(request, server.spool, PACKED_LIMIT_BYTES) as form:
        packed = await to_thread.run_sync(form.required_file("file").path.read_bytes)
        return packed, form.texts.get("positive_click", "")


def _take_volume(upload: Path, file: Path) -> None:
    """Make an upload the array file `file`. Raises `UnreadableFile`, `InvalidPrompt`; blocks."""
    upload.rename(file)
    try:
        shape, _ = arrays.read_shape(file)
        if len(shape) != 3:
            raise InvalidPrompt(f"A volume has three axes; this array has the shape {list(shape)}.")
    except LabelServerError:
        file.unlink(missing_ok=True)
        raise


def _mask(packed: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
    """A gzipped .npy of the image's shape. Raises `UnreadableFile`, `InvalidPrompt`; blocks."""
    limit = int(np.prod(shape)) * _MASK_ITEM_BYTES + _HEADER_BYTES
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            plain = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile("The mask is no gzip file, or is cut short. Send it again.") from error
    if len(plain) > limit:
        raise UnreadableFile(f"The mask is larger than a mask of {list(shape)} voxels can be.")
    mask = arrays.from_bytes(plain)
    if mask.shape != shape:
        raise InvalidPrompt(f"The mask has the shape {list(mask.shape)}, the volume {list(shape)}.")
    return mask


def _drawn(packed: bytes, shape: tuple[int, int, int]) -> MaskBox:
    """Where a stroke was drawn: 1. The client sends a difference, in which what was erased has wrapped to 255."""
    return tight(_mask(packed, shape) == 1)


def _bits(mask: NDArray[np.uint8]) -> bytes:
    """The whole mask in C order, eight voxels a byte, the first in the highest bit."""
    return gzip.compress(np.packbits(mask.reshape(-1)).tobytes(), compresslevel=1, mtime=0)


def _fine() -> Response:
    return JSONResponse({"status": "ok"})


def _failed(message: str) -> Response:
    return JSONResponse({"status": "error", "message": message})

"""nnInteractive's official remote protocol (clients 2.1 to 2.6, 3D Slicer's extension 1.x), one mount for each task.

A client claims a lease, sends an image as an array, and keeps the mask of one object itself: each answer is the new
content of the smallest box that changed. Facts and rule numbers: nnInteractive's protocol as its clients speak it
(NI-01 to NI-16 in the tests). Differences for the better: undo has many levels, prompts survive the lease.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response

from labelserver.api.context import ServerOf, server_of, table
from labelserver.api.disconnects import while_connected
from labelserver.api.forms import body_of
from labelserver.api.identity import person_of
from labelserver.api.nni_mounts import (
    IMAGE_WITHIN_S,
    JSON_LIMIT_BYTES,
    PROMPT_WITHIN_S,
    check_key,
    clipped,
    mount_at,
    open_image,
    spool_file,
    spooled_body,
    using,
)
from labelserver.api.problem_responses import nni_response
from labelserver.domain.errors import (
    InvalidParams,
    InvalidPrompt,
    LabelServerError,
    LeaseLost,
    SessionNotFound,
    TooLarge,
)
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.imaging import arrays
from labelserver.interaction.array_session import Answer, ArraySession
from labelserver.interaction.leases import Lease
from labelserver.wire.mask_box import Box
from labelserver.wire.nni import (
    LEASE_HEADER,
    META_HEADER,
    AutozoomBody,
    BoxBody,
    BufferBody,
    ImageMeta,
    MaskMeta,
    NniBody,
    PointBody,
    SeedMeta,
    capabilities,
    mask_meta,
    parsed,
    tight,
)
from labelserver.wire.nnia import MEDIA_TYPE, decode_array, encode_array, read_header, unpack_into

#: bytes of a mask's header and blosc2's own, beside its voxels; a mask of noise does not shrink.
MASK_OVERHEAD_BYTES = 1 << 16
#: bytes of a packed mask of an image that is not known yet; the largest that was ever seen has a few MiB.
UNKNOWN_MASK_BYTES = 1 << 28
#: bytes of one voxel of a mask, at most.
MASK_ITEM_BYTES = 8
#: voxels of an answer from which packing it is worth the way to a thread.
THREAD_FROM_VOXELS = 1 << 18


class NniRoute(APIRoute):
    """Answers errors with the statuses and the ``{"detail": ...}`` that clients of this protocol know."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handler(request)
            except SessionNotFound:
                return nni_response(LeaseLost("lease expired or unknown"))
            except LabelServerError as error:
                return nni_response(error)

        return handled


router = APIRouter(tags=["nnInteractive"], route_class=NniRoute)

#: Where a mount of this protocol is.
PREFIXES = ("/nni/{model}", "/nni/{model}/{label}")
#: which of them the page /docs shows; the others have the same routes.
SHOWN = ("/nni/{model}",)

_Body = TypeVar("_Body", bound=NniBody)

#: What a handler makes of the session.
Act = Callable[[ArraySession], Awaitable[Answer]]


@router.get("/healthz", summary="The mount exists; asks for no key")
async def healthz(request: Request) -> Response:
    mount_at(request)
    return JSONResponse({"ok": True})


@router.post("/claim", summary="Take a place; 503 if all are taken")
async def claim(request: Request, server: ServerOf) -> Response:
    _enter(request)
    lease = server.leases.claim(_path(request), person_of(request))
    return JSONResponse(
        {
            "lease_token": lease.token,
            "idle_timeout_seconds": server.leases.idle_s,
            "liveness_timeout_seconds": server.leases.liveness_s,
            "max_sessions": server.leases.slots,
        }
    )


@router.get("/capabilities", summary="Which prompts the task takes")
async def what_it_can(request: Request, server: ServerOf) -> Response:
    check_key(request)
    mount = mount_at(request)
    description = server.engine.description()
    info = table(table(description.info, "models"), mount.task.name) if description is not None else {}
    named = info.get("license") or table(info, "config").get("license")
    license_text = named if isinstance(named, str) else None
    return JSONResponse(capabilities(mount.task.prompt_kinds, autozoom=True, license_text=license_text))


@router.post("/release", summary="Give the place back and forget the session")
async def release(request: Request, server: ServerOf) -> Response:
    _enter(request)
    token = request.headers.get(LEASE_HEADER, "")
    if token:
        await server.leases.release(token)
    return JSONResponse({"released": True})


@router.post("/heartbeat", summary="The client is alive; does not count as an action")
async def heartbeat(request: Request, server: ServerOf) -> Response:
    lease = await _lease(request, active=False)
    return JSONResponse({"remaining_seconds": server.leases.remaining_s(lease)})


@router.get("/lease_status", summary="How long the lease lasts")
async def lease_status(request: Request, server: ServerOf) -> Response:
    lease = await _lease(request, active=False, seen=False)
    return JSONResponse(
        {"remaining_seconds": server.leases.remaining_s(lease), "idle_timeout_seconds": server.leases.idle_s}
    )


@router.post("/set_image", summary="Send an image (C, X, Y, Z); the one before is forgotten")
async def set_image(request: Request, server: ServerOf) -> Response:
    lease = await _lease(request)
    meta = parsed(ImageMeta, _meta(request))
    spacing = meta.image_properties.spacing if meta.image_properties is not None else None
    limit = server.settings.max_upload_bytes
    file = spool_file(request, arrays.EXTENSION)
    async with spooled_body(request, limit) as packed:
        shape = await to_thread.run_sync(_unpack_image, packed, file, spacing, limit)
    await while_connected(request, open_image(request, lease, mount_at(request), file), within_s=IMAGE_WITHIN_S)
    return JSONResponse({"original_image_shape": list(shape)})


@router.post("/set_target_buffer", summary="The client has a new, empty mask")
async def set_target_buffer(request: Request, server: ServerOf) -> Response:
    lease = await _lease(request)
    body = await _body(request, BufferBody)
    item_bytes = np.dtype(body.dtype).itemsize
    if body.shape[0] * body.shape[1] * body.shape[2] * item_bytes > server.settings.max_upload_bytes:
        raise TooLarge(f"A mask of {list(body.shape)} {body.dtype} is larger than this server takes.")
    async with using(request, lease) as session:
        held = _needed(session)
        if body.shape != held.shape:
            raise InvalidParams(f"The mask must have the image's shape {list(held.shape)}, not {list(body.shape)}.")
        await to_thread.run_sync(held.emptied_copy)
    return JSONResponse({})


@router.post("/set_do_autozoom", summary="Whether the task may look beyond its window for large objects")
async def set_do_autozoom(request: Request) -> Response:
    lease = await _lease(request)
    lease.autozoom = (await _body(request, AutozoomBody)).do_autozoom
    return JSONResponse({})


@router.post("/reset_interactions", summary="Forget prompts, undo and mask; keep the image")
async def reset_interactions(request: Request, server: ServerOf) -> Response:
    lease = await _lease(request)
    await body_of(request, JSON_LIMIT_BYTES)

    async def act() -> None:
        async with using(request, lease) as session:
            await _needed(session).reset()
            await server.leases.keep(lease)

    await while_connected(request, act(), within_s=PROMPT_WITHIN_S)
    return JSONResponse({})


@router.post("/add_point_interaction", summary="A point")
async def add_point(request: Request) -> Response:
    lease = await _lease(request)
    body = await _body(request, PointBody)
    points = np.rint(np.array([body.coordinates], dtype=np.float64))

    async def act(session: ArraySession) -> Answer:
        prompt = Prompt(PromptKind.POINT, session.mount.label, body.include_interaction, points)
        return await session.add(prompt, predict=body.run_prediction)

    return await _acted(request, lease, act)


@router.post("/add_bbox_interaction", summary="A box, half-open; one voxel thick: a 2-D box")
async def add_bbox(request: Request) -> Response:
    lease = await _lease(request)
    body = await _body(request, BoxBody)
    corners = np.array(body.corners(), dtype=np.float64)

    async def act(session: ArraySession) -> Answer:
        prompt = Prompt(PromptKind.BOX, session.mount.label, body.include_interaction, clipped(corners, session.shape))
        return await session.add(prompt, predict=body.run_prediction)

    return await _acted(request, lease, act)


@router.post("/add_scribble_interaction", summary="A scribble as a mask, whole or in a box")
async def add_scribble(request: Request) -> Response:
    return await _add_mask(request, PromptKind.SCRIBBLE)


@router.post("/add_lasso_interaction", summary="A filled contour as a mask, whole or in a box")
async def add_lasso(request: Request) -> Response:
    return await _add_mask(request, PromptKind.LASSO)


@router.post("/add_initial_seg_interaction", summary="Begin anew with a mask of the whole image")
async def add_initial_seg(request: Request, server: ServerOf) -> Response:
    lease = await _lease(request)
    meta = parsed(SeedMeta, _meta(request))

    async def act(session: ArraySession) -> Answer:
        mask = await to_thread.run_sync(_seed, body, session.shape)
        answer = await session.seed(mask, predict=meta.run_prediction)
        await server.leases.keep(lease)
        return answer

    body = await body_of(request, _mask_limit(lease))
    return await _acted(request, lease, act)


@router.post("/undo", summary="Take back the last step")
async def undo(request: Request) -> Response:
    lease = await _lease(request)
    await body_of(request, JSON_LIMIT_BYTES)
    return await _acted(request, lease, ArraySession.undo)


@router.post("/predict", summary="Predict with the prompts that wait")
async def predict(request: Request) -> Response:
    lease = await _lease(request)
    await _body(request, NniBody)
    return await _acted(request, lease, ArraySession.predict)


async def _add_mask(request: Request, kind: PromptKind) -> Response:
    lease = await _lease(request)
    meta = parsed(MaskMeta, _meta(request))
    body = await body_of(request, _mask_limit(lease))

    async def act(session: ArraySession) -> Answer:
        mask = await to_thread.run_sync(_placed, meta, body, session.shape)
        prompt = Prompt(kind, session.mount.label, meta.include_interaction, mask=mask)
        return await session.add(prompt, predict=meta.run_prediction)

    return await _acted(request, lease, act)


async def _acted(request: Request, lease: Lease, act: Act) -> Response:
    """Let `act` use the session and answer what is new in its mask."""

    async def work() -> Response:
        async with using(request, lease) as session:
            held = _needed(session)
            answer = await act(held)
            response = await _mask_response(held, answer)
            held.delivered(answer)
            return response

    return await while_connected(request, work(), within_s=PROMPT_WITHIN_S)


async def _mask_response(session: ArraySession, answer: Answer) -> Response:
    box = answer.box
    if not answer.ran or box is None:
        body, meta = b"", mask_meta(answer.ran, None)
    elif box.voxels < THREAD_FROM_VOXELS:
        body, meta = encode_array(session.mask[box.slices]), mask_meta(True, box)
    else:
        body, meta = await to_thread.run_sync(_packed, session.mask, box), mask_meta(True, box)
    header = json.dumps(meta, separators=(",", ":"))
    return Response(body, media_type=MEDIA_TYPE, headers={META_HEADER: header})


def _packed(mask: np.ndarray, box: Box) -> bytes:
    return encode_array(mask[box.slices])


def _enter(request: Request) -> None:
    """Raises `KeyRefused`, `TaskNotFound`."""
    check_key(request)
    mount_at(request)


def _path(request: Request) -> str:
    """The mount's path, which a lease belongs to."""
    values = request.path_params
    return "/nni/" + "/".join(values[name] for name in ("model", "label") if name in values)


async def _lease(request: Request, *, active: bool = True, seen: bool = True) -> Lease:
    """Raises `KeyRefused`, `TaskNotFound`, `LeaseLost`."""
    _enter(request)
    token = request.headers.get(LEASE_HEADER, "")
    if not token:
        raise LeaseLost("lease token missing")
    return await server_of(request).leases.find(token, _path(request), active=active, seen=seen)


def _needed(session: ArraySession | None) -> ArraySession:
    if session is None:
        raise InvalidPrompt("No image has been set. Call set_image first, then set_target_buffer.")
    return session


def _meta(request: Request) -> str:
    return request.headers.get(META_HEADER, "")


async def _body(request: Request, model: type[_Body]) -> _Body:
    return parsed(model, await body_of(request, JSON_LIMIT_BYTES))


def _mask_limit(lease: Lease) -> int:
    """Bytes of a packed mask of the lease's image, as far as it is known before the session is asked."""
    if lease.session is None:
        return UNKNOWN_MASK_BYTES
    return int(np.prod(lease.session.shape)) * MASK_ITEM_BYTES + MASK_OVERHEAD_BYTES


def _unpack_image(packed: Path, file: Path, spacing: tuple[float, float, float] | None, limit: int) -> tuple[int, ...]:
    """Unpack a body into an array file without ever holding it in memory. Returns (C, X, Y, Z). Blocks."""
    data = np.memmap(packed, mode="r").data if packed.stat().st_size else memoryview(b"")
    header = read_header(data, max_bytes=limit)
    if len(header.shape) != 4 or min(header.shape) < 1:
        raise InvalidParams(f"An image has four axes, channels first, and voxels; this one is {list(header.shape)}.")
    stored = header.shape[1:] if header.shape[0] == 1 else header.shape
    try:
        unpack_into(data, header, arrays.create(file, stored, header.dtype, spacing))
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return header.shape


def _placed(meta: MaskMeta, body: bytes, shape: tuple[int, int, int]) -> MaskBox:
    return meta.placed(decode_array(body, max_bytes=int(np.prod(shape)) * MASK_ITEM_BYTES), shape)


def _seed(body: bytes, shape: tuple[int, int, int]) -> MaskBox:
    mask = decode_array(body, max_bytes=int(np.prod(shape)) * MASK_ITEM_BYTES)
    if mask.shape != shape:
        raise InvalidPrompt(f"An initial mask has the image's shape {list(shape)}, not {list(mask.shape)}.")
    return tight(mask != 0)

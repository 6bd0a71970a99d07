"""What both nnInteractive protocols need: which mount a request is for, whose lease, its body, and an end in time.

A mount is a task that takes prompts, at ``/nni/{model}`` or ``/nni/{model}/{label}`` (official protocol) and at
``/nni-slicer/...`` (the older one of 3D Slicer). No route here waits for a worker inside the event loop, and none but
those that use a session waits for another call of the same client.
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from anyio import to_thread
from fastapi import Request
from numpy.typing import NDArray

from labelserver.api.context import server_of
from labelserver.domain.errors import KeyRefused, SessionNotFound, TooLarge, WorkerNotReady
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import Root
from labelserver.interaction.array_session import ArraySession, Mount, mount_of
from labelserver.interaction.described import described_task
from labelserver.interaction.leases import Lease
from labelserver.storage.atomic import storage_errors

#: seconds within which clients want the answer to a prompt (60) and to an image (600), less the way there and back.
PROMPT_WITHIN_S, IMAGE_WITHIN_S = 55.0, 590.0
#: bytes of a JSON body; the largest is a box.
JSON_LIMIT_BYTES = 1 << 16
#: bytes gathered before a thread writes them.
CHUNK_BYTES = 1 << 20

_Result = TypeVar("_Result")


def mount_at(request: Request) -> Mount:
    """The mount that the path names.

    Raises:
        TaskNotFound: no such model, none that takes prompts, or no such label.
        WorkerNotReady: the app has never been described yet.
    """
    described = described_task(server_of(request).engine.description(), request.path_params["model"])
    if described is None:
        raise WorkerNotReady("The app is still loading. Try again in a moment.")
    return mount_of(described, request.path_params.get("label"))


def check_key(request: Request) -> None:
    """Ask for the key of the settings, if there is one. Raises `KeyRefused`."""
    key = server_of(request).settings.nni_api_key
    if not key:
        return
    kind, _, sent = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not sent.strip():
        raise KeyRefused("Missing bearer token")
    if not same_key(sent.strip(), key):
        raise KeyRefused("Invalid bearer token")


def same_key(sent: str, key: str) -> bool:
    """Compared in a time that tells nothing."""
    return hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), key.encode())


@asynccontextmanager
async def spooled_body(request: Request, limit_bytes: int) -> AsyncIterator[Path]:
    """The body as a file, which is gone at the end of the block. Raises `TooLarge`, `DiskFull`."""
    path = spool_file(request, ".nnia")
    try:
        with storage_errors("the upload"), path.open("xb") as stream:
            total, pending = 0, bytearray()
            async for chunk in request.stream():
                total += len(chunk)
                if total > limit_bytes:
                    raise TooLarge(
                        f"The upload is larger than {limit_bytes} bytes. "
                        "Send less, or start the server with a larger LABELSERVER_MAX_UPLOAD_BYTES."
                    )
                pending += chunk
                if len(pending) >= CHUNK_BYTES:
                    await to_thread.run_sync(stream.write, bytes(pending))
                    pending.clear()
            await to_thread.run_sync(stream.write, bytes(pending))
        yield path
    finally:
        path.unlink(missing_ok=True)


def spool_file(request: Request, ext: str) -> Path:
    """A name in the spool that nobody else has."""
    spool = server_of(request).spool
    spool.mkdir(parents=True, exist_ok=True)
    return spool / f"nni-{uuid.uuid4().hex}{ext}"


@asynccontextmanager
async def using(request: Request, lease: Lease) -> AsyncIterator[ArraySession | None]:
    """The session of `lease`, for one call at a time; None if it has none. The lease cannot be put to rest meanwhile.

    Raises:
        SessionNotFound: it rested for so long that its session is gone.
    """
    server = server_of(request)
    lease.uses += 1
    try:
        async with lease.lock:
            if lease.session is None and lease.record is not None:
                record, lease.record = lease.record, None
                lease.session = await ArraySession.woken(server.interactions, mount_at(request), record)
            if lease.session is not None:
                await lease.session.agree()
            yield lease.session
    except SessionNotFound:
        lease.session = None
        raise
    finally:
        lease.uses -= 1
        server.leases.finished(lease)


async def open_image(request: Request, lease: Lease, mount: Mount, file: Path) -> ArraySession:
    """Let `file`, an array in the spool, be the image of the lease instead of the one before.

    Raises as `Interactions.open`; then the one before stays, and the file is gone.
    """
    server = server_of(request)
    lease.uses += 1
    try:
        async with lease.lock:
            image = server.roots.relative(file, Root.STATE)
            params: JsonObject = {"autozoom": lease.autozoom}
            session = await ArraySession.opened(server.interactions, mount, lease.person, image, params)
            before, lease.session = lease.session, session
            lease.buffer_made = False
            await server.leases.keep(lease)
            if before is not None:
                await before.close()
            return session
    finally:
        lease.uses -= 1
        server.leases.finished(lease)
        file.unlink(missing_ok=True)


def clipped(corners: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Corners inside the image, unless the box lies wholly outside: then as they are, to be refused by their place."""
    last = np.asarray(shape) - 1
    if (corners[1] < 0).any() or (corners[0] > last).any():
        return corners
    inside: NDArray[np.float64] = np.clip(corners, 0, last)
    return inside

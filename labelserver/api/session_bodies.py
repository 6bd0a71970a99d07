"""What callers send about sessions: JSON, or a mask as bytes; checked once, here."""

from __future__ import annotations

from typing import TypeVar

from anyio import to_thread
from fastapi import Request
from pydantic import BaseModel, ValidationError

from labelserver.domain.errors import InvalidParams, InvalidPrompt, TooLarge
from labelserver.domain.interaction import OpenSession
from labelserver.domain.prompts import MaskBox, Prompt
from labelserver.wire.mask_box import MEDIA_TYPE_GZIP, MEDIA_TYPE_ZSTD, decode_box
from labelserver.wire.prompts import MaskParams
from labelserver.wire.sessions import PromptRequest

#: bytes; a packed mask of a large CT is some MiB, a thousand scribbles as JSON less.
MAX_BODY_BYTES = 64 * 2**20
#: bytes from which a thread takes a body apart.
_LARGE_BYTES = 2**18

_BOXES = (MEDIA_TYPE_ZSTD, MEDIA_TYPE_GZIP)
_Model = TypeVar("_Model", bound=BaseModel)


async def read_body(request: Request) -> bytes:
    """The whole body, in memory. Raises `TooLarge`."""
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise TooLarge(
                f"A request about a session may have {MAX_BODY_BYTES} bytes. Send masks packed, not as JSON."
            )
        parts.append(chunk)
    return b"".join(parts)


def read_model(model: type[_Model], body: bytes | str) -> _Model:
    """`body` as JSON of this shape. Raises `InvalidParams` with a sentence for each field that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = [f"{'.'.join(str(part) for part in e['loc']) or 'body'}: {e['msg']}" for e in error.errors()[:5]]
        raise InvalidParams("; ".join(found)) from error


async def prompts_of(content_type: str, body: bytes, session: OpenSession) -> tuple[list[Prompt], bool]:
    """The prompts of a request on the session's grid, and whether to predict.

    Raises:
        InvalidParams, InvalidPrompt: not of the shape that is asked for.
        UnreadableFile, Refused: a binary mask that is damaged, or of another image.
    """
    read = _from_box if content_type.split(";")[0].strip().lower() in _BOXES else _from_json
    if len(body) > _LARGE_BYTES:
        return await to_thread.run_sync(read, body, session)
    return read(body, session)


def _from_json(body: bytes, session: OpenSession) -> tuple[list[Prompt], bool]:
    asked = read_model(PromptRequest, body or b"{}")
    return [prompt.to_domain(session.grid) for prompt in asked.prompts], asked.predict


def _from_box(body: bytes, session: OpenSession) -> tuple[list[Prompt], bool]:
    found = decode_box(body, expected_shape=session.grid.shape)
    try:
        told = MaskParams.model_validate(found.params)
    except ValidationError as error:
        raise InvalidPrompt(
            "The JSON of a binary mask says 'kind' (mask, scribble or lasso), 'label', 'positive' and 'predict'."
        ) from error
    if found.box.voxels == 0:
        raise InvalidPrompt(f"The {told.kind.value} is empty: its box has no voxels.")
    mask = MaskBox(found.box.lo, found.voxels > 0)
    return [Prompt(told.kind, told.label, told.positive, mask=mask)], told.predict

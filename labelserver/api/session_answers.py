"""A session's answer in the form that the caller's ``Accept`` names.

    application/vnd.labelserver.box+zstd, ...box+gzip        what changed, packed (`wire.mask_box`); JSON inside
    application/vnd.labelserver.boxes+zstd, ...boxes+gzip    the same, coarse answers first: each box with its length
                                                             in front (uint32, little-endian)
    application/json                                         what changed as base64
    application/x-ndjson                                     the same, coarse answers first, a line each
    application/octet-stream                                 the whole mask as ``.nii.gz``

A coarse answer has ``final: false``. Whatever fails after the first one was sent ends the stream with a problem
document: as a line of NDJSON, or as a box without voxels whose JSON is ``{"problem": ...}``.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import Enum

from labelserver.domain.interaction import OpenSession, SessionAnswer
from labelserver.wire.mask_box import (
    MEDIA_TYPE_GZIP,
    MEDIA_TYPE_ZSTD,
    NOTHING,
    Box,
    BoxCodec,
    encode_part,
    with_params,
)
from labelserver.wire.packed_session import Shape
from labelserver.wire.sessions import PromptAnswer

BOXES_ZSTD = "application/vnd.labelserver.boxes+zstd"
BOXES_GZIP = "application/vnd.labelserver.boxes+gzip"
NDJSON = "application/x-ndjson"
WHOLE = "application/octet-stream"
JSON = "application/json"


class Shell(Enum):
    """What is round the voxels."""

    JSON = "json"
    BOX = "box"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Form:
    """How to answer."""

    media_type: str
    shell: Shell
    codec: BoxCodec = BoxCodec.ZSTD
    streamed: bool = False


_FORMS = (
    Form(JSON, Shell.JSON),  # the first one answers */*
    Form(MEDIA_TYPE_ZSTD, Shell.BOX, BoxCodec.ZSTD),
    Form(MEDIA_TYPE_GZIP, Shell.BOX, BoxCodec.GZIP),
    Form(BOXES_ZSTD, Shell.BOX, BoxCodec.ZSTD, streamed=True),
    Form(BOXES_GZIP, Shell.BOX, BoxCodec.GZIP, streamed=True),
    Form(NDJSON, Shell.JSON, streamed=True),
    Form(WHOLE, Shell.FILE),
)
FORMS = {form.media_type: form for form in _FORMS}


def chosen_form(accept: str) -> Form:
    """The form that the header names with the highest weight, the first of equals; JSON if it names none."""
    return FORMS.get(preferred(accept, FORMS), _FORMS[0])


def preferred(accept: str, offered: Container[str]) -> str:
    """The media type of those `offered` that the header names with the highest weight; "" if it names none."""
    best, weight = "", 0.0
    for part in accept.split(","):
        name, *options = (text.strip().lower() for text in part.split(";"))
        if name in offered and (told := _weight(options)) > weight:
            best, weight = name, told
    return best


def _weight(options: list[str]) -> float:
    for option in options:
        if option.startswith("q="):
            try:
                return float(option[2:])
            except ValueError:
                return 0.0
    return 1.0


def box_bytes(answer: SessionAnswer, session: OpenSession, codec: BoxCodec, extra: Mapping[str, object]) -> bytes:
    """The answer as one box. What the worker packed already is not packed again."""
    params = {**PromptAnswer.from_domain(answer, session).model_dump(mode="json", exclude={"change"}), **extra}
    if codec is BoxCodec.ZSTD and answer.packed:
        return with_params(answer.packed, params)
    box = Box(answer.change.lo, answer.change.hi) if not answer.change.empty else NOTHING
    return encode_part(answer.change.values, session.grid.shape, box, codec=codec, params=params)


def problem_box(problem: Mapping[str, object], shape: Shape, codec: BoxCodec, extra: Mapping[str, object]) -> bytes:
    """A box without voxels that says what went wrong."""
    nothing = SessionAnswer(ran=False).change.values
    return encode_part(nothing, shape, NOTHING, codec=codec, params={"problem": problem, **extra})


def json_text(answer: SessionAnswer, session: OpenSession) -> str:
    return PromptAnswer.from_domain(answer, session).with_voxels(answer).model_dump_json()


def framed(box: bytes) -> bytes:
    """With its length in front."""
    return struct.pack("<I", len(box)) + box


def stage_header(seconds: dict[str, float], encode_s: float) -> str:
    """``Server-Timing`` in ms: queue, load, pre, forward, post, encode (W3C Server Timing)."""
    stages = {name: seconds.get(name, 0.0) for name in ("queue", "load", "pre", "forward", "post")}
    return ", ".join(f"{name};dur={value * 1000:.2f}" for name, value in {**stages, "encode": encode_s}.items())

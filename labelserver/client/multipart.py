"""Read the two-part answer of an inference: result JSON and mask file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from labelserver.client.errors import AnswerUnclear

_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)
_NAME = re.compile(r'\bname="([^"]*)"')
_FILE_NAME = re.compile(r'\bfilename="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body; `file_name` is "" for a text part."""

    name: str
    file_name: str
    data: bytes


def parts_of(content_type: str, body: bytes) -> list[Part]:
    """Split a ``multipart/form-data`` body. Source: RFC 2046, section 5.1.1.

    Raises:
        AnswerUnclear: no boundary, or a body that does not end with the closing one (cut short).
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise AnswerUnclear(f"The answer is of type {content_type!r}, which names no boundary.")
    mark = b"--" + found.group(1).strip().encode("latin-1")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise AnswerUnclear("The answer was cut short: its closing boundary is missing.")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, separator, data = piece.partition(b"\r\n\r\n")
    if not separator:
        raise AnswerUnclear("A part of the answer has no header.")
    disposition = next(
        (
            line
            for line in head.decode("utf-8", "replace").split("\r\n")
            if line.lower().startswith("content-disposition")
        ),
        "",
    )
    name, file_name = _NAME.search(disposition), _FILE_NAME.search(disposition)
    return Part(name.group(1) if name else "", file_name.group(1) if file_name else "", data)

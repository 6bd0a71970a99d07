"""Names that come from outside, checked once at the door.

An `ImageId` may contain "/" between folders, spaces and any printable Unicode; it never contains "..", a leading
slash, a backslash or a control character, so that it cannot leave the folder it is joined to. A `Tag` is one path part.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import NewType

from labelserver.domain.errors import InvalidId

ImageId = NewType("ImageId", str)
Tag = NewType("Tag", str)
JobId = NewType("JobId", str)

#: characters; the longest path that common file systems take is 4096 bytes, and an id is stored next to other text.
MAX_ID_LENGTH = 1024
MAX_TAG_LENGTH = 64

FINAL = Tag("final")
ORIGINAL = Tag("original")

_TAG = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.+ -]*$")
_JOB = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
_SLUG = re.compile(r"[^a-z0-9]+")


def parse_image_id(text: str) -> ImageId:
    """Check an image id that came from outside.

    Raises:
        InvalidId: empty, too long, absolute, or with "..", a backslash or a control character.
    """
    text = unicodedata.normalize("NFC", text)
    if not text:
        raise InvalidId("The image id is empty. Name an image, for example ?image=liver_001.")
    if len(text) > MAX_ID_LENGTH:
        raise InvalidId(f"The image id has {len(text)} characters; at most {MAX_ID_LENGTH} are allowed.")
    if "\\" in text or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise InvalidId("The image id contains a backslash or a control character; use letters, digits and '/'.")
    parts = text.split("/")
    if any(part in ("", ".", "..") for part in parts) or ":" in parts[0][:2]:
        raise InvalidId(f"The image id {text!r} is not a plain name: '..', '//' and a leading '/' are not allowed.")
    if parts[0] in (".labelserver", "labels"):
        raise InvalidId(f"The image id {text!r} lies in a folder that the server keeps for itself; choose another.")
    return ImageId(text)


def parse_tag(text: str) -> Tag:
    """Check a label tag: one path part of letters, digits and ``_ . + - space``; empty means ``final``.

    Raises:
        InvalidId: anything else.
    """
    if not text:
        return FINAL
    if len(text) > MAX_TAG_LENGTH or not _TAG.match(text) or text.endswith((".", " ")):
        raise InvalidId(
            f"The tag {text[:80]!r} is not allowed: use at most {MAX_TAG_LENGTH} letters, digits, '_', '.', '+', '-'."
        )
    return Tag(text)


def parse_job_id(text: str) -> JobId:
    """Check a job id (a UUID in lower case). Raises `InvalidId`."""
    if not _JOB.match(text):
        raise InvalidId("A job id is a UUID such as 3f2b8c1e-....; list them with GET /train/?all=true.")
    return JobId(text)


@lru_cache(maxsize=4096)
def folder_key(name: str) -> str:
    """A folder name for any text: a short ASCII slug and 16 hex digits of its SHA-256.

    Safe for names that are long, Unicode, or differ only in case.
    """
    ascii_text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = _SLUG.sub("-", ascii_text).strip("-")[:40] or "x"
    return f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


_PLAIN = re.compile(r"^[a-z0-9_][a-z0-9_.-]{0,63}$")


def model_folder(model: str) -> str:
    """The folder of a model below ``versions/``: its own name where that is plain, else `folder_key`."""
    return model if _PLAIN.match(model) and not model.endswith(".") else folder_key(model)

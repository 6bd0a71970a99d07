"""Answers that FastAPI does not build: clean JSON, files through one open descriptor, the peer's two-part infer answer.

A file is opened before its length is told, so that a file replaced meanwhile is answered whole, old or new. Every
answer with a body tells its length and is never chunked, because the peer's clients read the raw socket (R-20).
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from anyio import to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from labelserver.imaging.formats import VOLUME_EXTENSIONS, media_type, split_ext

CHUNK_BYTES = 2**20

_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


def finite(value: Any) -> Any:
    """`value` as JSON can say it: NaN and infinities become None, unknown objects text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [finite(item) for item in value]
    return str(value)


def json_bytes(value: Any) -> bytes:
    """Compact JSON; what JSON cannot say is replaced by `finite`."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


def json_answer(value: Any, status: int = 200) -> Response:
    """`value` as ``application/json``."""
    return Response(json_bytes(value), status, media_type="application/json")


def plain_name(name: str) -> str:
    """A bare file name of letters, digits, '.', '_' and '-' that any client can join to a folder (R-24)."""
    return _PLAIN.sub("_", name).strip("._") or "file"


def wire_media_type(name: str) -> str:
    """The type to send a file of this name with; volumes always as plain bytes, which clients search for (R-23)."""
    return "application/octet-stream" if split_ext(name)[1].lower() in VOLUME_EXTENSIONS else media_type(name)


def attachment(name: str) -> str:
    """A Content-Disposition that keeps `name` (R-35); names beyond ASCII are percent-encoded as RFC 6266 says."""
    quoted = quote(name, safe="")
    if quoted == name or all(c.isascii() and c.isprintable() and c not in '"\\' for c in name):
        return f'attachment; filename="{name}"'
    return f"attachment; filename*=utf-8''{quoted}"


class _Body(Response):
    """A body of known length that is partly memory and partly an open file.

    Made in a thread, where its first chunk is read at once: a small file costs no further hop. A file that is ours
    loses its name there, too, so that nothing stays behind whatever becomes of the answer; its space is given back
    in a thread once it is sent.
    """

    def __init__(self, media: str, before: bytes, path: Path, after: bytes, *, delete: bool) -> None:
        self._before, self._after, self._path, self._delete = before, after, path, delete
        self._stream: BinaryIO = path.open("rb")
        self.stat = os.fstat(self._stream.fileno())
        if delete:
            path.unlink(missing_ok=True)
        self._first = self._stream.read(min(CHUNK_BYTES, self.stat.st_size))
        super().__init__(None, 200, None, media)
        self.headers["Content-Length"] = str(len(before) + self.stat.st_size + len(after))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                async for chunk in self._chunks():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            if self._delete:
                await to_thread.run_sync(self._stream.close)
        finally:
            self._stream.close()

    async def _chunks(self) -> AsyncIterator[bytes]:
        left = self.stat.st_size - len(self._first)
        if not left:
            yield b"".join((self._before, self._first, self._after))
            return
        yield self._before + self._first
        self._first = b""
        while left > 0:
            chunk = await to_thread.run_sync(self._stream.read, min(CHUNK_BYTES, left))
            if not chunk:
                raise OSError(f"{self._path.name} was cut short while it was being sent")
            left -= len(chunk)
            yield chunk
        if self._after:
            yield self._after

    def __del__(self) -> None:
        self._stream.close()


def file_answer(path: Path, name: str, media: str = "", *, etag: str = "", delete: bool = False) -> Response:
    """A download of `path` under `name`. `delete`: it is ours and goes away afterwards. May block; use a thread."""
    answer = _Body(media or wire_media_type(name), b"", path, b"", delete=delete)
    stat = answer.stat
    answer.headers["Content-Disposition"] = attachment(name)
    answer.headers["Last-Modified"] = formatdate(stat.st_mtime, usegmt=True)
    answer.headers["ETag"] = f'"{etag or f"{stat.st_ino:x}-{stat.st_size:x}-{stat.st_mtime_ns:x}"}"'
    return answer


def infer_answer(params: Any, path: Path, name: str) -> Response:
    """The two parts that infer clients take apart by searching text (R-20 to R-26). Deletes `path` afterwards.

    The order of parts and headers, the spelling of header names and the unquoted boundary at the end of the
    Content-Type are all read by some client.
    """
    boundary = uuid.uuid4().hex
    before = b"\r\n".join(
        (
            f"--{boundary}".encode(),
            b'Content-Disposition: form-data; name="params"',
            b"Content-Type: application/json",
            b"",
            json_bytes(params),
            f"--{boundary}".encode(),
            f'Content-Disposition: form-data; name="image"; filename="{plain_name(name)}"'.encode(),
            f"Content-Type: {wire_media_type(name)}".encode(),
            b"",
            b"",
        )
    )
    media = f"multipart/form-data; boundary={boundary}"
    return _Body(media, before, path, f"\r\n--{boundary}--\r\n".encode(), delete=True)

"""Uploads reach the disk once, while they arrive, under names that we choose.

A form's file parts go straight to the spool folder; of the name that the client sent only the extension is used. Text
parts stay in memory. At the end of the `receive_form` block, or of `use_form`, every spooled file that nobody took over
is deleted.

Promises: no more bytes than allowed are taken (413), any number of files and text fields up to `TEXT_LIMIT_BYTES`, part
types of any kind, a closing boundary with or without line break; a body that ends too early is refused.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import parse_qsl

from anyio import to_thread
from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from labelserver.domain.errors import InvalidParams, LabelServerError, TooLarge
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.formats import split_ext
from labelserver.storage.atomic import storage_errors

#: bytes of all text parts of one form; a whole-slide request with its tiles and clicks stays below this.
TEXT_LIMIT_BYTES = 64 * 2**20
#: bytes of a JSON body.
JSON_LIMIT_BYTES = 64 * 2**20
#: bytes gathered before a thread writes them.
CHUNK_BYTES = 2**18

T = TypeVar("T")

_EXTENSION = re.compile(r"^(\.[A-Za-z0-9_-]{1,16}){1,3}$")


def base_name(client_name: str) -> str:
    """The last part of a name that may be a full POSIX or Windows path."""
    return client_name.replace("\\", "/").rsplit("/", 1)[-1].strip()


def extension_of(client_name: str, default: str = "") -> str:
    """The known extension of a client's file name, e.g. ".nii.gz"; `default` if it has none that is a plain one."""
    ext = split_ext(base_name(client_name))[1]
    return ext if _EXTENSION.match(ext) else default


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One file part, complete on disk."""

    field: str
    client_name: str  #: as sent; may be a full path of the client's machine
    path: Path  #: in the spool, or "" moved elsewhere by the receiver
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a form."""

    texts: dict[str, str] = field(default_factory=dict)
    files: tuple[UploadedFile, ...] = ()

    def file(self, name: str) -> UploadedFile | None:
        """The first file part of that name that has content or a name."""
        found = [f for f in self.files if f.field == name and (f.size_bytes or f.client_name)]
        return found[0] if found else None

    def required_file(self, name: str) -> UploadedFile:
        """Raises `InvalidParams` if there is none, or an empty one."""
        found = self.file(name)
        if found is None:
            raise InvalidParams(f"The form has no file part named '{name}'. Send one, as in curl -F {name}=@FILE.")
        if not found.size_bytes:
            raise InvalidParams(f"The file part '{name}' is empty. Send the file's content.")
        return found

    def params(self, name: str = "params") -> JsonObject:
        """The text part `name` as a JSON object; {} if it is missing or empty."""
        return parse_json_object(self.texts.get(name, ""), name)


def parse_json_object(text: str, name: str) -> JsonObject:
    """Raises `InvalidParams` on anything but a JSON object; empty and ``null`` are {}."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidParams(f'{name} is not JSON: {error}. Send an object such as {{"client_id": "me"}}.') from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidParams(f"{name} must be a JSON object such as {{}}, not {type(value).__name__}.")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON value")


async def read_json_object(request: Request, name: str = "The body") -> JsonObject:
    """A bare JSON object as body, whatever its Content-Type says; {} if there is none.

    Raises:
        InvalidParams: not JSON, or not an object.
        TooLarge: more than `JSON_LIMIT_BYTES`.
    """
    return parse_json_object((await body_of(request, JSON_LIMIT_BYTES)).decode("utf-8", "replace"), name)


@asynccontextmanager
async def receive_form(request: Request, spool: Path, limit_bytes: int) -> AsyncIterator[Form]:
    """Receive a multipart or urlencoded form; a missing body is an empty form.

    Raises:
        InvalidParams: malformed, cut short, or another kind of body.
        TooLarge: more than `limit_bytes` in files, or too much text.
    """
    receiver = _receiver(request, spool, limit_bytes)
    if receiver is None:
        yield await _texts_only(request)
        return
    try:
        rest = await receiver.take_in(request)
        form = await to_thread.run_sync(receiver.finish, rest)
        with _as_the_client_calls_them(form.files):
            yield form
    finally:
        await _tidy(receiver)


async def use_form(request: Request, spool: Path, limit_bytes: int, use: Callable[[Form], T]) -> T:
    """What `use` makes of a form in the thread that writes its last bytes, so that a small one costs a single hop.

    Files that `use` does not move away are deleted. Raises as `receive_form` and `use`.
    """
    receiver = _receiver(request, spool, limit_bytes)
    if receiver is None:
        return await to_thread.run_sync(use, await _texts_only(request))

    def finish(rest: bytes) -> T:
        try:
            form = receiver.finish(rest)
            with _as_the_client_calls_them(form.files):
                return use(form)
        finally:
            receiver.discard()

    try:
        return await to_thread.run_sync(finish, await receiver.take_in(request))
    finally:
        await _tidy(receiver)


@contextmanager
def _as_the_client_calls_them(files: tuple[UploadedFile, ...]) -> Iterator[None]:
    """Let errors about these files speak of them by the names that the client knows."""
    try:
        yield
    except LabelServerError as error:
        message = error.message
        for file in files:
            message = message.replace(file.path.name, base_name(file.client_name)[:80] or f"The part {file.field!r}")
        if message == error.message:
            raise
        raise type(error)(message, **error.fields) from error


def _receiver(request: Request, spool: Path, limit_bytes: int) -> _Receiver | None:
    """None if the body is no multipart form."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        return None
    return _Receiver(options.get(b"boundary", b""), spool, limit_bytes)


async def _tidy(receiver: _Receiver) -> None:
    if receiver.left_anything:  # else its user has cleaned up, and a hop to a thread is spared
        await to_thread.run_sync(receiver.discard)


async def _texts_only(request: Request) -> Form:
    kind, _ = parse_options_header(request.headers.get("content-type"))
    body = await body_of(request, TEXT_LIMIT_BYTES)
    if body and kind != b"application/x-www-form-urlencoded":
        raise InvalidParams("Send a form (multipart/form-data), as in curl -F params='{}', or no body at all.")
    return Form(texts=dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)))


async def body_of(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises `TooLarge`."""
    chunks, total = [], 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit_bytes:
            raise TooLarge(f"The body is larger than {limit_bytes} bytes. Send less.")
        chunks.append(chunk)
    return b"".join(chunks)


class _Part:
    """A part while it arrives."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.field = ""
        self.client_name: str | None = None
        self.text = bytearray()
        self.path: Path | None = None
        self.stream: BinaryIO | None = None
        self.size_bytes = 0


class _Receiver:
    """Feeds chunks to the multipart parser in a worker thread, so that disk writes never hold up the event loop."""

    def __init__(self, boundary: bytes, spool: Path, limit_bytes: int) -> None:
        if not boundary:
            raise InvalidParams("The Content-Type names no boundary; let your HTTP library build the form.")
        self._spool = spool
        self._limit_bytes = limit_bytes
        self._part = _Part()
        self._header_name = b""
        self._header_value = b""
        self._text_bytes = 0
        self._file_bytes = 0
        self._ended = False
        self._texts: dict[str, str] = {}
        self._files: list[UploadedFile] = []
        self._spooled: list[Path] = []
        handlers: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value_data,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        try:
            self._parser = MultipartParser(boundary, handlers)  # type: ignore[arg-type]
        except FormParserError as error:
            raise InvalidParams(f"The boundary of the form is not valid: {error}.") from error

    async def take_in(self, request: Request) -> bytes:
        """Write what arrives. Returns the last bytes, which `finish` writes."""
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limit_bytes + TEXT_LIMIT_BYTES:
            raise self._too_large()
        pending = bytearray()
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= CHUNK_BYTES:
                await to_thread.run_sync(self._write, bytes(pending))
                pending.clear()
        return bytes(pending)

    def finish(self, rest: bytes) -> Form:
        """Write the last bytes. Blocks."""
        self._write(rest)
        if not self._ended:
            raise InvalidParams("The form ends before its closing boundary; the upload was cut short. Send it again.")
        return Form(self._texts, tuple(self._files))

    @property
    def left_anything(self) -> bool:
        """Is there a file that nobody moved away or deleted, or one that is still open?"""
        is_open = self._part.stream is not None and not self._part.stream.closed
        return is_open or any(path.exists() for path in self._spooled)

    def discard(self) -> None:
        """Close and delete what nobody moved away."""
        if self._part.stream is not None:
            self._part.stream.close()
        for path in self._spooled:
            path.unlink(missing_ok=True)

    def _write(self, chunk: bytes) -> None:
        try:
            with storage_errors("the upload"):
                self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidParams(f"The form cannot be read: {error}.") from error

    def _begin(self) -> None:
        self._part = _Part()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_data(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._part.headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise InvalidParams("A part of the form has no name in its Content-Disposition header.")
        self._part.field = _text(options[b"name"])
        if b"filename" not in options:
            return
        self._part.client_name = _text(options[b"filename"])
        self._spool.mkdir(parents=True, exist_ok=True)
        self._part.path = self._spool / f"upload-{uuid.uuid4().hex}{extension_of(self._part.client_name)}"
        self._spooled.append(self._part.path)
        self._part.stream = self._part.path.open("xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part.stream is None:
            self._text_bytes += end - start
            if self._text_bytes > TEXT_LIMIT_BYTES:
                raise TooLarge(f"The text fields of the form are larger than {TEXT_LIMIT_BYTES} bytes. Send less.")
            self._part.text += data[start:end]
            return
        self._file_bytes += end - start
        if self._file_bytes > self._limit_bytes:
            raise self._too_large()
        self._part.size_bytes += end - start
        self._part.stream.write(data[start:end])

    def _end(self) -> None:
        part = self._part
        if part.stream is None or part.path is None:
            self._texts[part.field] = _text(bytes(part.text))
            return
        part.stream.close()
        self._files.append(UploadedFile(part.field, part.client_name or "", part.path, part.size_bytes))

    def _finish(self) -> None:
        self._ended = True

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The upload is larger than {self._limit_bytes} bytes. "
            "Send less, or start the server with a larger LABELSERVER_MAX_UPLOAD_BYTES."
        )


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")

"""What crosses the socket between server and worker: a JSON header and raw buffers, each with its length in front.

    magic "LSF1" | header length, u32 | number of buffers, u32 | length of each buffer, u64 ... | header | buffers ...

All numbers are big-endian. Nothing is pickled: what arrives is data and cannot run. Sizes are checked before a byte is
allocated. A frame that breaks these rules is not repaired: the reader raises `MalformedFrame` and the connection ends.

`FrameStream` is the server's end (asyncio), `FrameSocket` the worker's (threads; each frame is written whole).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from dataclasses import dataclass

from labelserver.domain.errors import AppFailed, TooLarge
from labelserver.domain.json_types import JsonObject

MAGIC = b"LSF1"
#: bytes; a description of an app with a hundred models is below 1 MiB, a long list of polygons some MiB.
MAX_HEADER_BYTES = 32 * 2**20
#: bytes of all buffers; whole masks travel as spool files, so a frame carries boxes of a mask at most.
MAX_BUFFERS_BYTES = 512 * 2**20
MAX_BUFFERS = 64

_PREFIX = struct.Struct(">4sII")


class MalformedFrame(AppFailed):
    """The other end sent something that is not a frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `header` says what it is; `buffers` are raw bytes that the header describes."""

    header: JsonObject
    buffers: tuple[bytes, ...] = ()


def encode(frame: Frame) -> list[bytes]:
    """The pieces to write, in order.

    Raises:
        TooLarge: more than a frame may carry.
        ValueError: the header is not JSON (for example it holds NaN).
    """
    header = json.dumps(frame.header, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    sizes = [len(buffer) for buffer in frame.buffers]
    if len(header) > MAX_HEADER_BYTES or sum(sizes) > MAX_BUFFERS_BYTES or len(sizes) > MAX_BUFFERS:
        raise TooLarge(
            f"The message holds {len(header)} bytes of JSON and {sum(sizes)} bytes of data in {len(sizes)} parts, "
            f"more than the {MAX_HEADER_BYTES}, {MAX_BUFFERS_BYTES} and {MAX_BUFFERS} that may travel at once."
        )
    lengths = struct.pack(f">{len(sizes)}Q", *sizes)
    return [_PREFIX.pack(MAGIC, len(header), len(sizes)) + lengths + header, *frame.buffers]


def _parse_prefix(data: bytes) -> tuple[int, int]:
    """Header length and number of buffers."""
    magic, header_bytes, count = _PREFIX.unpack(data)
    if magic != MAGIC:
        raise MalformedFrame(f"The message begins with {magic!r} instead of {MAGIC!r}.")
    if header_bytes > MAX_HEADER_BYTES or count > MAX_BUFFERS:
        raise MalformedFrame(f"The message announces {header_bytes} bytes of JSON and {count} buffers: too many.")
    return header_bytes, count


def _parse_lengths(data: bytes) -> tuple[int, ...]:
    lengths = struct.unpack(f">{len(data) // 8}Q", data)
    if sum(lengths) > MAX_BUFFERS_BYTES:
        raise MalformedFrame(f"The message announces {sum(lengths)} bytes of data: too many.")
    return lengths


def _parse_header(data: bytes) -> JsonObject:
    try:
        header = json.loads(data)
    except ValueError as error:
        raise MalformedFrame("The header of a message is not JSON.") from error
    if not isinstance(header, dict):
        raise MalformedFrame("The header of a message is not a JSON object.")
    return header


class FrameStream:
    """The asyncio end. One task reads; several may write, in turn."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    async def read(self) -> Frame | None:
        """The next frame; None at the end of the stream.

        Raises:
            MalformedFrame: also if the stream ends within a frame.
        """
        try:
            prefix = await self._reader.readexactly(_PREFIX.size)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise MalformedFrame("The stream ended within a message.") from error
            return None
        except ConnectionError:
            return None
        header_bytes, count = _parse_prefix(prefix)
        try:
            lengths = _parse_lengths(await self._reader.readexactly(8 * count))
            header = _parse_header(await self._reader.readexactly(header_bytes))
            buffers = [await self._reader.readexactly(length) for length in lengths]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise MalformedFrame("The stream ended within a message.") from error
        return Frame(header, tuple(buffers))

    async def write(self, frame: Frame) -> None:
        """Raises ConnectionError if the other end is gone."""
        pieces = encode(frame)
        async with self._turn:
            self._writer.writelines(pieces)
            await self._writer.drain()

    def close(self) -> None:
        """End the stream, without waiting. Safe to call twice."""
        self._writer.close()


class FrameSocket:
    """The blocking end. One thread reads; several may write, each frame whole."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb", buffering=1 << 16)
        self._turn = threading.Lock()

    @classmethod
    def connect(cls, path: str) -> FrameSocket:
        """Connect to the server's socket. Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        return cls(connection)

    def read(self) -> Frame | None:
        """The next frame; None at the end of the stream. Raises `MalformedFrame`."""
        try:
            prefix = self._stream.read(_PREFIX.size)
        except (ConnectionError, ValueError):  # ValueError: closed by `close` in another thread
            return None
        if not prefix:
            return None
        if len(prefix) < _PREFIX.size:
            raise MalformedFrame("The stream ended within a message.")
        header_bytes, count = _parse_prefix(prefix)
        lengths = _parse_lengths(self._exactly(8 * count))
        header = _parse_header(self._exactly(header_bytes))
        return Frame(header, tuple(self._exactly(length) for length in lengths))

    def write(self, frame: Frame) -> None:
        """Raises ConnectionError if the other end is gone, else as `encode`."""
        pieces = encode(frame)
        with self._turn:
            for piece in pieces:
                self._connection.sendall(piece)

    def close(self) -> None:
        """End the stream; a read in another thread returns None. Safe to call twice."""
        with contextlib.suppress(OSError):  # not connected any more
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _exactly(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except (ConnectionError, ValueError) as error:
            raise MalformedFrame("The stream ended within a message.") from error
        if len(data) < size:
            raise MalformedFrame("The stream ended within a message.")
        return data

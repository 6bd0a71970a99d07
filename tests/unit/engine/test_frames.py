"""Frames: what is written is read, and what is not a frame is refused before it costs anything."""

import asyncio
import json
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelserver.domain.errors import TooLarge
from labelserver.engine.frames import (
    MAX_BUFFERS,
    MAX_BUFFERS_BYTES,
    MAX_HEADER_BYTES,
    Frame,
    FrameSocket,
    FrameStream,
    MalformedFrame,
    encode,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
frames = st.builds(
    Frame, st.dictionaries(st.text(), json_values, max_size=4), st.lists(st.binary(max_size=200), max_size=4).map(tuple)
)


def read_back(data: bytes) -> list[Frame]:
    """What a worker's end makes of `data` followed by the end of the stream."""
    ours, theirs = socket.socketpair()
    with theirs:
        end = FrameSocket(ours)
        sender = threading.Thread(target=lambda: (theirs.sendall(data), theirs.shutdown(socket.SHUT_WR)))
        sender.start()
        found = []
        try:
            while (frame := end.read()) is not None:
                found.append(frame)
        finally:
            end.close()
            sender.join()
    return found


async def read_back_async(data: bytes) -> list[Frame]:
    """The same with the server's end."""
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    stream = FrameStream(reader, None)  # type: ignore[arg-type]  # never written to
    found = []
    while (frame := await stream.read()) is not None:
        found.append(frame)
    return found


@given(st.lists(frames, max_size=4))
def test_both_ends_read_what_was_written(sent):
    data = b"".join(piece for frame in sent for piece in encode(frame))
    assert read_back(data) == sent
    assert asyncio.run(read_back_async(data)) == sent


@pytest.mark.parametrize("cut", [1, 11, 12, 14, 30, -1])
def test_a_stream_that_ends_within_a_frame_is_malformed(cut):
    data = b"".join(encode(Frame({"kind": "x", "text": "some header"}, (b"abc", b"defg"))))[:cut]
    with pytest.raises(MalformedFrame, match="ended within"):
        read_back(data)
    with pytest.raises(MalformedFrame, match="ended within"):
        asyncio.run(read_back_async(data))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "begins with"),
        (struct.pack(">4sII", b"LSF1", MAX_HEADER_BYTES + 1, 0), "too many"),
        (struct.pack(">4sII", b"LSF1", 2, MAX_BUFFERS + 1), "too many"),
        (struct.pack(">4sIIQ", b"LSF1", 2, 1, MAX_BUFFERS_BYTES + 1), "too many"),
        (struct.pack(">4sII", b"LSF1", 3, 0) + b"{x}", "not JSON"),
        (struct.pack(">4sII", b"LSF1", 2, 0) + b"[]", "not a JSON object"),
        (struct.pack(">4sII", b"LSF1", 2, 0) + b"\xff\xfe", "not JSON"),
    ],
)
def test_what_is_not_a_frame_is_refused(data, why):
    with pytest.raises(MalformedFrame, match=why):
        read_back(data)
    with pytest.raises(MalformedFrame, match=why):
        asyncio.run(read_back_async(data))


def test_a_frame_that_is_too_large_is_not_sent():
    with pytest.raises(TooLarge):
        encode(Frame({}, (b"",) * (MAX_BUFFERS + 1)))


def test_nan_is_not_sent():
    with pytest.raises(ValueError, match="JSON"):
        encode(Frame({"loss": float("nan")}))


def test_the_header_is_plain_json():
    data = b"".join(encode(Frame({"kind": "é"}, (b"\x00\x01",))))
    assert data.startswith(b"LSF1")
    assert json.loads(data[20:-2]) == {"kind": "é"}


def test_closing_ends_a_read_in_another_thread():
    ours, theirs = socket.socketpair()
    with theirs:
        end = FrameSocket(ours)
        found: list[Frame | None] = []
        reader = threading.Thread(target=lambda: found.append(end.read()))
        reader.start()
        end.close()
        reader.join(10)
        assert found == [None]


def test_writers_of_several_threads_do_not_mix_their_frames():
    ours, theirs = socket.socketpair()
    writer, reader = FrameSocket(ours), FrameSocket(theirs)
    payload = bytes(100_000)
    threads = [
        threading.Thread(target=lambda n=n: [writer.write(Frame({"n": n}, (payload,))) for _ in range(5)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    found = [reader.read() for _ in range(20)]
    for thread in threads:
        thread.join()
    assert sorted(frame.header["n"] for frame in found if frame) == sorted(list(range(4)) * 5)
    writer.close()
    reader.close()

"""The workers' door opens for a token, once."""

import asyncio
import stat
import tempfile
from pathlib import Path

import pytest

from labelserver.engine.frames import Frame, FrameStream
from labelserver.engine.listening import MAX_SOCKET_PATH, Listener

pytestmark = pytest.mark.anyio


@pytest.fixture
async def listener():
    listener = Listener()
    await listener.open()
    yield listener
    await listener.close()


async def greet(listener, header, data=b""):
    reader, writer = await asyncio.open_unix_connection(listener.path)
    stream = FrameStream(reader, writer)
    if data:
        writer.write(data)
    else:
        await stream.write(Frame(header))
    return stream


async def test_the_socket_lies_in_a_folder_of_its_own_that_only_this_user_enters(listener):
    folder = Path(listener.path).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await listener.close()
    assert not folder.exists()


async def test_a_long_temporary_folder_does_not_make_the_path_too_long(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    listener = Listener()
    await listener.open()
    assert len(listener.path) < MAX_SOCKET_PATH
    assert list(long.iterdir()) == []
    await listener.close()


async def test_a_token_brings_its_stream(listener):
    token, arrival = listener.expect()
    worker = await greet(listener, {"kind": "hello", "token": token})
    server = await asyncio.wait_for(arrival, 10)
    await server.write(Frame({"kind": "request"}))
    assert await worker.read() == Frame({"kind": "request"})
    worker.close()
    server.close()


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"kind": "hello", "token": "0" * 64}, b""),
        ({"kind": "hello"}, b""),
        ({"kind": "hello", "token": ["x"]}, b""),
        ({}, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
)
async def test_whoever_has_no_token_is_dropped_with_a_line_in_the_log(listener, caplog, header, data):
    _, arrival = listener.expect()
    stranger = await greet(listener, header, data)
    assert await stranger.read() is None
    assert "dropped a connection" in caplog.text
    assert not arrival.done()
    stranger.close()


async def test_a_token_opens_once(listener):
    token, arrival = listener.expect()
    first = await greet(listener, {"kind": "hello", "token": token})
    server = await asyncio.wait_for(arrival, 10)
    second = await greet(listener, {"kind": "hello", "token": token})
    assert await second.read() is None
    for stream in (first, second, server):
        stream.close()


async def test_a_forgotten_token_opens_nothing(listener):
    token, _ = listener.expect()
    listener.forget(token)
    stranger = await greet(listener, {"kind": "hello", "token": token})
    assert await stranger.read() is None
    stranger.close()

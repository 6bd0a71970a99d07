"""Arrays of the nnInteractive protocol against the library that its clients use, and against damaged bytes."""

from __future__ import annotations

import struct

import blosc2
import numpy as np
import pytest
from nnInteractive.inference.remote import serialization

from labelserver.domain.errors import LabelServerError, TooLarge, UnreadableFile
from labelserver.wire import nnia
from labelserver.wire.nnia import decode_array, encode_array, read_header, unpack_into

SHAPES = [(7, 11, 13), (2, 3, 5, 7), (1, 4, 1, 9), (3, 5, 0)]
LIMIT = 1 << 20


def made(shape: tuple[int, ...], dtype: str, *, zeros: bool = False) -> np.ndarray:
    values = np.random.default_rng(7).integers(0, 2 if dtype == "bool" else 100, shape)
    return (np.zeros(shape) if zeros else values).astype(dtype)


def packed(array: np.ndarray, *chunks: tuple[int, bytes], shape: tuple[int, ...] | None = None) -> bytes:
    """An array as bytes whose header may lie."""
    name = array.dtype.name.encode()
    claimed = array.shape if shape is None else shape
    head = struct.pack("<4sBBBB", b"NNIA", 1, 1, len(claimed), len(name)) + name
    body = b"".join(struct.pack("<QQ", plain, len(data)) + data for plain, data in chunks)
    return head + struct.pack(f"<{len(claimed)}q", *claimed) + struct.pack("<I", len(chunks)) + body


def chunk(array: np.ndarray, **options: object) -> bytes:
    return bytes(blosc2.compress2(array.tobytes(), typesize=array.itemsize, **options))


@pytest.mark.parametrize("dtype", sorted(nnia.DTYPES))
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape])  # clients cannot send those
def test_ni08_what_clients_send_is_read_whatever_filter_they_chose(shape: tuple[int, ...], dtype: str) -> None:
    for codec in (blosc2.Codec.ZSTD, blosc2.Codec.LZ4):
        for filters in (None, [blosc2.Filter.NOFILTER], [blosc2.Filter.SHUFFLE], [blosc2.Filter.BITSHUFFLE]):
            sent = made(shape, dtype)
            seen = decode_array(serialization.pack_array(sent, codec=codec, filters=filters), max_bytes=LIMIT)
            assert seen.dtype == sent.dtype
            np.testing.assert_array_equal(seen, sent)


@pytest.mark.parametrize("dtype", sorted(nnia.DTYPES))
@pytest.mark.parametrize("shape", SHAPES)
def test_ni09_what_we_send_is_read_by_clients(shape: tuple[int, ...], dtype: str) -> None:
    sent = made(shape, dtype)
    for seen in (serialization.unpack_array(encode_array(sent)), decode_array(encode_array(sent), max_bytes=LIMIT)):
        assert seen.dtype == sent.dtype
        np.testing.assert_array_equal(seen, sent)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int16", "float32"])
def test_ni10_zeros_of_odd_length_are_read_by_both_ends(dtype: str) -> None:
    sent = made((1, 1, 707_659), dtype, zeros=True)
    np.testing.assert_array_equal(serialization.unpack_array(encode_array(sent)), sent)
    np.testing.assert_array_equal(decode_array(serialization.pack_array(sent), max_bytes=1 << 23), sent)


def test_arrays_of_several_chunks_travel_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnia, "MAX_CHUNK_BYTES", 1024)
    monkeypatch.setattr(serialization, "_CHUNK_SIZE", 1024)
    sent = made((2, 9, 10, 11), "int16")
    assert len(read_header(encode_array(sent), max_bytes=LIMIT).chunks) == 4
    np.testing.assert_array_equal(serialization.unpack_array(encode_array(sent)), sent)
    np.testing.assert_array_equal(decode_array(serialization.pack_array(sent), max_bytes=LIMIT), sent)


def test_other_orders_and_byte_orders_are_sent_as_the_protocol_has_them() -> None:
    sent = np.asfortranarray(made((4, 5, 6), "int16")).astype(">i2")
    np.testing.assert_array_equal(serialization.unpack_array(encode_array(sent[::2, :, 1:])), sent[::2, :, 1:])


def test_an_array_is_unpacked_into_memory_of_the_caller() -> None:
    sent = made((4, 5, 6), "int16")
    data = encode_array(sent)
    target = np.full(sent.shape, -1, np.int16)
    unpack_into(data, read_header(data, max_bytes=LIMIT), target)
    np.testing.assert_array_equal(target, sent)


def test_ni11_every_declared_size_is_compared_before_anything_is_allocated() -> None:
    plain = made((4, 5, 6), "int16")
    good = chunk(plain)
    zeros = chunk(np.zeros(1 << 24, np.uint8))
    bad = {
        "shape larger than its chunks": packed(plain, (240, good), shape=(4, 5, 7)),
        "negative axis": packed(plain, (240, good), shape=(-4, 5, 6)),
        "absurd axis": packed(plain, (240, good), shape=(1 << 40, 1, 1)),
        "chunk says more than its header": packed(np.zeros((2, 3, 4), np.uint8), (24, zeros)),
        "chunk of half an item": packed(plain, (239, good)),
        "chunk of nothing": packed(plain, (0, good), (240, good)),
        "bytes behind": packed(plain, (240, good)) + b"x",
        "missing chunk": packed(plain, (240, good))[:-1],
        "five axes": packed(plain, (240, good), shape=(1, 1, 4, 5, 6)),
        "no bytes": b"",
        "other magic": b"NNIB" + packed(plain, (240, good))[4:],
        "version 2": b"NNIA\2" + packed(plain, (240, good))[5:],
        "codec 3": b"NNIA\1\3" + packed(plain, (240, good))[6:],
        "damaged chunk": packed(plain, (240, bytes(len(good)))),
    }
    for what, data in bad.items():
        with pytest.raises(UnreadableFile, match=r"\w"):
            decode_array(data, max_bytes=LIMIT)
        assert what
    with pytest.raises(TooLarge):
        decode_array(packed(np.zeros(1, np.uint8), (1 << 24, zeros), shape=(256, 256, 256)), max_bytes=LIMIT)


def test_ni11_a_chunk_that_needs_a_plug_in_or_a_file_is_refused() -> None:
    plain = made((4, 5, 6), "int16")
    for offset, value in ((2, 0xC7), (16, 160), (31, 0x08)):  # its codec, its first filter, a chunk in a file
        bent = bytearray(chunk(plain))
        bent[offset] = value
        with pytest.raises(UnreadableFile):
            decode_array(packed(plain, (240, bytes(bent))), max_bytes=LIMIT)


@pytest.mark.parametrize("name", ["object", "O", ">i2", "datetime64", "V8", "complex64", "int16\0", "uint8, uint8", ""])
def test_ni12_only_plain_numbers_are_taken(name: str) -> None:
    word = name.encode()
    data = struct.pack("<4sBBBB", b"NNIA", 1, 1, 1, len(word)) + word + struct.pack("<qI", 0, 0)
    with pytest.raises(UnreadableFile, match="type"):
        decode_array(data, max_bytes=LIMIT)


def test_ni12_objects_are_not_sent() -> None:
    with pytest.raises(ValueError, match="object"):
        encode_array(np.array([None, 1], dtype=object))


def test_ni11_random_damage_is_an_error_of_ours_or_another_array() -> None:
    """Bent bytes never crash the library behind; what they leave readable has the declared size."""
    rng = np.random.default_rng(3)
    whole = encode_array(made((6, 7, 8), "int16"))
    refused = 0
    for _ in range(3000):
        bent = bytearray(whole)
        for place in rng.integers(0, len(bent) if rng.random() < 0.5 else 90, 3):
            bent[place] = rng.integers(0, 256)
        try:
            assert decode_array(bytes(bent), max_bytes=LIMIT).nbytes <= LIMIT
        except LabelServerError:
            refused += 1
    assert refused > 1000

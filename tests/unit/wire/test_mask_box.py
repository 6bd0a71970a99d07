"""The changed part of a mask crosses the wire whole, and a header's claims are checked before anything is allocated."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labelserver.domain.errors import Refused, UnreadableFile
from labelserver.wire.mask_box import Box, BoxCodec, VoxelForm, changed_box, decode_box, encode_box

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
MASKS = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1, 200])))


@settings(max_examples=60, deadline=None)
@given(mask=MASKS, codec=st.sampled_from(list(BoxCodec)), data=st.data())
def test_any_box_of_any_mask_comes_back(mask: np.ndarray, codec: BoxCodec, data: st.DataObject) -> None:
    corners = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in mask.shape]
    box = Box(tuple(c[0] for c in corners), tuple(c[1] for c in corners))  # type: ignore[arg-type]
    back = decode_box(encode_box(mask, box, codec=codec, params={"version": "3"}), expected_shape=mask.shape)
    assert np.array_equal(back.voxels, mask[box.slices])
    assert (back.box, back.shape, back.params, back.codec) == (box, mask.shape, {"version": "3"}, codec)


@settings(max_examples=60, deadline=None)
@given(after=MASKS, data=st.data())
def test_the_changed_box_is_the_smallest(after: np.ndarray, data: st.DataObject) -> None:
    before = data.draw(arrays(np.uint8, after.shape, elements=st.sampled_from([0, 1])))
    order = data.draw(st.sampled_from("CF"))
    found = changed_box(before, np.asarray(after, order=order))
    places = np.argwhere(before != after)
    if not len(places):
        assert found is None
    else:
        assert found == Box(tuple(places.min(axis=0)), tuple(places.max(axis=0) + 1))


@settings(max_examples=30, deadline=None)
@given(after=MASKS)
def test_pasting_the_change_gives_the_new_mask(after: np.ndarray) -> None:
    mask = np.zeros_like(after)
    decode_box(encode_box(after, changed_box(None, after))).paste_into(mask)
    assert np.array_equal(mask, after)


def test_comparing_takes_no_memory_of_the_size_of_the_mask() -> None:
    before = np.zeros((200, 64, 64), np.uint8)
    after = before.copy()
    after[100:110, 20:30, 5] = 1
    tracemalloc.start()
    box = changed_box(before, after)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert box == Box((100, 20, 5), (110, 30, 6))
    assert peak < after.nbytes / 10


def test_a_local_edit_of_a_ct_is_some_kilobytes() -> None:
    mask = np.zeros((512, 512, 200), np.uint8)
    i, j, k = np.ogrid[-48:48, -48:48, -48:48]
    mask[100:196, 100:196, 50:146] = i * i + j * j + k * k < 46**2
    body = encode_box(mask, changed_box(None, mask))
    assert len(body) <= 20 * 1024
    assert decode_box(body).form is VoxelForm.BITS


def test_a_mask_of_several_labels_travels_as_bytes() -> None:
    mask = np.array([[[0, 7, 255]]], np.uint8)
    assert decode_box(encode_box(mask, Box((0, 0, 0), (1, 1, 3)))).form is VoxelForm.UINT8
    with pytest.raises(Refused, match="0 to 255"):
        encode_box(mask, Box((0, 0, 0), (1, 1, 3)), form=VoxelForm.BITS)
    with pytest.raises(Refused, match="0 to 300"):
        encode_box(mask.astype(np.int16) + 45, Box((0, 0, 0), (1, 1, 3)))


def test_nothing_changed_is_a_header_alone() -> None:
    back = decode_box(encode_box(np.zeros((3, 3, 3), np.uint8), None))
    assert back.box.voxels == 0
    assert back.voxels.size == 0


HEAD = struct.Struct("<4s4B9II")


def header(shape: tuple[int, int, int], lo: tuple[int, int, int], hi: tuple[int, int, int], codec: int = 1) -> bytes:
    return HEAD.pack(b"LSMB", 1, 2, codec, 0, *shape, *lo, *hi, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"LSMB",
        b"GIF89a" + bytes(60),
        header((1 << 21, 1, 1), (0, 0, 0), (1, 1, 1)),
        header((1 << 20, 1 << 20, 1), (0, 0, 0), (1 << 20, 1 << 20, 1)),
        header((2048, 2048, 2048), (0, 0, 0), (2048, 2048, 2048)),
        header((2048, 2048, 2048), (0, 0, 0), (2048, 2048, 2048), codec=2) + b"x" * 1000,
        header((4, 4, 4), (3, 0, 0), (2, 4, 4)),
        header((4, 4, 4), (0, 0, 0), (5, 4, 4)),
        header((4, 4, 4), (0, 0, 0), (1, 1, 1)) + b"not zstd",
        header((4, 4, 4), (0, 0, 0), (1, 1, 2), codec=0) + b"\x01",
        header((4, 4, 4), (0, 0, 0), (1, 1, 1), codec=0) + b"\x01\x01",
        encode_box(np.ones((4, 4, 4), np.uint8), Box((0, 0, 0), (4, 4, 4)))[:-3],
        encode_box(np.ones((4, 4, 4), np.uint8), Box((0, 0, 0), (4, 4, 4)), codec=BoxCodec.GZIP)[:-9],
        encode_box(np.ones((4, 4, 4), np.uint8), None, params={"a": 1})[:-14],
    ],
)
def test_damaged_and_absurd_bodies_are_refused_without_allocating(body: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(UnreadableFile):
        decode_box(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_change_of_another_image_is_refused() -> None:
    body = encode_box(np.ones((4, 4, 4), np.uint8), None)
    with pytest.raises(Refused, match="shape"):
        decode_box(body, expected_shape=(4, 4, 5))
    with pytest.raises(Refused, match="shape"):
        decode_box(body).paste_into(np.zeros((5, 4, 4)))
    with pytest.raises(Refused, match="inside"):
        encode_box(np.ones((4, 4, 4), np.uint8), Box((0, 0, 0), (4, 4, 5)))

"""Regions and masks say the same, in any order of the axes and after any journey through a file."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labelserver.domain.annotation import (
    Annotation,
    Boxes,
    MaskFile,
    Region,
    Slices,
    WholeImage,
    annotation_from_json,
    checked_region,
    moved_region,
)
from labelserver.domain.errors import UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.domain.region_masks import mask_of, region_of
from labelserver.imaging.packed_mask import packed, unpacked
from labelserver.imaging.reordering import AxisChange

SHAPE = (3, 4, 5)
ORDERS = [
    AxisChange(order, signs)  # type: ignore[arg-type]
    for order, signs in product(permutations(range(3)), product((False, True), repeat=3))
]
masks = arrays(np.bool_, SHAPE)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    kind = draw(st.sampled_from(("whole", "slices", "boxes")))
    if kind == "whole":
        return WholeImage()
    if kind == "slices":
        axis = draw(st.integers(0, 2))
        numbers = draw(st.sets(st.integers(0, SHAPE[axis] - 1), min_size=1))
        return Slices(axis, tuple(sorted(numbers)))
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        low = [draw(st.integers(0, size - 1)) for size in SHAPE]
        high = [draw(st.integers(a + 1, size)) for a, size in zip(low, SHAPE, strict=True)]
        boxes.append(((low[0], low[1], low[2]), (high[0], high[1], high[2])))
    return Boxes(tuple(boxes))


@given(region=regions(), change=st.sampled_from(ORDERS))
def test_a_moved_region_is_the_region_of_the_moved_voxels(region: Region, change: AxisChange) -> None:
    moved_mask = change.apply(mask_of(region, SHAPE))
    moved = moved_region(region, change.order, change.reversed_axes, moved_mask.shape)
    assert np.array_equal(mask_of(moved, moved_mask.shape), moved_mask)
    assert change.apply_to_grid(Grid(SHAPE, np.eye(4))).shape == moved_mask.shape


@given(region=regions())
def test_a_region_survives_json_and_its_own_mask(region: Region) -> None:
    assert annotation_from_json(Annotation(("a",), region).to_json()) == Annotation(("a",), region)
    mask = mask_of(checked_region(region, SHAPE), SHAPE)
    assert np.array_equal(mask, mask_of(region, SHAPE))
    compact = region_of(mask)
    if not isinstance(region, Boxes) or len(region.boxes) == 1:
        assert compact is not None
    if compact is not None:
        assert np.array_equal(mask_of(compact, SHAPE), mask)


@given(mask=masks)
def test_a_mask_survives_packing_and_its_checksum_is_its_own(mask: np.ndarray) -> None:
    data, sha256 = packed(mask)
    assert np.array_equal(unpacked(data, sha256), mask)
    other = mask.copy()
    other[0, 0, 0] ^= True
    assert packed(other)[1] != sha256
    with pytest.raises(UnreadableFile):
        unpacked(packed(other)[0], sha256)
    assert np.array_equal(mask_of(MaskFile(sha256, int(mask.sum())), SHAPE, mask), mask)


@settings(max_examples=60)
@given(mask=masks, data=st.data())
def test_a_damaged_mask_is_told_or_whole(mask: np.ndarray, data: st.DataObject) -> None:
    good, sha256 = packed(mask)
    cut = data.draw(st.integers(0, len(good) - 1))
    try:
        found = unpacked(good[:cut], sha256)
    except UnreadableFile:
        return
    assert np.array_equal(found, mask)


@pytest.mark.parametrize("head", [b"", b"labelserver-mask 2 1 1 1\n", b"labelserver-mask 1 0 1 1\n", b"\x1f\x8b"])
def test_something_else_is_no_mask(head: bytes) -> None:
    with pytest.raises(UnreadableFile):
        unpacked(head + b"x\x9c\x03\x00\x00\x00\x00\x01")


def test_a_mask_that_declares_more_than_there_can_be_allocates_nothing() -> None:
    with pytest.raises(UnreadableFile, match="cannot have the shape"):
        unpacked(b"labelserver-mask 1 999999999 999999999 999999999\n")

"""A small map lies where the doubt is, whatever grid the network works on, and what is asked for holds most of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from labelserver.contracts.scores import SmallMap
from labelserver.domain.annotation import Boxes, region_from_json, region_to_json
from labelserver.learning.small_maps import MOST_ACROSS, largest_box, largest_slices, small_map

SHAPE = (40, 30, 12)
Map = NDArray[np.float32]


def blob(shape: tuple[int, int, int], low: tuple[int, ...], high: tuple[int, ...]) -> Map:
    found = np.zeros(shape, np.float32)
    found[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 0.7
    return found


def made(values: Map, to_image: NDArray[np.float64] | None = None, shape: tuple[int, int, int] = SHAPE) -> SmallMap:
    found = small_map(values, np.eye(4) if to_image is None else to_image, shape)
    assert found is not None
    return found


def contains(region: Boxes, point: tuple[int, ...]) -> bool:
    ((low, high),) = region.boxes
    return all(a <= p < b for a, p, b in zip(low, point, high, strict=True))


def test_a_map_is_small_and_keeps_every_slice() -> None:
    found = made(blob((512, 400, 100), (3, 3, 3), (9, 9, 9)), shape=(512, 400, 100))
    assert found.cells == (MOST_ACROSS, MOST_ACROSS, 100)
    assert len(found.values) == np.prod(found.cells)
    assert max(found.values) == 255


def test_the_slices_and_the_box_are_where_the_doubt_is() -> None:
    found = made(blob(SHAPE, (30, 4, 7), (36, 9, 9)))
    one = largest_slices(found)
    assert (one.axis, len(one.slices), one.slices[0] in (7, 8)) == (2, 1, True)
    assert largest_slices(found, 2).slices == (7, 8)
    assert set(largest_slices(found, 4).slices) >= {7, 8}
    assert largest_slices(found, 999).slices == tuple(range(12))
    box = largest_box(found)
    assert contains(box, (32, 6, 8))
    assert not contains(box, (4, 20, 2))
    ((low, high),) = box.boxes
    assert all(0 <= a < b <= n for a, b, n in zip(low, high, SHAPE, strict=True))
    assert region_from_json(region_to_json(box)) == box
    assert region_from_json(region_to_json(one)) == one


@pytest.mark.parametrize("turned", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (2, 0, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("zoom", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.75), (2.0, 2.5, 3.0)])
def test_any_order_direction_and_spacing_of_the_network_is_undone(
    turned: tuple[int, ...], signs: tuple[int, ...], zoom: tuple[float, ...]
) -> None:
    """The network's grid: axis n runs along image axis turned[n], this way or the other, in steps of zoom[n] voxels."""
    sizes = [max(1, round(SHAPE[axis] / z)) for axis, z in zip(turned, zoom, strict=True)]
    to_image = np.eye(4)
    to_image[:3, :3] = 0
    for n, axis in enumerate(turned):
        to_image[axis, n] = signs[n] * zoom[n]
        to_image[axis, 3] = (zoom[n] - 1) / 2 if signs[n] > 0 else SHAPE[axis] - 1 - (zoom[n] - 1) / 2
    places = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1) @ to_image[:3, :3].T + to_image[:3, 3]
    values = (np.abs(places - (33, 6, 8)) <= (4, 4, 1.6)).all(-1).astype(np.float32)
    assert values.any()
    found = made(values, to_image)
    assert abs(largest_slices(found).slices[0] - 8) <= 1
    assert contains(largest_box(found), (33, 6, 8))
    assert not contains(largest_box(found), (5, 24, 2))


def test_a_network_that_saw_a_part_asks_for_nothing_outside_of_it() -> None:
    to_image = np.eye(4)
    to_image[:3, 3] = (20, 10, 4)
    found = made(np.ones((8, 8, 4), np.float32), to_image)
    assert set(largest_slices(found, 4).slices) == {4, 5, 6, 7}
    assert contains(largest_box(found), (24, 14, 6))


@pytest.mark.parametrize("what", ["zero", "oblique", "not finite", "elsewhere", "flat"])
def test_what_has_no_place_makes_no_map(what: str) -> None:
    values, to_image = np.ones(SHAPE, np.float32), np.eye(4)
    if what == "zero":
        values[:] = 0
    elif what == "oblique":
        to_image[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    elif what == "not finite":
        values[3, 3, 3] = np.nan
    elif what == "elsewhere":
        to_image[0, 3] = 500
    else:
        values = values[0]
    assert small_map(values, to_image, SHAPE) is None


def test_equal_doubt_everywhere_asks_for_the_middle_slice() -> None:
    assert largest_slices(made(np.ones(SHAPE, np.float32))).slices[0] in (5, 6)

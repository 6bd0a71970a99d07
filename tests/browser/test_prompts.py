"""Prompts in the page: each arrives at the model at its voxel of the file, the answer appears where it was drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import APIResponse, Route

from tests.browser.conftest import Meet, Place
from tests.browser.screens import colours_of
from tests.browser.study import WAYS, Body
from tests.browser.visits import Visit

RADIUS = 3  #: voxels of the ball that `paint` draws round a point

Voxel = tuple[int, int, int]


def ball(dims: Voxel, center: Voxel) -> NDArray[np.bool_]:
    away = sum((axis - c) ** 2 for axis, c in zip(np.indices(dims), center, strict=True))
    found: NDArray[np.bool_] = np.asarray(away <= RADIUS**2)
    return found


def in_file(body: Body, voxel: Voxel) -> list[int]:
    """The index of a voxel of the page's grid in the stored file."""
    marked = np.zeros(body.dims, bool)
    marked[voxel] = True
    return [int(n) for n in np.argwhere(body.stored.apply(marked))[0]]


def newest(place: Place, visit: Visit, known: int) -> dict[str, Any]:
    """The prompt that the model gets next."""
    visit.until("the prompt's arrival", lambda: len(place.prompts()) > known)
    assert len(place.prompts()) == known + 1
    return place.prompts()[known]


def begin(place: Place, meet: Meet, image: str) -> Visit:
    visit = meet(place)
    visit.open(image)
    visit.page.locator("tr[data-label='liver'] .label-choose").click()
    return visit


@pytest.mark.parametrize("image", WAYS)
def test_a_point_arrives_exactly_and_its_answer_lies_there(place: Place, meet: Meet, image: str) -> None:
    visit, body = begin(place, meet, image), place.bodies[image]
    visit.tool("p")
    painted = np.zeros(body.dims, bool)
    for plane, voxel in (("axial", (12, 15, 12)), ("coronal", (22, 25, 8)), ("sagittal", (32, 18, 20))):
        known = len(place.prompts())
        spot = visit.at(plane, voxel)
        before = colours_of(visit.page, *spot)
        visit.page.mouse.click(*spot)
        got = newest(place, visit, known)
        assert (got["kind"], got["label"], got["positive"]) == ("point", "liver", True)
        assert got["points"] == [in_file(body, voxel)]
        painted |= ball(body.dims, voxel)
        visit.wait_voxels("liver", int(painted.sum()))
        assert visit.page.locator(".readout").get_attribute("data-label") == "1"
        visit.until("a coloured spot", lambda s=spot, b=before: np.abs(colours_of(visit.page, *s) - b).max() > 15)


@pytest.mark.parametrize("image", WAYS)
def test_a_box_arrives_with_both_corners(place: Place, meet: Meet, image: str) -> None:
    visit, body = begin(place, meet, image), place.bodies[image]
    known = len(place.prompts())
    visit.tool("x")
    first, second = (12, 20, 9), (20, 20, 15)
    visit.drag([visit.at("coronal", first), visit.at("coronal", second)])
    got = newest(place, visit, known)
    assert got["kind"] == "box"
    corners = np.sort(np.array([in_file(body, first), in_file(body, second)]), axis=0)
    np.testing.assert_array_equal(np.sort(np.array(got["points"]), axis=0), corners)
    visit.wait_voxels("liver", 9 * 1 * 7)


@pytest.mark.parametrize("image", WAYS)
def test_a_scribble_arrives_along_its_line(place: Place, meet: Meet, image: str) -> None:
    visit, body = begin(place, meet, image), place.bodies[image]
    known = len(place.prompts())
    visit.tool("s")
    first, last = (18, 12, 10), (18, 19, 10)
    visit.drag([visit.at("sagittal", first), visit.at("sagittal", last)])
    got = newest(place, visit, known)
    assert got["kind"] == "scribble"
    line = {tuple(in_file(body, (18, y, 10))) for y in range(12, 20)}
    seen = {tuple(int(n) for n in np.rint(point)) for point in got["points"]}
    assert seen <= line
    assert {tuple(in_file(body, first)), tuple(in_file(body, last))} <= seen


def test_a_lasso_arrives_as_its_outline(place: Place, meet: Meet) -> None:
    visit, body = begin(place, meet, "turned"), place.bodies["turned"]
    known = len(place.prompts())
    visit.tool("l")
    outline = [(12, 12, 14), (20, 12, 14), (20, 18, 14), (12, 18, 14)]
    visit.drag([visit.at("axial", voxel) for voxel in outline])
    got = newest(place, visit, known)
    assert got["kind"] == "lasso"
    seen = np.rint(np.array(got["points"]))
    for corner in outline:
        assert (np.abs(seen - in_file(body, corner)).max(axis=1) == 0).any(), corner
    assert (np.abs(seen - in_file(body, (12, 12, 14)))[:, _axis_of(body, 2)] == 0).all()


def _axis_of(body: Body, axis: int) -> int:
    """The file's axis along which an axis of the page's grid runs."""
    return body.stored.order.index(axis)


def test_ctrl_takes_away_and_undo_brings_back(place: Place, meet: Meet) -> None:
    visit, body = begin(place, meet, "flipped"), place.bodies["flipped"]
    here, there = (20, 15, 12), (23, 15, 12)
    visit.tool("p")
    visit.click("axial", here)
    whole = ball(body.dims, here)
    visit.wait_voxels("liver", int(whole.sum()))
    visit.page.keyboard.down("Control")
    visit.page.mouse.click(*visit.at("axial", there))
    visit.page.keyboard.up("Control")
    visit.wait_voxels("liver", int((whole & ~ball(body.dims, there)).sum()))
    assert place.prompts()[-1]["positive"] is False
    visit.press("Control+z")
    visit.wait_voxels("liver", int(whole.sum()))
    visit.press("Control+z")
    visit.wait_voxels("liver", 0)
    visit.press("Control+Shift+z")
    visit.wait_voxels("liver", int(whole.sum()))


def test_a_late_answer_is_dropped_and_nothing_is_lost(place: Place, meet: Meet) -> None:
    """The network holds the first answer back until the second one is shown."""
    visit, body = begin(place, meet, "straight"), place.bodies["straight"]
    places: list[Voxel] = [(12, 15, 12), (24, 15, 12), (18, 22, 12)]
    held: list[tuple[Route, APIResponse]] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append((route, route.fetch()))

    visit.page.route("**/grid/prompts", hold_the_first)
    visit.tool("p")
    spots = [visit.at("axial", voxel) for voxel in places]
    visit.page.mouse.click(*spots[0])
    visit.until("the first answer on its way", lambda: visit.page.wait_for_timeout(20) or held)
    assert visit.voxels("liver") == 0
    visit.page.mouse.click(*spots[1])
    both = ball(body.dims, places[0]) | ball(body.dims, places[1])
    visit.wait_voxels("liver", int(both.sum()))
    held[0][0].fulfill(response=held[0][1])
    visit.page.mouse.click(*spots[2])
    visit.wait_voxels("liver", int((both | ball(body.dims, places[2])).sum()))


def test_a_slow_answer_shows_its_time_and_can_be_cancelled(place: Place, meet: Meet) -> None:
    visit, body = begin(place, meet, "straight"), place.bodies["straight"]
    hold = place.app / "hold"
    visit.tool("p")
    spot = visit.at("axial", (15, 15, 15))
    hold.touch()
    try:
        visit.page.mouse.click(*spot)
        visit.page.locator("[data-running]").wait_for()
        visit.press("Escape")
        visit.page.locator("[data-running]").wait_for(state="detached")
    finally:
        hold.unlink()
    assert visit.voxels("liver") == 0
    visit.tool("p")
    other = (22, 20, 15)
    visit.click("axial", other)
    visit.wait_voxels("liver", int(ball(body.dims, other).sum()))

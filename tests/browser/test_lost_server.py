"""The server is killed while somebody draws: the page says so, loses no stroke, and goes on when it is back."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import Meet, start_place
from tests.browser.visits import Visit

#: What a browser says by itself about a server that is not there.
GONE = re.compile(r"net::ERR_|Failed to load resource")


def stroke(visit: Visit, *places: tuple[int, int, int]) -> int:
    visit.tool("b")
    visit.drag([visit.at("axial", voxel) for voxel in places])
    return visit.voxels("liver")


def test_a_killed_server_costs_no_stroke(
    built_page: None, meet: Meet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with start_place(tmp_path_factory.mktemp("killed")) as place:
        visit = meet(place)
        visit.noticed.expected.append(GONE)
        visit.open("turned")
        visit.page.locator("tr[data-label='liver'] .label-choose").click()
        first = stroke(visit, (12, 15, 12), (18, 15, 12))
        visit.wait_draft()
        place.server.kill()
        both = stroke(visit, (20, 20, 12), (26, 20, 12))
        assert both > first
        visit.page.locator(".banner").wait_for()
        visit.wait_draft("here")
        visit.page.screenshot(path=visit.artifact("banner"))
        third = stroke(visit, (20, 26, 12), (24, 26, 12))
        place.server.start()
        visit.page.locator(".banner").wait_for(state="detached")
        visit.wait_draft("saved")
        assert visit.voxels("liver") == third

        elsewhere = meet(place)  # the same person at another machine
        elsewhere.noticed.expected.append(GONE)
        elsewhere.open("turned")
        elsewhere.wait_voxels("liver", third)

        visit.tool("p")  # the model answers again, too
        visit.click("axial", (30, 12, 12))
        visit.until("the model's answer", lambda: visit.page.wait_for_timeout(20) or visit.voxels("liver") > third)
        visit.press("Control+Enter")
        visit.hear("submitted")
        assert place.label("turned").is_file()


def test_what_never_reached_the_server_survives_the_browsers_end(
    built_page: None, meet: Meet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with start_place(tmp_path_factory.mktemp("crashed")) as place:
        visit = meet(place)
        visit.noticed.expected.append(GONE)
        visit.open("straight")
        visit.page.locator("tr[data-label='liver'] .label-choose").click()
        place.server.kill()
        count = stroke(visit, (12, 15, 12), (18, 15, 12))
        visit.wait_draft("here")
        visit.page.close(run_before_unload=False)
        visit.page = visit.context.new_page()
        place.server.start()
        visit.goto()
        visit.open("straight")
        visit.wait_voxels("liver", count)
        visit.wait_draft("saved")

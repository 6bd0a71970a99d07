"""A photograph in the same page: one pane, its own colours, a label as PNG."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.browser.conftest import Meet, Place
from tests.browser.screens import colours_of


def test_a_picture_is_shown_as_stored_drawn_on_and_saved(place: Place, meet: Meet) -> None:
    visit = meet(place)
    page = visit.page
    visit.open("photo")
    assert page.locator("section[data-plane]").count() == 1
    with Image.open(place.studies / "photo.png") as picture:
        photo = np.asarray(picture.convert("RGB"))
    height, width = photo.shape[:2]
    place_of = visit.pixels(width, height)
    for x, y in ((50, 40), (5, 5), (120, 90)):
        page.mouse.move(*place_of(x, y))
        told = page.locator(".readout")
        assert told.get_attribute("data-voxel") == f"{x},{y},0"
        assert told.get_attribute("data-value") == ",".join(str(n) for n in photo[y, x])
    page.mouse.move(5, 300)
    assert np.abs(colours_of(page, *place_of(60, 45)) - (220, 40, 40)).max() < 3, "the red square is red"

    visit.tool("b")
    visit.drag([place_of(45, 35), place_of(80, 35), place_of(80, 55)])
    drawn = visit.voxels("liver")
    assert drawn > 50
    visit.press("2")
    visit.drag([place_of(10, 80), place_of(20, 80)])
    other = visit.voxels("spleen")
    visit.wait_draft()
    visit.press("Control+Enter")
    page.get_by_text("photo is submitted as revision 1").wait_for()
    with Image.open(place.label("photo", ext=".png")) as saved:
        label = np.asarray(saved)
    assert label.shape == (height, width)
    assert int((label == 1).sum()) == drawn
    assert int((label == 2).sum()) == other
    assert label[35, 60] == 1, "rows are rows and columns are columns"
    assert label[80, 15] == 2


def test_a_click_on_a_picture_is_answered_where_it_was(place: Place, meet: Meet) -> None:
    visit = meet(place, "Pia")
    page = visit.page
    visit.open("photo")
    visit.tool("p")
    with Image.open(place.studies / "photo.png") as photo:
        width, height = photo.size
    at = visit.pixels(width, height)(100, 20)
    page.mouse.click(*at)
    page.locator("[data-last-run='paint']").wait_for()
    told = place.prompts()[-1]
    assert [round(n) for n in told["points"][0]][:2] == [100, 20]
    page.mouse.move(*at)
    page.locator(".readout[data-label='1']").wait_for()

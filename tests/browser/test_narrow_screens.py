"""Small windows: everything that the work needs can be reached, and the page never scrolls to the side."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page

from tests.browser.conftest import Meet, Place
from tests.browser.visits import Visit

SIZES = ((900, 600), (400, 800))

#: Pixels that the page is wider than its window.
TOO_WIDE = "() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - window.innerWidth"


#: Where an element lies once it is scrolled to, and what a click on its middle would meet if not the element.
LOOK_AT = """(element) => {
    element.scrollIntoView({block: "nearest", inline: "nearest"});
    const {left, right, top, bottom} = element.getBoundingClientRect();
    const met = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
    return {left, right, top, bottom, before: element.contains(met) ? "" : met?.outerHTML.slice(0, 200) ?? "nothing"};
}"""


def assert_reachable(page: Page, what: Locator) -> None:
    """It can be brought into the window as a whole, and nothing lies in front of it."""
    what.wait_for()
    found, size = what.evaluate(LOOK_AT), page.viewport_size
    assert size is not None
    assert found["before"] == "", (str(what), found)
    assert min(found["left"], found["top"]) >= -1, (str(what), found)
    assert found["right"] <= size["width"] + 1, (str(what), found)
    assert found["bottom"] <= size["height"] + 1, (str(what), found)


def assert_no_wider_than_the_window(page: Page) -> None:
    assert page.evaluate(TOO_WIDE) <= 0


def drawer(page: Page, name: str) -> None:
    page.locator(".drawers button", has_text=name).click()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}px")
def test_the_work_fits(place: Place, meet: Meet, size: tuple[int, int]) -> None:
    visit = meet(place, path=None)
    page = visit.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    visit.goto()
    for view in ("Work", "Models", "Review"):
        assert_reachable(page, page.get_by_role("link", name=view, exact=True))
    for button in ("Settings", "Keys and help", "theme"):
        assert_reachable(page, page.get_by_role("button", name=button).first)
    assert_reachable(page, page.locator(".top button[title^='Your name']"))

    drawer(page, "Images")
    assert_reachable(page, page.locator(".next-box button.wide-button"))
    assert_reachable(page, page.get_by_label("Find an image by its name"))
    page.locator(".image-row[data-image='straight']").click()
    visit.wait_ready("straight")
    assert_no_wider_than_the_window(page)
    drawer(page, "Images")

    drawer(page, "Labels and model")
    for name in ("liver", "spleen"):
        assert_reachable(page, page.locator(f"tr[data-label='{name}'] .label-choose"))
        assert_reachable(page, page.get_by_label(f"Hide {name}"))
    assert_reachable(page, page.get_by_label("Opacity of the labels"))
    assert_reachable(page, page.locator(".panel.model select"))
    assert_reachable(page, page.locator(".panel.model button").first)
    assert_reachable(page, page.get_by_role("button", name="Train", exact=True))
    page.locator("tr[data-label='spleen'] .label-choose").click()
    drawer(page, "Labels and model")

    for tool in page.locator(".toolbar button:visible").all():
        assert_reachable(page, tool)
    assert_reachable(page, page.get_by_label("Window"))
    for plane in ("axial", "coronal", "sagittal", "3d"):
        assert_reachable(page, page.locator(f"section[data-plane='{plane}'] .pane-foot input").first)
    draw_and_submit(visit)
    drawer(page, "Labels and model")
    assert_reachable(page, page.get_by_label("Clear spleen"))
    assert_no_wider_than_the_window(page)


def draw_and_submit(visit: Visit) -> None:
    page = visit.page
    visit.tool("b")
    for name in ("Brush diameter", "3-D", "only empty", "range"):
        assert_reachable(page, page.locator(".options").get_by_label(name, exact=name == "range"))
    page.locator("section[data-plane='axial'] .pane-view").click()
    visit.until("something drawn", lambda: visit.voxels("spleen") > 0)
    for name in ("Skip", "Flag"):
        assert_reachable(page, page.get_by_role("button", name=name, exact=True))
    page.locator(".status button.primary").click()
    visit.hear("is submitted")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}px")
def test_models_and_review_fit(place: Place, meet: Meet, size: tuple[int, int]) -> None:
    if "case_0" not in {path.name.split(".")[0] for path in (place.studies / "labels" / "final").glob("*")}:
        place.save_cases()
    visit = meet(place, "Reviewer", path=None)
    page = visit.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    visit.goto()
    page.get_by_role("link", name="Models").click()
    assert_reachable(page, page.get_by_role("button", name="Train", exact=True))
    assert_reachable(page, page.get_by_label("epochs"))
    assert_no_wider_than_the_window(page)
    page.get_by_role("link", name="Review").click()
    page.locator(".review-row[data-review='case_0']").click()
    page.locator(".sides[data-state='ready']").wait_for()
    for button in ("Approve", "Return"):
        page.get_by_label("Comment for the annotator").fill("Good")
        assert_reachable(page, page.get_by_role("button", name=button))
    for name in ("first", "second", "plane"):
        assert_reachable(page, page.locator(".review-bar .field", has_text=name).first.locator("select"))
    for side in page.locator(".sides .pane").all():
        assert_reachable(page, side.locator("input.slice"))
    assert_no_wider_than_the_window(page)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}px")
def test_dialogs_fit(place: Place, meet: Meet, size: tuple[int, int]) -> None:
    visit = meet(place, path=None)
    page = visit.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    visit.goto()
    for button in ("Settings", "Keys and help"):
        page.get_by_role("button", name=button).click()
        box = page.locator("dialog[open]").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= size[1]
        assert_no_wider_than_the_window(page)
        visit.press("Escape")
        page.locator("dialog[open]").wait_for(state="detached")

"""Everything without a pointer: the whole way of an image by keys alone."""

from __future__ import annotations

from tests.browser.conftest import Meet, Place
from tests.browser.study import stored_label
from tests.browser.visits import Visit


def _focus(visit: Visit, plane: str) -> None:
    """By Tab, as somebody without a pointer does."""
    for _ in range(80):
        visit.press("Tab")
        here = visit.page.evaluate(
            "document.activeElement.closest('section[data-plane]')?.dataset.plane ?? '' ",
        )
        if here == plane and visit.page.evaluate("document.activeElement.classList.contains('pane-view')"):
            return
    raise AssertionError(f"Tab does not reach the {plane} plane")


def test_an_image_from_the_list_to_its_label_by_keys_alone(place: Place, meet: Meet) -> None:
    visit = meet(place)
    page = visit.page
    page.locator(".image-row").first.wait_for()
    for _ in range(40):
        visit.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "listbox":
            break
    visit.press("End")
    visit.press("Enter")
    page.locator(".panes[data-state='ready']").wait_for()
    image = page.locator(".panes").get_attribute("data-image") or ""
    assert image == "turned", "the last one of the list"

    _focus(visit, "axial")
    pane = page.locator("section[data-plane='axial'] .pane-view")
    told = pane.get_attribute("aria-label") or ""
    visit.press("PageUp")
    visit.until("the text of the pane follows", lambda: pane.get_attribute("aria-label") != told)
    visit.press("1")
    visit.press("b")
    visit.press("Space")
    visit.until("a stamp", lambda: visit.voxels("liver") > 0)
    stamp = visit.voxels("liver")
    for _ in range(4):
        visit.press("ArrowLeft")
    visit.press("Space")
    visit.until("a second stamp", lambda: visit.voxels("liver") > stamp)
    both = visit.voxels("liver")
    visit.press("Control+z")
    visit.wait_voxels("liver", stamp)
    visit.press("Control+y")
    visit.wait_voxels("liver", both)

    visit.press("2")
    visit.press("p")
    for _ in range(6):
        visit.press("ArrowUp")
    visit.press("Space")
    page.locator("[data-last-run='paint']").wait_for()
    assert visit.voxels("spleen") > 20

    visit.press("x")
    visit.press("Enter")
    for _ in range(3):
        visit.press("ArrowRight")
        visit.press("ArrowDown")
    drawn = visit.voxels("spleen")
    visit.press("Enter")
    visit.until("the box is answered", lambda: visit.voxels("spleen") != drawn)
    counts = {name: visit.voxels(name) for name in ("liver", "spleen")}
    visit.press("Control+Enter")
    page.get_by_text("turned is submitted as revision").wait_for()
    label = stored_label(place.label(image), place.bodies[image])
    assert {"liver": int((label == 1).sum()), "spleen": int((label == 2).sum())} == counts


def test_submit_means_submit_also_with_the_focus_in_the_list(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.open("straight")
    visit.tool("b")
    visit.press("Space")
    visit.until("a stamp", lambda: visit.voxels("liver") > 0)
    visit.page.get_by_role("listbox", name="Images").focus()
    visit.press("Control+Enter")
    visit.page.get_by_text("straight is submitted as revision").wait_for()


def test_the_sheet_of_keys_opens_and_closes_and_gives_the_focus_back(place: Place, meet: Meet) -> None:
    visit = meet(place)
    page = visit.page
    page.locator(".image-row").first.wait_for()
    visit.press("?")
    sheet = page.get_by_role("dialog", name="Keys")
    sheet.wait_for()
    text = sheet.inner_text()
    for what in ("Brush", "Point prompt", "Undo", "Submit", "Next image", "Window", "wheel"):
        assert what in text
    visit.press("Escape")
    sheet.wait_for(state="detached")


def test_every_tool_says_its_key_and_the_key_arms_it(place: Place, meet: Meet) -> None:
    visit = meet(place, "Key")
    page = visit.page
    visit.open("straight")
    page.locator(".pane-view").first.focus()
    for key, name in (("b", "Brush"), ("e", "Eraser"), ("f", "Fill"), ("p", "Point"), ("x", "Box"), ("c", "Crosshair")):
        visit.press(key)
        button = page.locator(f".toolbar button[title^='{name}']").first
        assert button.get_attribute("aria-pressed") == "true", name
        assert f"({key.upper()})" in (button.get_attribute("title") or "")


def test_people_choose_their_own_keys(place: Place, meet: Meet) -> None:
    visit = meet(place, "Own")
    page = visit.page
    visit.open("straight")
    page.get_by_role("button", name="Settings").click()
    own = page.get_by_label("Own keys, as JSON")
    own.fill('{"brush": "d"}')
    page.get_by_text("must be a list of texts").wait_for()
    own.fill('{"brush": ["d"]}')
    visit.press("Escape")
    page.locator(".pane-view").first.focus()
    visit.press("d")
    assert page.locator(".toolbar button[title^='Brush (D)']").get_attribute("aria-pressed") == "true"

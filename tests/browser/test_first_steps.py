"""What everybody does: find an image, look at it, draw, change one's mind, come back later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.browser.conftest import Meet, Place
from tests.browser.screens import colours_of, pixels_of
from tests.browser.study import stored_label
from tests.browser.visits import Visit


def test_the_list_the_next_image_and_a_picture_that_is_not_black(place: Place, meet: Meet) -> None:
    visit = meet(place)
    page = visit.page
    page.locator(".image-row").first.wait_for()
    assert page.locator(".image-row").count() == sum(path.is_file() for path in place.studies.iterdir())
    page.locator(".image-row[data-image='straight']").wait_for()
    visit.press("n")
    page.locator(".panes[data-state='ready']").wait_for()
    chosen = page.locator(".panes").get_attribute("data-image")
    assert page.locator(f".image-row[data-image='{chosen}'][aria-selected='true']").count() == 1
    assert page.locator("[data-reason]").inner_text() != ""
    assert f"#/images/{chosen}" in page.url


def test_every_plane_shows_the_image(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.open("straight")
    for plane in ("axial", "coronal", "sagittal"):
        shown = pixels_of(visit.page, plane)
        assert shown.std() > 20, f"the {plane} plane is one colour"
        assert (shown.max(axis=2) > 100).mean() > 0.05


def test_a_search_finds_an_image_and_says_when_there_is_none(place: Place, meet: Meet) -> None:
    visit = meet(place)
    search = visit.page.get_by_label("Find an image by its name")
    search.fill("turn")
    visit.page.locator(".image-row[data-image='straight']").wait_for(state="detached")
    assert visit.page.locator(".image-row").count() == 1
    search.fill("no such image")
    visit.page.get_by_text("No image has this name.").wait_for()


def test_a_preset_changes_the_picture_and_the_read_out_tells_the_voxel(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.open("straight")
    hu = place.bodies["straight"].hu
    for voxel in ((12, 20, 9), (30, 14, 20), (25, 25, 15)):
        visit.page.mouse.move(*visit.at("axial", voxel))
        told = visit.page.locator(".readout")
        assert told.get_attribute("data-voxel") == ",".join(str(n) for n in voxel)
        assert float(told.get_attribute("data-value") or "nan") == hu[voxel]
        assert f"{hu[voxel]} HU" in told.inner_text()
    before = pixels_of(visit.page, "axial")
    windows = visit.page.get_by_label("Window")
    names = windows.locator("option").all_inner_texts()
    windows.select_option(index=next(n for n, name in enumerate(names) if "lung" in name))
    visit.until("another picture", lambda: not np.array_equal(before, pixels_of(visit.page, "axial")))
    lung = pixels_of(visit.page, "axial")
    assert lung.mean() > before.mean() + 20, "soft tissue is bright in a lung window"
    visit.page.locator("section[data-plane='axial'] .pane-view").focus()
    visit.press("w")
    visit.until("the next window", lambda: not np.array_equal(lung, pixels_of(visit.page, "axial")))


def test_a_right_drag_changes_the_window(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.open("straight")
    before = pixels_of(visit.page, "axial").mean()
    x, y = visit.at("axial", (20, 20, 15))
    visit.page.mouse.move(x, y)
    visit.page.mouse.down(button="right")
    visit.page.mouse.move(x, y + 80, steps=5)
    visit.page.mouse.up(button="right")
    visit.until("another brightness", lambda: abs(pixels_of(visit.page, "axial").mean() - before) > 5)
    assert "own" in visit.page.get_by_label("Window").locator("option").first.inner_text()


def _stroke(visit: Visit, plane: str, first: tuple[int, int, int], last: tuple[int, int, int]) -> None:
    visit.drag([visit.at(plane, first), visit.at(plane, last)])


def test_a_stroke_undo_redo_erase_and_sizes(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.open("straight")
    visit.tool("b")
    _stroke(visit, "axial", (18, 20, 15), (28, 20, 15))
    drawn = visit.voxels("liver")
    assert drawn >= 11, "a line of eleven voxels at least"
    visit.press("Control+z")
    visit.wait_voxels("liver", 0)
    visit.press("Control+Shift+z")
    visit.wait_voxels("liver", drawn)

    visit.page.keyboard.down("Control")
    x, y = visit.at("axial", (22, 20, 15))
    visit.page.mouse.click(x, y)
    visit.page.keyboard.up("Control")
    visit.until("less liver", lambda: visit.voxels("liver") < drawn)
    erased = visit.voxels("liver")
    visit.tool("e")
    _stroke(visit, "axial", (18, 20, 15), (28, 20, 15))
    visit.until("no liver", lambda: visit.voxels("liver") < erased)

    size = visit.page.locator(".brush-size")
    small = size.inner_text()
    visit.press("]")
    visit.until("a larger brush", lambda: size.inner_text() != small)
    visit.press("[")
    visit.until("the same brush", lambda: size.inner_text() == small)


def test_the_drawing_shows_in_its_colour_under_the_pointer(place: Place, meet: Meet) -> None:
    visit = meet(place, "Bob")
    visit.open("flipped")
    visit.tool("b")
    voxel = (14, 22, 10)
    x, y = visit.at("axial", voxel)
    visit.page.mouse.move(5, 300)  # no brush over the place
    visit.until("grey as the CT is", lambda: np.ptp(colours_of(visit.page, x, y)) < 6)
    visit.page.mouse.click(x, y)
    visit.wait_draft()
    for plane in ("axial", "coronal", "sagittal"):
        x, y = visit.at(plane, voxel)
        visit.page.mouse.move(5, 300)
        visit.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shown = colours_of(visit.page, x, y)
        assert np.ptp(shown) > 25, f"coloured in the {plane} plane too: {shown}"


def test_locked_labels_and_only_empty_protect_what_is_drawn(place: Place, meet: Meet) -> None:
    visit = meet(place, "Cid")
    visit.open("straight")
    visit.tool("b")
    visit.press("1")
    _stroke(visit, "axial", (20, 16, 12), (26, 16, 12))
    liver = visit.voxels("liver")
    visit.page.get_by_label("Lock liver").click()
    visit.tool("b")
    visit.press("2")
    _stroke(visit, "axial", (20, 16, 12), (26, 17, 12))
    assert visit.voxels("liver") == liver
    visit.page.get_by_label("Lock liver").click()
    visit.page.get_by_label("only empty").check()
    visit.tool("b")
    _stroke(visit, "axial", (20, 16, 12), (26, 16, 12))
    assert visit.voxels("liver") == liver
    visit.page.get_by_label("only empty").uncheck()
    visit.tool("b")
    _stroke(visit, "axial", (20, 16, 12), (26, 16, 12))
    visit.until("painted over", lambda: visit.voxels("liver") < liver)


def test_a_range_of_intensities_keeps_the_brush_off_the_rest(place: Place, meet: Meet) -> None:
    visit, body = meet(place), place.bodies["flipped"]
    visit.open("flipped")
    visit.tool("b")
    for _ in range(6):
        visit.press("]")
    low, high = 0, 100
    slice_hu = body.hu[:, :, 15]
    inside = np.argwhere((slice_hu >= low) & (slice_hu <= high))
    x, y = next((int(x), int(y)) for x, y in inside if _is_mixed(slice_hu, int(x), int(y), low, high))
    visit.click("axial", (x, y, 15))
    everything = visit.voxels("liver")
    visit.press("Control+z")
    visit.wait_voxels("liver", 0)

    visit.page.get_by_label("range", exact=True).check()
    visit.page.get_by_label("Lowest intensity that is painted").fill(str(low))
    visit.page.get_by_label("Highest intensity that is painted").fill(str(high))
    visit.tool("b")
    visit.click("axial", (x, y, 15))
    visit.until("some liver", lambda: visit.voxels("liver") > 0)
    painted = visit.voxels("liver")
    assert painted < everything, "part of what the brush covers is outside the range"
    visit.press("Control+Enter")
    visit.hear("is submitted")
    drawn = stored_label(place.label("flipped"), body) == 1
    assert int(drawn.sum()) == painted
    assert body.hu[drawn].min() >= low
    assert body.hu[drawn].max() <= high

    visit.tool("e")  # what lies outside the range can still be erased
    visit.click("axial", (x, y, 15))
    visit.wait_voxels("liver", 0)


def _is_mixed(hu: NDArray[np.int16], x: int, y: int, low: float, high: float) -> bool:
    """Whether the voxels next to one are partly inside the range, and the place is well inside the image."""
    if not (4 <= x < hu.shape[0] - 4 and 4 <= y < hu.shape[1] - 4):
        return False
    near = hu[x - 1 : x + 2, y - 1 : y + 2]
    share = float(((near >= low) & (near <= high)).mean())
    return 0.3 < share < 0.7


def test_who_chooses_another_image_while_one_is_being_opened_gets_the_other(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.page.route("**/api/v1/images/turned/volume/slab?*", lambda route: None)  # never answers
    visit.page.locator(".image-row[data-image='turned']").click()
    visit.page.locator(".panes[data-image='turned']").wait_for()
    visit.open("straight")
    assert visit.page.url.endswith("#/images/straight")
    visit.page.unroute_all()


def test_a_closed_outline_is_filled_and_an_open_place_is_not(place: Place, meet: Meet) -> None:
    visit = meet(place, "Dan")
    visit.open("straight")
    visit.tool("b")
    corners = [(16, 16, 18), (26, 16, 18), (26, 26, 18), (16, 26, 18), (16, 16, 18)]
    visit.drag([visit.at("axial", corner) for corner in corners])
    outline = visit.voxels("liver")
    visit.tool("f")
    visit.click("axial", (36, 30, 18))
    visit.page.get_by_text("Nothing encloses this place").wait_for()
    assert visit.voxels("liver") == outline
    visit.click("axial", (21, 21, 18))
    visit.until("a filled outline", lambda: visit.voxels("liver") >= 121)


def test_slices_between_drawn_ones_are_filled_in(place: Place, meet: Meet) -> None:
    visit = meet(place, "Eve")
    visit.open("straight")
    visit.tool("b")
    for z in (10, 14):
        visit.click("axial", (20, 20, z))
    one = visit.voxels("liver") // 2
    visit.press("i")
    visit.wait_voxels("liver", 5 * one)
    visit.press("Control+z")
    visit.wait_voxels("liver", 2 * one)


def test_a_reload_brings_back_the_draft_and_the_place(place: Place, meet: Meet) -> None:
    visit = meet(place, "Fay")
    visit.open("turned")
    visit.tool("b")
    _stroke(visit, "coronal", (18, 20, 15), (26, 20, 18))
    drawn = visit.voxels("liver")
    visit.wait_draft()
    visit.page.reload()
    visit.wait_ready("turned")
    visit.wait_voxels("liver", drawn)
    other = meet(place, "Fay", "/#/images/turned")
    other.wait_ready("turned")
    other.wait_voxels("liver", drawn)
    assert visit.page.locator(".image-row[data-image='turned'][data-row-state='draft']").count() == 1


def test_who_reads_the_eye_hides_a_label_and_outline_thins_it(place: Place, meet: Meet) -> None:
    visit = meet(place, "Gus")
    visit.open("straight")
    visit.tool("b")
    x, y = visit.at("axial", (20, 20, 15))
    visit.page.mouse.click(x, y)
    visit.page.mouse.move(5, 300)
    visit.until("a colour", lambda: np.ptp(colours_of(visit.page, x, y)) > 25)
    visit.press("v")
    visit.until("no colour", lambda: np.ptp(colours_of(visit.page, x, y)) < 6)
    visit.press("v")
    visit.until("a colour again", lambda: np.ptp(colours_of(visit.page, x, y)) > 25)


def test_solo_eyes_and_opacity_change_what_is_seen(place: Place, meet: Meet) -> None:
    visit = meet(place)
    page = visit.page
    visit.open("straight")
    places = {}
    for name, voxel in (("liver", (16, 18, 15)), ("spleen", (26, 18, 15))):
        page.locator(f"tr[data-label='{name}'] .label-choose").click()
        visit.tool("b")
        places[name] = visit.at("axial", voxel)
        page.mouse.click(*places[name])
    page.mouse.move(5, 300)

    def colour_of(name: str) -> float:
        """How far from grey the place of a label is."""
        return float(np.ptp(colours_of(page, *places[name])))

    def shows(*names: str) -> bool:
        return all((colour_of(name) > 25) if name in names else (colour_of(name) < 6) for name in places)

    visit.until("both", lambda: shows("liver", "spleen"))
    for name in places:
        page.locator(f"tr[data-label='{name}'] .label-choose").click(modifiers=["Alt"])
        visit.until(f"{name} alone", lambda n=name: shows(n))
        page.locator(f"tr[data-label='{name}'] .label-choose").click(modifiers=["Alt"])
        visit.until("both again", lambda: shows("liver", "spleen"))
    page.get_by_label("Hide liver").click()
    visit.until("no liver", lambda: shows("spleen"))
    page.get_by_label("Hide liver").click()
    visit.until("the liver again", lambda: shows("liver", "spleen"))

    opacity = page.get_by_label("Opacity of the labels")
    strength = []
    for share in ("0.2", "0.6", "1"):
        opacity.fill(share)
        page.locator("output", has_text=f"{float(share):.0%}".replace("%", " %")).wait_for()
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        strength.append(colour_of("liver"))
    assert strength[0] + 10 < strength[1] < strength[2] - 10, f"stronger with the opacity: {strength}"
    assert visit.voxels("liver") > 0, "nothing of this changes what is drawn"

"""Two people, or two windows, on one image: each sees the other, nothing is overwritten, both labels are kept."""

from __future__ import annotations

import re

from tests.browser.conftest import Meet, Place
from tests.browser.visits import Visit

#: The browser's own line for a refused request; what the page makes of it is what is tested.
REFUSED = re.compile(r"Failed to load resource: .* (409|412) ")


def drawn(visit: Visit, *places: tuple[int, int, int]) -> int:
    """A stroke through places of an axial slice. Returns how much of the liver there is then."""
    visit.page.locator("tr[data-label='liver'] .label-choose").click()
    visit.tool("b")
    visit.drag([visit.at("axial", voxel) for voxel in places])
    visit.wait_draft()
    return visit.voxels("liver")


def test_both_labels_are_kept_and_the_second_person_chooses(place: Place, meet: Meet) -> None:
    ada, bob = meet(place, "Ada"), meet(place, "Bob")
    ada.noticed.expected.append(REFUSED)
    ada.open("straight")
    hers = drawn(ada, (12, 15, 12), (18, 15, 12))
    bob.open("straight")
    assert bob.voxels("liver") == 0, "a draft is nobody else's"
    his = drawn(bob, (20, 20, 12), (30, 20, 12))
    assert his != hers
    bob.press("Control+Enter")
    bob.hear("submitted")

    ada.press("Control+Enter")
    meeting = ada.page.get_by_role("alertdialog")
    meeting.wait_for()
    assert "Bob submitted this image" in meeting.inner_text()
    assert ada.voxels("liver") == hers
    ada.page.screenshot(path=ada.artifact("meeting"))
    meeting.get_by_role("button", name="Submit yours on top").click()
    meeting.wait_for(state="detached")
    listed = place.server.http.get("/api/v1/images/straight/labels/final/revisions").json()["revisions"]
    assert [(r["author"], r["current"]) for r in listed] == [("Bob", False), ("Ada", True)]
    diff = place.server.http.get("/api/v1/images/straight/labels/final/diff").json()
    assert [(label["before"], label["after"]) for label in diff["labels"]] == [(his, hers)]


def test_going_on_with_theirs_keeps_ones_own_as_undo(place: Place, meet: Meet) -> None:
    ada, bob = meet(place, "Ada"), meet(place, "Bob")
    ada.noticed.expected.append(REFUSED)
    ada.open("flipped")
    hers = drawn(ada, (12, 15, 12), (18, 15, 12))
    bob.open("flipped")
    his = drawn(bob, (20, 20, 12), (30, 20, 12))
    bob.press("Control+Enter")
    bob.hear("submitted")
    ada.press("Control+Enter")
    ada.page.get_by_role("button", name="Go on with theirs").click()
    ada.wait_voxels("liver", his)
    ada.tool("b")
    ada.press("Control+z")
    ada.wait_voxels("liver", hers)


def test_two_windows_of_one_person_never_overwrite_a_draft(place: Place, meet: Meet) -> None:
    first, second = meet(place, "Eve"), meet(place, "Eve")
    second.noticed.expected.append(REFUSED)
    first.open("turned")
    second.open("turned")
    one = drawn(first, (12, 15, 12), (18, 15, 12))
    second.page.locator("tr[data-label='liver'] .label-choose").click()
    second.tool("b")
    second.drag([second.at("axial", voxel) for voxel in ((20, 20, 12), (26, 20, 12))])
    two = second.voxels("liver")
    dialog = second.page.get_by_role("dialog")
    dialog.get_by_text("Two windows draw on this image").wait_for()
    second.page.get_by_role("button", name="Show the other one here").click()
    second.wait_voxels("liver", one)
    second.tool("b")
    second.press("Control+z")
    second.wait_voxels("liver", two)


def test_somebody_who_has_an_image_is_named(place: Place, meet: Meet) -> None:
    ada, bob = meet(place, "Ada"), meet(place, "Bob")
    ada.press("n")
    ada.page.locator(".panes[data-state='ready']").wait_for()
    image = ada.page.locator(".panes").get_attribute("data-image")
    assert image is not None
    bob.page.reload()
    bob.open(image)
    bob.hear("Ada has this image now")
    assert "with Ada" in (bob.page.locator(f".image-row[data-image='{image}']").get_attribute("title") or "")

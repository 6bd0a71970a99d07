"""Labels whose values do not fit into the byte that the page keeps for a voxel: said, never lost or changed."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from labelserver.imaging.volumes import read_volume, write_volume
from tests.browser.conftest import Meet, Place

#: A label of the project that the page cannot draw, beside two that it can.
WIDE = {"name": "cyst", "value": 300, "color": [10, 200, 10]}


@pytest.fixture(scope="module", autouse=True)
def wide_schema(place: Place) -> None:
    """The project has a label of the value 300, and `flipped` holds some of it."""
    http = place.server.http
    schema = http.get("/api/v1/schema").json()
    liver = {"name": "liver", "value": 1}
    known = schema["labels"] or [liver, {"name": "spleen", "value": 2}]
    body = {"mode": schema["mode"], "labels": [*known, WIDE], "based_on": schema["version"]}
    answer = http.put("/api/v1/schema", json=body)
    assert answer.status_code == 200, answer.text
    source = read_volume(place.studies / "flipped.nii.gz")
    voxels = np.zeros(source.voxels.shape, np.uint16)
    voxels[10:14, 10:14, 10:14] = 300
    voxels[20:24, 20:24, 10:14] = 1
    file = place.labels / "flipped.nii.gz"
    write_volume(file, voxels, source.grid.affine, compress=True)
    info = {"label_info": [{"name": "liver", "idx": 1}, {"name": "cyst", "idx": 300}]}
    place.server.save_label("flipped", file, info)


def test_the_label_panel_names_what_cannot_be_drawn(place: Place, meet: Meet) -> None:
    visit = meet(place)
    note = visit.page.locator("[data-undrawable='1']")
    note.wait_for()
    assert "cyst" in note.inner_text()
    assert "254" in note.inner_text()
    assert visit.page.locator("tr[data-label='cyst']").count() == 0
    assert visit.page.locator("tr[data-label='liver']").count() == 1


def test_an_image_with_such_a_label_is_not_opened_and_its_file_stays(place: Place, meet: Meet) -> None:
    file = place.label("flipped")
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    visit = meet(place)
    visit.page.locator(".image-row[data-image='flipped']").click()
    visit.hear("values above 254")
    visit.page.locator(".panes[data-state='empty']").wait_for()
    assert visit.page.get_by_role("button", name=re.compile("^Submit")).is_disabled()
    visit.press("Control+Enter")
    visit.open("straight")  # the page goes on
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    assert set(np.unique(read_volume(file).voxels)) == {0, 1, 300}
    assert len(place.server.http.get("/api/v1/images/flipped/labels/final/revisions").json()["revisions"]) == 1


def test_the_others_are_drawn_and_the_project_keeps_its_wide_label(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.open("turned")
    visit.tool("b")
    visit.click("axial", (20, 20, 15))
    visit.press("Control+Enter")
    visit.hear("is submitted")
    assert set(np.unique(read_volume(place.label("turned")).voxels)) == {0, 1}
    assert WIDE["name"] in [label["name"] for label in place.server.http.get("/api/v1/schema").json()["labels"]]


def test_a_review_says_that_it_cannot_show_such_a_label_and_goes_on(place: Place, meet: Meet) -> None:
    visit = meet(place, "Reviewer")
    page = visit.page
    page.locator(".image-row").first.wait_for()
    page.get_by_role("link", name="Review").click()
    page.locator(".review-row[data-review='flipped']").click()
    told = page.locator("[data-unshown]")
    told.wait_for()
    assert "values above 254" in told.inner_text()
    page.get_by_label("second").select_option("0")  # nothing against nothing can be shown
    page.locator(".sides[data-state='ready']").wait_for()
    assert told.count() == 0
    page.get_by_label("second").select_option("1")
    told.wait_for()
    page.get_by_role("button", name="Approve").click()
    page.get_by_text("flipped is approved").wait_for()


def test_somebody_elses_wide_label_in_the_way_of_ones_own_is_kept(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.noticed.expected.append(re.compile("412"))
    visit.open("case_0")
    visit.tool("b")
    visit.page.locator("section[data-plane='axial'] .pane-view").click()
    visit.until("something drawn", lambda: visit.voxels("liver") > 0)
    source = read_volume(place.studies / "case_0.nii.gz")
    voxels = np.zeros(source.voxels.shape, np.uint16)
    voxels[2, 2, 2] = 300
    file = place.labels / "wide.nii.gz"
    write_volume(file, voxels, source.grid.affine, compress=True)
    place.server.save_label("case_0", file, {"label_info": [{"name": "cyst", "idx": 300}]})
    visit.press("Control+Enter")
    visit.hear("values above 254")
    assert set(np.unique(read_volume(place.label("case_0")).voxels)) == {0, 300}
    visit.wait_draft()
    assert visit.voxels("liver") > 0, "what was drawn stays, as a draft"

"""What is drawn is what the file holds: painted, undone, erased, submitted, for every way in which a scan can lie."""

from __future__ import annotations

import base64
import gzip
import re

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Route

from tests.browser.conftest import Meet, Place
from tests.browser.study import WAYS, stored_label
from tests.browser.visits import Visit

Voxel = tuple[int, int, int]


#: Keeps a copy of the map that the page sends; the browser does not show such bodies to its debugger.
KEEP_WHAT_IS_SENT = """() => {
    const real = window.fetch;
    window.fetch = (address, options) => {
        if (options?.method === "PUT" && String(address).includes("/labels/"))
            window.sentMap = options.body.get("voxels").arrayBuffer()
                .then((bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))));
        return real(address, options);
    };
}"""


def submitted(visit: Visit, dims: Voxel) -> NDArray[np.uint8]:
    """Submit by the key. Returns the label map as the page sent it, when nobody has turned an axis yet."""
    visit.page.evaluate(KEEP_WHAT_IS_SENT)
    visit.press("Control+Enter")
    visit.hear("is submitted")
    plain = gzip.decompress(base64.b64decode(visit.page.evaluate("() => window.sentMap")))
    return np.frombuffer(plain, np.uint8).reshape(dims, order="F")


@pytest.mark.parametrize("image", WAYS)
def test_the_file_equals_the_drawing_voxel_for_voxel(place: Place, meet: Meet, image: str) -> None:
    visit, body = meet(place), place.bodies[image]
    visit.open(image)
    visit.page.locator("tr[data-label='liver'] .label-choose").click()
    visit.tool("b")
    for _ in range(3):
        visit.press("]")
    visit.drag([visit.at("axial", voxel) for voxel in ((12, 15, 12), (18, 15, 12), (18, 21, 12))])
    one = visit.voxels("liver")
    assert one > 10
    visit.drag([visit.at("coronal", voxel) for voxel in ((20, 18, 8), (26, 18, 14))])
    two = visit.voxels("liver")
    assert two > one
    visit.press("Control+z")
    visit.wait_voxels("liver", one)
    visit.press("Control+Shift+z")
    visit.wait_voxels("liver", two)
    visit.page.locator("tr[data-label='spleen'] .label-choose").click()
    visit.drag([visit.at("sagittal", voxel) for voxel in ((30, 14, 16), (30, 20, 16))])
    assert visit.voxels("spleen") > 5
    visit.page.keyboard.down("Control")  # erases
    x, y = visit.at("axial", (15, 15, 12))
    visit.page.mouse.click(x, y)
    visit.page.keyboard.up("Control")
    assert visit.voxels("liver") < two
    counts = {name: visit.voxels(name) for name in ("liver", "spleen")}
    drawn = submitted(visit, body.dims)

    assert {name: int((drawn == value).sum()) for name, value in (("liver", 1), ("spleen", 2))} == counts
    assert drawn[18, 18, 12] == 1
    assert drawn[30, 17, 16] == 2
    assert drawn[15, 15, 12] == 0
    file = place.label(image)
    np.testing.assert_array_equal(stored_label(file, body), drawn)
    label, source = nib.load(file), nib.load(place.studies / f"{image}.nii.gz")
    assert label.shape == source.shape
    np.testing.assert_array_equal(label.affine, source.affine)
    answer = place.server.http.get(f"/api/v1/images/{image}/labels/final/revisions").json()["revisions"][-1]
    assert (answer["author"], answer["source"], answer["current"]) == (visit.person, "hand", True)
    visit.page.reload()
    visit.wait_ready(image)
    for name, count in counts.items():
        visit.wait_voxels(name, count)


def test_a_picture_is_drawn_on_and_becomes_a_picture(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.open("photo")
    assert visit.page.locator("section[data-plane]").count() == 1
    visit.page.locator("tr[data-label='liver'] .label-choose").click()
    visit.tool("b")
    pixel = visit.pixels(128, 96)
    visit.drag([pixel(45, 35), pixel(80, 35), pixel(80, 55)])
    drawn = submitted(visit, (128, 96, 1))
    assert drawn[60, 35, 0] == drawn[80, 45, 0] == 1
    stored = np.asarray(Image.open(place.label("photo", ext=".png")))
    np.testing.assert_array_equal(stored, drawn[:, :, 0].T)


def test_nothing_can_be_drawn_before_the_label_is_there(place: Place, meet: Meet) -> None:
    """What comes later would overwrite it, and a draft of it would never be saved."""
    place.save_cases()
    visit = meet(place)
    visit.goto()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    visit.page.route("**/labels/final/box*", hold)
    visit.page.locator(".image-row[data-image='case_0']").click()
    visit.until("the question for the label", lambda: visit.page.wait_for_timeout(20) or held)
    panes = visit.page.locator(".panes[data-image='case_0']")
    panes.wait_for()
    visit.tool("b")
    visit.page.locator("section[data-plane='axial'] .pane-view").click()
    visit.hear("still on its way")
    assert panes.get_attribute("data-state") == "loading"
    assert visit.page.get_by_role("button", name=re.compile("^Submit")).is_disabled()
    assert visit.voxels("liver") == 0
    for route in held:
        route.continue_()
    visit.page.unroute("**/labels/final/box*", hold)
    visit.wait_ready("case_0")
    assert visit.voxels("liver") > 0
    before = visit.voxels("spleen")
    visit.page.locator("tr[data-label='spleen'] .label-choose").click()
    visit.page.locator("section[data-plane='axial'] .pane-view").click()
    visit.until("the brush's work", lambda: visit.page.wait_for_timeout(20) or visit.voxels("spleen") > before)
    visit.wait_draft()

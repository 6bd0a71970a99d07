"""Labels of a part of the image: corrected without a claim about the rest, complete when somebody says so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelserver.imaging.volumes import read_volume, write_volume
from tests.browser.conftest import Meet, Place

LABELS = {"mode": "open", "labels": [{"name": "liver", "value": 1}, {"name": "spleen", "value": 2}]}


@pytest.fixture(scope="module", autouse=True)
def named(place: Place) -> None:
    schema = place.server.http.get("/api/v1/schema").json()
    answer = place.server.http.put("/api/v1/schema", json={**LABELS, "based_on": schema["version"]})
    assert answer.status_code == 200, answer.text


def put_part(place: Place, folder: Path, image: str, annotated: dict[str, Any], **headers: str) -> dict[str, Any]:
    """Somebody labels a part: the liver is a box."""
    grid = read_volume(place.studies / f"{image}.nii.gz").grid
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[10:14, 10:14, 10:14] = 1
    write_volume(folder / "l.nii.gz", voxels, grid.affine, compress=True)
    with (folder / "l.nii.gz").open("rb") as file:
        answer = place.server.http.put(
            f"/api/v1/images/{image}/labels/final",
            data={"annotated": json.dumps(annotated)},
            files={"label": ("l.nii.gz", file)},
            headers=headers,
        )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def newest(place: Place, image: str) -> dict[str, Any]:
    return dict(place.server.http.get(f"/api/v1/images/{image}/labels/final/revisions").json()["revisions"][-1])


def test_a_correction_claims_nothing_about_the_rest_until_somebody_says_so(
    place: Place, meet: Meet, tmp_path: Path
) -> None:
    slices = {"kind": "slices", "axis": 2, "slices": [10, 11, 12, 13]}
    put_part(place, tmp_path, "straight", {"labels": ["liver"], "region": slices})
    visit = meet(place)
    visit.open("straight")
    note = visit.page.locator("[data-looked-at='part']")
    note.wait_for()
    assert "liver, in a part of the image" in note.inner_text()
    before = visit.voxels("liver")
    visit.page.locator("tr[data-label='liver'] .label-choose").click()
    visit.tool("b")
    visit.click("axial", (20, 20, 20))
    visit.until("a stamp", lambda: visit.voxels("liver") > before)
    stamp = visit.voxels("liver") - before
    visit.press("Control+Enter")
    visit.hear("submitted as revision 2")
    told = newest(place, "straight")["annotated"]
    shape = place.bodies["straight"].hu.shape
    assert told["labels"] == ["liver"]
    assert (told["region"]["kind"], told["region"]["voxels"]) == ("mask", 4 * shape[0] * shape[1] + stamp)

    note.get_by_text("I have looked at everything").click()
    visit.press("Control+Enter")
    visit.hear("submitted as revision 3")
    assert newest(place, "straight")["annotated"] == {"labels": None, "region": {"kind": "whole"}}
    note.wait_for(state="detached")


def test_who_draws_other_labels_of_the_same_image_puts_them_into_what_is_there(
    place: Place, meet: Meet, tmp_path: Path
) -> None:
    http = place.server.http
    rules = http.get("/api/v1/queue/rules").json()
    groups = [{"name": n, "images": ["flipped"], "labels": [n], "roles": []} for n in ("liver", "spleen")]
    members = [{"person": p, "roles": [], "groups": [g]} for p, g in (("Ada", "liver"), ("Bob", "spleen"))]
    told = {**rules, "groups": groups, "members": members, "overlap_share": 0.0}
    answer = http.put("/api/v1/queue/rules", json={key: value for key, value in told.items() if key != "version"})
    assert answer.status_code == 200, answer.text

    bob = meet(place, "Bob", path=None)
    bob.noticed.expected.append(re.compile("412"))
    bob.goto(strategy="part")
    (place.app / "part.json").write_text(json.dumps({"id": "flipped", "why": "Yours."}))
    bob.page.locator(".image-row").first.wait_for()
    bob.press("n")
    bob.wait_ready("flipped")
    assert "Draw here: spleen" in bob.page.locator(".next-box").inner_text()
    bob.page.locator("tr[data-label='spleen'] .label-choose").click()
    bob.tool("b")
    bob.click("axial", (24, 20, 20))
    bob.until("a stamp", lambda: bob.voxels("spleen") > 0)
    spleen = bob.voxels("spleen")
    hers = put_part(place, tmp_path, "flipped", {"labels": ["liver"]}, **{"X-Labelserver-Person": "Ada"})
    bob.press("Control+Enter")
    bob.page.get_by_role("button", name="Put yours into theirs").click()
    bob.hear("is submitted as revision 2")
    made = newest(place, "flipped")
    assert made["annotated"] == {"labels": ["liver", "spleen"], "region": {"kind": "whole"}}
    assert (made["author"], made["parent"]) == ("Bob", hers["number"])
    counts = np.bincount(read_volume(place.label("flipped")).voxels.astype(np.uint8).ravel(), minlength=3)
    assert counts[1:].tolist() == [64, spleen]

"""What becomes of an image: skipped, flagged, reviewed."""

from __future__ import annotations

import json

import numpy as np

from tests.browser.conftest import Meet, Place
from tests.browser.screens import pixels_of
from tests.browser.study import WAYS
from tests.browser.visits import Visit


def _opened(visit: Visit) -> str:
    visit.page.locator(".panes[data-state='ready']").wait_for()
    return visit.page.locator(".panes").get_attribute("data-image") or ""


def _answer(visit: Visit, button: str, reason: str) -> None:
    visit.page.get_by_role("button", name=button, exact=True).click()
    visit.page.get_by_text(reason).click()
    visit.page.locator("dialog button.primary").click()


def test_an_image_is_skipped_with_a_reason_and_another_comes(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.page.locator(".image-row").first.wait_for()
    visit.press("n")
    first = _opened(visit)
    _answer(visit, "Skip", "image quality")
    visit.until("another image", lambda: _opened(visit) != first)


def test_the_part_that_a_strategy_asks_for_is_framed(place: Place, meet: Meet) -> None:
    records = {name: place.server.http.get(f"/api/v1/images/{name}").json() for name in reversed(WAYS)}
    image = next(name for name, record in records.items() if record["work"]["stage"] == "unlabeled")
    body = place.bodies[image]
    low, high = (12, 14, 9), (24, 22, 15)
    asked = np.zeros(body.dims, np.uint8)
    asked[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    found = np.argwhere(body.stored.apply(asked))
    box = [found.min(axis=0).tolist(), (found.max(axis=0) + 1).tolist()]
    told = {"id": image, "why": "It is unsure here.", "roi": {"kind": "boxes", "boxes": [box]}}
    (place.app / "part.json").write_text(json.dumps(told))

    visit = meet(place, path=None)
    visit.goto(strategy="part")
    visit.page.locator(".image-row").first.wait_for()
    visit.press("n")
    visit.wait_ready(image)
    assert "It is unsure here. What is framed would do." in visit.page.locator("[data-reason]").inner_text()
    visit.page.evaluate("document.querySelectorAll('.letter').forEach((letter) => { letter.style.opacity = 0; })")
    for axis, plane in enumerate(("sagittal", "coronal", "axial")):
        section = visit.page.locator(f"section[data-plane='{plane}']")
        middle = (low[axis] + high[axis] - 1) // 2
        assert section.locator(".slice-number").inner_text().startswith(f"{middle + 1}/"), "it begins in the part"
        left, top, right, bottom = _frame(visit, plane)
        inside = [visit.at(plane, corner) for corner in (_on(low, 0, axis, middle), _on(high, -1, axis, middle))]
        xs, ys = zip(*inside, strict=True)
        u, v = (n for n in range(3) if n != axis)
        per_u = (max(xs) - min(xs)) / (high[u] - low[u] - 1)
        per_v = (max(ys) - min(ys)) / (high[v] - low[v] - 1)
        wanted = (min(xs) - per_u / 2, min(ys) - per_v / 2, max(xs) + per_u / 2, max(ys) + per_v / 2)
        np.testing.assert_allclose((left, top, right, bottom), wanted, atol=4)
        section.locator("input.slice").fill(str(high[axis] + 1))
        visit.until("no frame beyond the part", lambda p=plane: _frame(visit, p) is None)
        section.locator("input.slice").fill(str(middle + 1))


def _on(corner: tuple[int, int, int], by: int, axis: int, middle: int) -> tuple[int, int, int]:
    x, y, z = (middle if n == axis else value + by for n, value in enumerate(corner))
    return (x, y, z)


def _frame(visit: Visit, plane: str) -> tuple[float, float, float, float] | None:
    """Where the middle of the frame's line lies on the screen: left, top, right, bottom."""
    visit.page.mouse.move(5, 300)
    shown = pixels_of(visit.page, plane).astype(int)
    orange = np.argwhere(np.abs(shown - (255, 159, 67)).max(axis=2) < 40)
    if len(orange) == 0:
        return None
    box = visit.page.locator(f"section[data-plane='{plane}'] canvas").bounding_box()
    assert box is not None
    (top, left), (bottom, right) = orange.min(axis=0), orange.max(axis=0) + 1
    return (box["x"] + left, box["y"] + top, box["x"] + right, box["y"] + bottom)


def test_the_list_is_sorted_by_the_scores_that_images_have(place: Place, meet: Meet) -> None:
    scores = {"case_2": 0.2, "straight": 0.9, "case_5": 0.5}
    for image, score in scores.items():
        info = json.dumps({"unlike_the_others": score, "looked_at_ts": 1.0})
        answer = place.server.http.put("/datastore/image/info", params={"image": image}, data={"info": info})
        assert answer.status_code == 200, answer.text
    visit = meet(place)
    rows = visit.page.locator(".image-row")
    rows.first.wait_for()
    order = visit.page.get_by_label("In which order")
    visit.until("the scores", lambda: order.locator("option").all_inner_texts() == ["by name", "unlike the others"])
    order.select_option(label="unlike the others")
    visit.until("three images", lambda: rows.count() == 3)
    assert [row.get_attribute("data-image") for row in rows.all()] == ["straight", "case_5", "case_2"]
    assert rows.first.locator(".score").inner_text() == "0.90"
    order.select_option(label="by name")
    visit.until("all images", lambda: rows.count() > 3)


def test_a_flag_shows_in_the_list_and_is_taken_back(place: Place, meet: Meet) -> None:
    visit = meet(place)
    visit.open("photo")
    _answer(visit, "Flag", "artefacts")
    flagged = visit.page.locator(".image-row[data-image='photo'][data-row-state='flagged']")
    flagged.wait_for()
    assert "artefacts" in flagged.inner_text()
    visit.page.locator(".toast button", has_text="Undo").click()
    flagged.wait_for(state="detached")


def test_a_label_is_returned_with_a_comment_and_another_one_approved(place: Place, meet: Meet) -> None:
    place.save_cases()
    visit = meet(place, "Reviewer")
    page = visit.page
    page.locator(".image-row").first.wait_for()
    page.get_by_role("link", name="Review").click()
    page.locator(".review-row[data-review='case_0']").click()
    page.locator(".sides[data-state='ready']").wait_for()
    assert page.locator("tr[data-difference='liver']").count() == 1, "the label against nothing"
    back = page.get_by_role("button", name="Return")
    assert back.is_disabled(), "a return needs a comment"
    page.get_by_label("Comment for the annotator").fill("The left lobe is missing")
    back.click()
    page.get_by_text("case_0 goes back to").wait_for()
    page.locator(".review-row[data-review='case_0']").wait_for(state="detached")

    page.locator(".review-row[data-review='case_1']").click()
    page.locator(".review-bar h2", has_text="case_1").wait_for()
    page.locator(".sides[data-state='ready']").wait_for()
    page.get_by_role("button", name="Approve").click()
    page.get_by_text("case_1 is approved").wait_for()
    page.get_by_label("state").select_option("returned")
    returned = page.locator(".review-row[data-review='case_0']")
    returned.wait_for()
    assert "The left lobe is missing" in returned.inner_text()
    page.get_by_label("state").select_option("approved")
    page.locator(".review-row[data-review='case_1']").wait_for()


def test_the_review_shows_one_persons_labels_alone(place: Place, meet: Meet) -> None:
    for person, image in (("Ida", "straight"), ("Jon", "flipped")):
        visit = meet(place, person)
        visit.open(image)
        visit.tool("b")
        visit.click("axial", (20, 20, 15))
        visit.press("Control+Enter")
        visit.hear("is submitted")
    reviewer = meet(place, "Reviewer")
    page = reviewer.page
    page.get_by_role("link", name="Review").click()
    for image in ("straight", "flipped"):
        page.locator(f".review-row[data-review='{image}']").wait_for()
    everybody = page.locator(".review-row").count()
    person = page.get_by_role("combobox", name="by", exact=True)
    for name, image, other in (("Ida", "straight", "flipped"), ("Jon", "flipped", "straight")):
        person.select_option(name)
        page.locator(f".review-row[data-review='{other}']").wait_for(state="detached")
        rows = page.locator(".review-row")
        assert [row.get_attribute("data-review") for row in rows.all()] == [image]
        assert name in rows.first.inner_text()
    person.select_option(label="everybody")
    reviewer.until("everybody's labels", lambda: page.locator(".review-row").count() == everybody)

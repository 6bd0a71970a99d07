"""``/api/v1/images``: pages for people who have a hundred thousand images."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelserver.bootstrap import StoreInUse
from tests.api.conftest import World, label_bytes, nifti


@pytest.fixture
def filled(world: World, tmp_path: Path) -> World:
    """ct_1 has a final label; ct_1, ct_2 and ct_3 have a score, ct_4 has none."""
    for name in ("ct_3", "ct_4"):
        nifti(world.roots.studies / f"{name}.nii.gz")
    world.store.refresh()
    for name, score in (("ct_1", 0.2), ("ct_2", 0.9), ("ct_3", 0.5)):
        world.store.update_image_info(name, {"epistemic_entropy": score})
    saved = world.http.put(
        "/datastore/label", params={"image": "ct_1"}, files={"label": ("ct_1.nii.gz", label_bytes(tmp_path))}
    )
    assert saved.status_code == 200, saved.text
    return world


def ids(world: World, **params: object) -> list[str]:
    """All pages of a list."""
    found: list[str] = []
    while True:
        answer = world.http.get("/api/v1/images", params=params)
        assert answer.status_code == 200, answer.text
        document = answer.json()
        found += [image["id"] for image in document["images"]]
        if document["next"] is None:
            return found
        params = {**params, "after": document["next"]}


def test_images_come_in_pages_by_id(filled: World) -> None:
    first = filled.http.get("/api/v1/images", params={"limit": 3}).json()
    assert [image["id"] for image in first["images"]] == ["ct_1", "ct_2", "ct_3"]
    record = first["images"][0]
    assert record.pop("work")["stage"] == "submitted"
    assert (record.pop("side"), len(record.pop("subject")), record.pop("duplicate_of")) == ("training", 32, "")
    assert record == {
        "id": "ct_1",
        "kind": "volume",
        "path": "ct_1.nii.gz",
        "name": "ct_1.nii.gz",
        "labels": ["final"],
        "score": None,
    }
    second = filled.http.get("/api/v1/images", params={"limit": 3, "after": first["next"]}).json()
    assert ([image["id"] for image in second["images"]], second["next"]) == (["ct_4"], None)


def test_images_are_filtered_by_state_and_tag_and_sorted_by_score(filled: World) -> None:
    assert ids(filled, state="labeled", limit=1) == ["ct_1"]
    assert ids(filled, state="unlabeled", limit=1) == ["ct_2", "ct_3", "ct_4"]
    assert ids(filled, state="labeled", tag="original") == []
    assert ids(filled, sort="epistemic_entropy", limit=1) == ["ct_2", "ct_3", "ct_1"]
    assert ids(filled, sort="epistemic_entropy", lowest_first=True, state="unlabeled", limit=1) == ["ct_3", "ct_2"]
    scored = filled.http.get("/api/v1/images", params={"sort": "epistemic_entropy", "limit": 1}).json()
    assert scored["images"][0]["score"] == 0.9


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 1001},
        {"state": "odd"},
        {"sort": ""},
        {"tag": "../x"},
        {"offset": 5},
        {"sort": "epistemic_entropy", "after": "ct_1"},
    ],
)
def test_bad_questions_are_answered_with_a_problem(filled: World, params: dict[str, object]) -> None:
    answer = filled.http.get("/api/v1/images", params=params)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_store_without_pages_says_so(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoreInUse, "current", lambda self: object())
    answer = filled.http.get("/api/v1/images")
    assert answer.status_code == 501
    assert "output=all" in answer.json()["detail"]


def test_an_image_tells_its_side_in_the_list_and_in_its_record(world: World) -> None:
    """The images of this store hold the same voxels, so they are one case under two names."""
    listed = {image["id"]: image for image in world.http.get("/api/v1/images").json()["images"]}
    assert {image["side"] for image in listed.values()} == {"training"}
    assert (listed["ct_1"]["duplicate_of"], listed["ct_2"]["duplicate_of"]) == ("", "ct_1")
    record = world.http.get("/api/v1/images/ct_2").json()
    assert record == listed["ct_2"]
    unknown = world.http.get("/api/v1/images/no/such image")
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/problem+json")

"""Agreement and consensus over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.api.conftest import SHAPE, World, nifti
from tests.api.test_queue_routes import ask, rules

TRUTH = np.zeros(SHAPE, np.uint8)
TRUTH[1:4, 1:4, 1:3] = 1


def save(world: World, person: str, voxels: NDArray[np.uint8], tmp_path: Path) -> None:
    answer = world.http.put(
        "/api/v1/images/ct_1/labels/final",
        files={"label": ("l.nii.gz", nifti(tmp_path / "l.nii.gz", voxels).read_bytes())},
        headers={"X-Labelserver-Person": person},
    )
    assert answer.status_code == 200, answer.text


def get(world: World, person: str, what: str = "agreement") -> httpx.Response:
    return world.http.get(f"/api/v1/images/ct_1/{what}", headers={"X-Labelserver-Person": person})


def consensus(world: World, person: str, **asked: Any) -> httpx.Response:
    return world.http.post("/api/v1/images/ct_1/consensus", json=asked, headers={"X-Labelserver-Person": person})


@pytest.fixture
def read(world: World, tmp_path: Path) -> World:
    """Three readers, one of whom sees a voxel too many and one of whom misses one."""
    rules(world, overlap_share=1, overlap_readers=3)
    for person in ("anna", "bea", "carl"):
        assert ask(world, person, strategy="first")["image"]["id"] == "ct_1"
    more, less = TRUTH.copy(), TRUTH.copy()
    more[5, 4, 3] = 1
    less[1, 1, 1] = 0
    for person, voxels in (("anna", TRUTH), ("bea", more), ("carl", less)):
        save(world, person, voxels, tmp_path)
    return world


def test_readers_are_compared(read: World) -> None:
    document = get(read, "anna").json()
    assert [(r["tag"], r["person"]) for r in document["readers"]] == [
        ("reader_1", "anna"),
        ("reader_2", "bea"),
        ("reader_3", "carl"),
    ]
    (label,) = document["labels"]
    pairs = {(p["first"], p["second"]): p["dice"] for p in label["pairs"]}
    assert pairs["reader_1", "reader_2"] == pytest.approx(2 * 18 / (18 + 19))
    assert pairs["reader_1", "reader_3"] == pytest.approx(2 * 17 / (18 + 17))
    assert document["differing"] == pytest.approx(2 / 19)
    assert sorted(s["center"] for s in document["spots"]) == [[1, 1, 1], [5, 4, 3]]


def test_the_map_shows_where_they_differ(read: World, tmp_path: Path) -> None:
    file = tmp_path / "map.nii.gz"
    file.write_bytes(get(read, "anna", "agreement/map").content)
    percent = np.asarray(nib.load(file).dataobj)
    assert percent.shape == SHAPE
    assert np.argwhere(percent).tolist() == [[1, 1, 1], [5, 4, 3]]
    assert percent.max() == 33
    assert read.spool_is_empty()


@pytest.mark.parametrize("method", ["majority", "staple"])
def test_consensus_becomes_the_final_label(read: World, tmp_path: Path, method: str) -> None:
    made = consensus(read, "rita", method=method).json()
    assert (made["tag"], made["source"], made["author"]) == ("final", "consensus", "rita")
    assert made["info"]["readings"] == {"reader_1": 1, "reader_2": 1, "reader_3": 1}
    file = tmp_path / "final.nii.gz"
    file.write_bytes(get(read, "rita", "labels/final").content)
    assert np.array_equal(np.asarray(nib.load(file).dataobj), TRUTH)
    assert read.store.image_page  # the store still answers
    assert read.http.get("/api/v1/images/ct_1").json()["work"]["stage"] == "submitted"
    assert [Path(c["image"]).name for c in read.store.datalist()] == ["ct_1.nii.gz"]
    assert read.spool_is_empty()


def test_one_reading_can_be_the_right_one(read: World) -> None:
    made = consensus(read, "rita", method="reader", tag="reader_2").json()
    assert made["info"]["reading"] == "reader_2"
    assert consensus(read, "rita", method="reader").status_code == 422
    assert consensus(read, "rita", method="reader", tag="reader_7").status_code == 404


def test_agreement_is_as_blind_as_the_labels(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=1, overlap_readers=3)
    for person in ("anna", "bea", "carl"):
        ask(world, person, strategy="first")
    for person in ("anna", "bea"):
        save(world, person, TRUTH, tmp_path)
    for what in ("agreement", "agreement/map"):
        assert get(world, "carl", what).status_code == 403
        assert get(world, "other", what).status_code == 403
    assert consensus(world, "carl").status_code == 403
    waits = consensus(world, "anna")
    assert (waits.status_code, waits.json()["code"]) == (409, "Conflict")
    save(world, "carl", TRUTH, tmp_path)
    assert get(world, "carl").status_code == 200


def test_an_image_without_readings_says_so(world: World) -> None:
    assert get(world, "anna").status_code == 404
    assert "overlap_share" in get(world, "anna").json()["detail"]
    assert world.http.get("/api/v1/images/none/agreement").status_code == 404


def test_only_reviewers_decide_where_there_are_any(read: World) -> None:
    rules(read, members=[{"person": "rita", "roles": ["reviewer"]}])
    assert consensus(read, "anna").status_code == 403
    assert consensus(read, "rita").status_code == 200

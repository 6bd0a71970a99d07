"""The example app of the peer's documentation, and an unmodified app in its style, served and driven through HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.support.live_server import LiveServer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
APPS = Path(__file__).parents[1] / "apps"
AFFINE = np.diag([-3.0, -3.0, 4.0, 1.0])


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Four small CT-like volumes, LPS, int32; three have an accepted label."""
    folder = tmp_path / "studies"
    (folder / "labels" / "final").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        mask = np.zeros((40, 36, 30), np.uint8)
        mask[10:25, 8:20, 6:18] = 1
        voxels = (rng.normal(0, 30, mask.shape) + 100 * mask).astype(np.int32)
        nib.save(nib.Nifti1Image(voxels, AFFINE), folder / f"i{number}.nii.gz")
        if number < 3:
            nib.save(nib.Nifti1Image(mask, AFFINE), folder / "labels" / "final" / f"i{number}.nii.gz")
    return folder


def served(name: str, tmp_path: Path, studies: Path) -> LiveServer:
    shutil.copytree(APPS / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return LiveServer(tmp_path / name, studies, LABELSERVER_AUTO_UPDATE_SCORING="false")


@pytest.fixture
def example(tmp_path: Path, studies: Path) -> Iterator[LiveServer]:
    with served("example_app", tmp_path, studies) as server:
        yield server


@pytest.fixture
def peer_style(tmp_path: Path, studies: Path) -> Iterator[LiveServer]:
    with served("peer_app", tmp_path, studies) as server:
        yield server


def mask_of(server: LiveServer, model: str, tmp_path: Path, **params: Any) -> Any:
    answer = server.http.post(
        f"/infer/{model}", params={"image": "i3", "output": "image"}, data={"params": json.dumps(params)}
    )
    assert answer.status_code == 200, answer.text
    (tmp_path / "answer.nii.gz").write_bytes(answer.content)
    mask = nib.load(tmp_path / "answer.nii.gz")
    assert mask.shape == (40, 36, 30)
    assert np.array_equal(mask.affine, AFFINE)
    return mask


def finished(server: LiveServer, route: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        record: dict[str, Any] = server.http.get(route).json()
        return record if record.get("status") in ("DONE", "ERROR") else None

    record: dict[str, Any] = wait_until(f"the end of {route}", ended, 120)
    assert record["status"] == "DONE", record
    return record


def test_the_example_app_goes_once_around_the_loop(example: LiveServer, tmp_path: Path) -> None:
    info = example.http.get("/info/").json()
    assert list(info["models"]) == list(info["trainers"]) == ["segmentation"]
    assert "my_strategy" in info["strategies"]
    mask_of(example, "segmentation", tmp_path)

    assert example.http.post("/scoring/my_scoring", json={}).status_code == 200
    finished(example, "/scoring/")
    score = example.http.get("/datastore/image/info", params={"image": "i3"}).json()["my_score"]
    assert {"score", "model_ts", "ts"} <= set(score)
    assert example.http.post("/activelearning/my_strategy", json={}).json()["id"] == "i3"

    before = example.http.get("/model/info/segmentation").json()["checksum"]
    answer = example.http.post("/train/segmentation", json={"max_epochs": 1, "name": "once"})
    assert answer.status_code == 200, answer.text
    finished(example, "/train/")
    wait_until("publishing", lambda: example.http.get("/model/info/segmentation").json()["checksum"] != before)
    mask_of(example, "segmentation", tmp_path)


def test_an_unmodified_peer_app_infers_by_window_and_by_click_and_trains(
    peer_style: LiveServer, tmp_path: Path
) -> None:
    models = peer_style.http.get("/info/").json()["models"]
    assert {name: model["type"] for name, model in models.items()} == {
        "deepedit": "deepedit",
        "deepedit_seg": "segmentation",
        "segmentation": "segmentation",
    }
    mask_of(peer_style, "segmentation", tmp_path, largest_cc=True)
    clicks = {"organ": [[12, 10, 8]], "left kidney": [], "background": [[1, 1, 1]], "label": "organ"}
    mask_of(peer_style, "deepedit", tmp_path, **clicks)

    answer = peer_style.http.post("/train/segmentation", json={"max_epochs": 1, "name": "once"})
    assert answer.status_code == 200, answer.text
    finished(peer_style, "/train/")
    finalized = tmp_path / "peer_app" / "model" / "segmentation" / "once" / "finalized.txt"
    assert finalized.read_text().endswith("True")
    mask_of(peer_style, "segmentation", tmp_path)

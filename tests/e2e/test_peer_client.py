"""The published client of MONAI Label, unmodified, in an environment of its own, against a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
CLIENT = "monailabel==0.8.5"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
ENVIRONMENT = HERE.parents[1] / "workspace" / "test-envs" / f"peer-client-{VERSION}"


@pytest.fixture(scope="module")
def peer_python() -> Path:
    """The interpreter of an environment with the client's module and what it imports; kept between runs."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "complete").exists():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, "--no-deps", CLIENT], check=True, capture_output=True)
        further = ["requests"] + (["legacy-cgi"] if sys.version_info >= (3, 13) else [])  # the client imports cgi
        subprocess.run([*install, *further], check=True, capture_output=True)
        (ENVIRONMENT / "complete").touch()
    return python


@pytest.fixture(scope="module")
def seen(peer_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client saw, and the folder in which it worked."""
    folder = tmp_path_factory.mktemp("peer")
    app, studies, work = folder / "app", folder / "studies", folder / "work"
    shutil.copytree(HERE.parent / "apps" / "rest_app", app)
    studies.mkdir()
    work.mkdir()
    voxels = np.arange(8 * 7 * 6, dtype=np.int16).reshape(8, 7, 6)
    image = nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
    for name in ("a_first", "b_second"):
        nib.save(image, studies / f"{name}.nii.gz")
    nib.save(image, work / "upload.nii.gz")
    label = nib.Nifti1Image((voxels > 50).astype(np.uint8) + np.uint8(1), image.affine)
    nib.save(label, work / "label.nii.gz")
    with LiveServer(app, studies) as server:
        arguments = [server.url, str(work / "upload.nii.gz"), str(work / "label.nii.gz"), str(work)]
        command = [str(peer_python), str(HERE / "peer_client" / "drive.py"), *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert ran.returncode == 0, f"{ran.stderr}\n--- server ---\n{server.log_tail()}"
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def test_it_reads_info(seen: dict[str, Any]) -> None:
    info = seen["info"]
    assert seen["auth"] is False
    assert info["name"] == "Rest app"
    assert info["models"]["threshold"]["labels"] == {"dark": 1, "bright": 2}
    assert info["labels"] == ["dark", "bright"]
    assert set(info["strategies"]) == {"random", "first", "brightest"}


def test_it_uploads_an_image_and_gets_the_next_sample(seen: dict[str, Any]) -> None:
    assert seen["uploaded"] == {"image": "new image"}
    sample = seen["sample"]
    assert (sample["id"], sample["name"]) == ("a_first", "a_first.nii.gz")
    assert Path(sample["path"]).name == "a_first.nii.gz"
    info = seen["datastore"]["objects"]["new image"]["image"]["info"]
    assert (info["ward"], info["client_id"], info["user"]) == ("7", "peer-client", "peer-client")


def test_it_makes_uses_and_removes_a_session(seen: dict[str, Any]) -> None:
    assert seen["session"]["name"] == seen["removed"]["name"]
    assert "404" in seen["session_after_removal"]


@pytest.mark.parametrize(("way", "ext"), [("by_image", ".nrrd"), ("by_session", ".nii.gz"), ("by_file", ".nii.gz")])
def test_it_infers_by_image_session_and_file(seen: dict[str, Any], way: str, ext: str) -> None:
    answer = seen[way]
    assert answer["name"].endswith(ext)
    assert answer["params"]["label_names"] == {"dark": 1, "bright": 2}
    if way == "by_image":
        assert answer["head"].startswith("NRRD000")
    else:
        assert answer["size"] == 352 + 8 * 7 * 6


def test_it_saves_labels_with_info_and_tag(seen: dict[str, Any]) -> None:
    expected = {"image": "new image", "label": "new image", "seen_by_app": "new image/new image"}
    assert seen["saved"] == seen["saved_final"] == expected
    labels = seen["datastore"]["objects"]["new image"]["labels"]
    assert list(labels) == ["version_1", "final"]
    assert labels["version_1"]["info"]["label_info"][1] == {"name": "bright", "idx": 2}
    assert seen["downloaded"]["same"]
    assert seen["downloaded"]["name"].endswith(".nii.gz")


def test_it_starts_watches_and_stops_a_training(seen: dict[str, Any]) -> None:
    assert seen["running_before"] is False
    assert seen["train"]["request"]["model"] == "counting"
    assert seen["train_status"]["status"] == "RUNNING"
    assert seen["train_status"]["details"]
    stats = seen["train_stats"]["counting"]
    assert stats["epoch"] > 0
    assert stats["total_epochs"] == 100000
    assert seen["train_stop"]["id"] == seen["train"]["id"]
    assert seen["train_stop"]["details"]
    assert seen["train_ended"]["status"] == "STOPPED"
    assert seen["train_stop_idle"] is None
    assert seen["train_all"]["counting"]["result"]["id"]


def test_its_mistakes_are_told_in_a_sentence(seen: dict[str, Any]) -> None:
    assert "404" in seen["unknown_model"]
    assert "There is no model named" in seen["unknown_model"]

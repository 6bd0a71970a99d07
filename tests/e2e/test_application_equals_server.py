"""What an exported application and its package answer is what the server answers, voxel for voxel.

On a made-up study and on a real CT series (JPEG 2000, files out of order, SliceThickness unlike the spacing): DICOM
goes in, the segmentation is read back by a reader that shares no code with the writer and laid onto the server's
answer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from labelserver.app.loading import load_app
from labelserver.phantoms import make_phantom
from tests.support.dicom_studies import write_series
from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

APP = Path(__file__).parents[2] / "apps" / "radiology"
THREADS = "2"
CONF = {"models": "segmentation"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The radiology app with an untrained network, whose answer is different everywhere."""
    folder = tmp_path_factory.mktemp("app") / "radiology"
    shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("__pycache__", "versions", "jobs", "logs"))
    (folder / "model").mkdir(exist_ok=True)
    loaded = load_app(folder, str(tmp_path_factory.mktemp("nothing")), CONF)
    network = loaded.tasks()["models"]["segmentation"].network
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    torch.save(network.state_dict(), folder / "model" / "pretrained_segmentation.pt")
    return folder


@pytest.fixture(scope="module")
def taken_out(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("export") / "out"
    words = ["export", "--app", str(app), "--conf", "models", "segmentation", "--model", "segmentation"]
    command = [sys.executable, "-m", "labelserver.cli.main", *words, "--output", str(output), "--modality", "CT"]
    done = run([*command, "--verify"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "app: identical in all" in done.stdout
    assert "map: identical in all" in done.stdout
    return output


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``phantom``: a made-up CT as a DICOM series; ``real`` if there is the real one."""
    folder = tmp_path_factory.mktemp("studies")
    case = make_phantom(1)
    voxels = case.voxels.astype(np.int32)
    spacing = np.linalg.norm(case.affine[:3, :3], axis=0).tolist()
    write_series(folder / "phantom", voxels, spacing=spacing, PixelRepresentation=1, descending=True)
    real = Path(os.environ.get("LABELSERVER_TEST_DATA", "")) / "ct-dicom" / "series"
    if os.environ.get("LABELSERVER_TEST_DATA") and real.is_dir():
        shutil.copytree(real, folder / "real")
    return folder


@pytest.fixture(scope="module")
def server(app: Path, studies: Path) -> Iterator[LiveServer]:
    variables = {"LABELSERVER_AUTO_UPDATE_SCORING": "false", "OMP_NUM_THREADS": THREADS}
    with LiveServer(app, studies, conf=CONF, **variables) as running:
        yield running


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": THREADS, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)


def by_place(segmentation: Dataset) -> dict[tuple[float, ...], NDArray[np.uint8]]:
    """ImagePositionPatient -> (rows, columns) of segment numbers, by pydicom alone."""
    pixels = segmentation.pixel_array
    found: dict[tuple[float, ...], NDArray[np.uint8]] = {}
    for number, groups in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        place = tuple(round(float(v), 3) for v in groups.PlanePositionSequence[0].ImagePositionPatient)
        plane = found.setdefault(place, np.zeros(pixels.shape[1:], np.uint8))
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert not plane[pixels[number] > 0].any()
        plane[pixels[number] > 0] = segment
    return found


@pytest.mark.parametrize("study", ["phantom", "real"])
def test_dicom_in_and_segmentation_out_equal_infer(
    study: str, server: LiveServer, taken_out: Path, studies: Path, tmp_path: Path
) -> None:
    if not (studies / study).is_dir():
        pytest.skip("LABELSERVER_TEST_DATA does not name a folder with the real images")
    names = [image for image in images(server) if image.startswith(study)]
    assert len(names) == 1, images(server)
    answer = server.http.post("/infer/segmentation", params={"image": names[0], "output": "image"}, timeout=600)
    assert answer.status_code == 200, answer.text
    (tmp_path / "server.nii.gz").write_bytes(answer.content)
    theirs = nib.load(tmp_path / "server.nii.gz")
    wanted = np.asarray(theirs.dataobj)
    assert len(np.unique(wanted)) > 2
    done = run(
        [sys.executable, str(taken_out / "app"), str(studies / study), str(tmp_path / "out"), "--threads", THREADS]
    )
    assert done.returncode == 0, done.stderr
    values = {item["segment"]: item["value"] for item in told(tmp_path)["labels"]}
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ theirs.affine
    planes = by_place(dcmread(tmp_path / "out" / "segmentation.dcm"))
    table = np.array([0, *(values[n] for n in sorted(values))])
    for k in range(wanted.shape[2]):
        place = lps[:3, 3] + k * lps[:3, 2]
        near = [p for p in planes if np.abs(np.array(p) - place).max() < 0.01]
        mine = table[planes.pop(near[0])].T if near else np.zeros(wanted.shape[:2], int)
        assert np.array_equal(mine, wanted[:, :, k]), f"slice {k}"
    assert not planes


def test_the_package_runs_from_its_folder(taken_out: Path, studies: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "labelserver.cli.main",
        "map",
        "run",
        str(taken_out / "map"),
        str(studies / "phantom"),
    ]
    done = run([*command, str(tmp_path / "out"), "--threads", THREADS, "--nifti"])
    assert done.returncode == 0, done.stderr
    assert told(tmp_path)["files"] == ["labels.nii.gz", "segmentation.dcm"]
    checked = run([sys.executable, "-m", "labelserver.cli.main", "map", "check", str(taken_out / "map")])
    assert (checked.returncode, checked.stdout) == (0, "0 errors, 0 advices.\n")


def told(folder: Path) -> Any:
    (volume,) = json.loads((folder / "out" / "metadata.json").read_text())["volumes"]
    return volume


def images(server: LiveServer) -> list[str]:
    listed = server.http.get("/datastore/", params={"output": "all"}).json()
    return sorted(listed["objects"])

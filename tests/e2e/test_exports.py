"""A version leaves a real server, and what left it answers as the server's ``/infer`` did; then it comes back in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from labelserver.client import LabelServerClient
from labelserver.export import standalone
from labelserver.export.contents import ExportContents
from labelserver.export.selftest import label_map
from labelserver.imaging.volumes import write_volume
from labelserver.phantoms import make_phantom
from tests.support.live_server import LiveServer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

APPS = Path(__file__).parents[2] / "apps"
#: a small network on coarse voxels: what it finds does not matter, that it is found again does
CONF = {"models": "segmentation", "network": "4,8,16", "spacing": "6", "roi_size": "32", "labels": "liver,spleen"}


def app_with_weights(folder: Path) -> Path:
    """The radiology app with weights that give every label somewhere."""
    app = folder / "radiology"
    shutil.copytree(APPS / "radiology", app, ignore=shutil.ignore_patterns("__pycache__", "versions", "jobs"))
    (app / "model").mkdir(exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = UNet(3, 1, 3, (4, 8, 16), (2, 2), norm="INSTANCE")
        for parameter in network.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    torch.save(network.state_dict(), app / "model" / "segmentation.pt")
    return app


def study(folder: Path, number: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    case = make_phantom(number, spacing_mm=6.0)
    path = folder / f"{case.name}.nii.gz"
    write_volume(path, case.voxels, case.affine, compress=True)
    return path


def command(*words: str, threads: int = 2) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    line = [sys.executable, "-m", "labelserver.cli.main", *words]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def conf() -> list[str]:
    return [word for name, value in CONF.items() for word in ("--conf", name, value)]


def alone(model: Path, image: Path, target: Path) -> dict[str, Any]:
    """What a receiver gets: nothing of this package is imported."""
    words = [sys.executable, standalone.__file__, str(model), str(image), str(target)]
    subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "2"}, check=True, capture_output=True)
    with np.load(target) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_a_job_of_a_server_makes_an_archive_that_answers_as_infer_does(tmp_path: Path) -> None:
    image = study(tmp_path / "studies")
    with (
        LiveServer(app_with_weights(tmp_path), tmp_path / "studies", conf=CONF) as server,
        LabelServerClient(server.url) as client,
    ):
        wait_until("version 0, which the app's weights become", client.models)
        number = client.versions("segmentation")[-1].number
        job = client.export("segmentation", number, "torchscript", verify=True)
        told: list[dict[str, Any]] = []
        done = client.wait_for_job(job, on_progress=lambda one: told.append(dict(one.progress)), timeout_s=400)
        archive = client.save_export(done, tmp_path)
        mask = client.infer("segmentation", image.name.removesuffix(".nii.gz")).mask
        assert mask is not None
        answered = label_map(mask)  # the file goes with the client
        events = server.http.get(f"/api/v1/events?follow=false&after=0&job={job.id}").text
    assert archive.name == f"segmentation-{number}.zip"
    assert any(0 < progress.get("done", 0) < 1 for progress in told)
    assert "event: job.state" in events
    assert done.result["sha256"]
    assert any("identical in all" in line for line in done.result["verified"])
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "out")
    folder = tmp_path / "out" / f"segmentation-{number}" / "torchscript"
    assert [label.name for label in ExportContents.read(folder).labels] == ["liver", "spleen"]
    labels = alone(folder, image, tmp_path / "answer.npz")["labels"]
    assert len(np.unique(answered)) == 3
    assert np.array_equal(labels, answered)


def test_the_command_exports_verifies_and_takes_back(tmp_path: Path) -> None:
    from labelserver.tasks.bundle_infer import BundleInferTask

    app = app_with_weights(tmp_path)
    output = tmp_path / "out"
    words = ["export", "--app", str(app), "--model", "segmentation", "--output", str(output), *conf()]
    told = command(*words, "--format", "bundle", "--verify")
    assert "bundle: identical in all" in told
    assert "torchscript with MONAI's transforms alone:" in told
    again = subprocess.run([sys.executable, "-m", "labelserver.cli.main", *words], capture_output=True, text=True)
    assert again.returncode == 1
    assert "is not empty" in again.stderr
    contents = ExportContents.read(output / "torchscript")
    for source, name in ((output / "bundle" / "segmentation", "as_bundle"), (contents.torchscript, "as_program")):
        command("import", str(source), "--app", str(app), "--name", name, "--trust")
        task = BundleInferTask(str(app / "model" / name), {}, type="segmentation")
        assert task.labels == {"liver": 1, "spleen": 2}
        torch.set_num_threads(2)
        file, _ = task({"image": str(contents.selftest_input), "device": "cpu"})
        expected = label_map(contents.selftest_expected)
        found = label_map(Path(file))
        Path(file).unlink()
        assert np.count_nonzero(found != expected) <= expected.size // 100_000


def test_a_real_dicom_series_is_answered_alike(
    tmp_path: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = app_with_weights(tmp_path)
    series = real_data / "ct-dicom" / "series"
    words = ["export", "--app", str(app), "--model", "segmentation", "--output", str(tmp_path / "out"), *conf()]
    told = command(*words, "--format", "bundle", "--case", str(series), "--verify")
    with capsys.disabled():
        print("\n" + "\n".join(line for line in told.splitlines() if "voxels" in line or "scores" in line))
    assert "torchscript: identical in all 5242880 voxels." in told
    assert "bundle: identical in all 5242880 voxels." in told
    assert "FAILED" not in told


def test_a_program_without_configuration_is_not_imported(tmp_path: Path) -> None:
    app = app_with_weights(tmp_path)
    path = tmp_path / "bare.ts"
    from labelserver.export import torchscript

    program = torchscript.scripted(torch.nn.Conv3d(1, 2, 1).eval(), torch.rand(1, 1, 4, 4, 4)).program
    torchscript.save(program, path, {}, {})
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "plain.ts", "w") as stripped:
        for name in whole.namelist():
            if "/extra/" not in name:
                stripped.writestr(name, whole.read(name))
    line = [sys.executable, "-m", "labelserver.cli.main", "import", str(tmp_path / "plain.ts"), "--app", str(app)]
    done = subprocess.run([*line, "--trust"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no configuration" in done.stderr
    assert not [path for path in (app / "model").iterdir() if path.is_dir()]

"""An exported application in a process of its own, that knows nothing of the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from labelserver.domain.errors import Conflict, InvalidParams
from labelserver.export.application import ApplicationOptions, write_application
from labelserver.export.application.writing import pointed
from labelserver.export.contents import ExportContents
from labelserver.imaging.volumes import read_volume, write_volume
from tests.support.dicom_studies import STUDY, write_series
from tests.support.exported_model import expected, prepare

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(5)

#: Makes `labelserver` impossible to import, as on a machine that does not have it.
WITHOUT_SERVER = "import sys; sys.modules['labelserver'] = None\n"


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> ExportContents:
    return prepare(tmp_path_factory.mktemp("export") / "model")


@pytest.fixture(scope="module")
def application(contents: ExportContents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_application(contents, tmp_path_factory.mktemp("application") / "app")


def run(
    application: Path, *arguments: str | Path, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    (cwd / "sitecustomize.py").write_text(WITHOUT_SERVER)
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    plain |= {"PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command: Sequence[str] = [sys.executable, str(application), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env={**plain, **(environment or {})}, capture_output=True, text=True, timeout=110
    )


def test_a_series_becomes_a_segmentation_with_all_that_was_asked_for(application: Path, tmp_path: Path) -> None:
    voxels = RNG.integers(-200, 900, (18, 20, 7)).astype(np.int32)
    write_series(tmp_path / "in" / "deep", voxels, descending=True, PixelRepresentation=1)
    asked = ("--report", "--pdf", "--mesh", "--nifti")
    done = run(application, tmp_path / "in", tmp_path / "out", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    (volume,) = told["volumes"]
    names = ["labels.nii.gz", "mesh-1.dcm", "mesh-2.dcm", "pictures.dcm", "report.dcm", "segmentation.dcm"]
    assert volume["files"] == names
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*names, "metadata.json"])
    labels = read_volume(tmp_path / "out" / "labels.nii.gz")
    assert np.array_equal(labels.voxels, expected(voxels))
    counted = {item["name"]: item["voxels"] for item in volume["labels"]}
    assert counted == {"liver": int((expected(voxels) == 1).sum()), "Gefäß": int((expected(voxels) == 2).sum())}
    assert volume["labels"][0]["volume_ml"] == pytest.approx(counted["liver"] * 0.25e-3, abs=1e-3)
    assert dcmread(tmp_path / "out" / "segmentation.dcm").StudyInstanceUID == STUDY == volume["study"]


def test_the_variables_of_a_package_say_where_things_are(application: Path, tmp_path: Path) -> None:
    voxels = RNG.integers(-200, 900, (9, 8, 5)).astype(np.int16)
    (tmp_path / "input").mkdir()
    write_volume(tmp_path / "input" / "a.nii.gz", voxels, np.diag([2.0, 1.0, 3.0, 1.0]), compress=True)
    models = tmp_path / "elsewhere" / "models"
    models.parent.mkdir()
    (application / "models").rename(models)
    variables = {
        "HOLOSCAN_INPUT_PATH": "input/",
        "HOLOSCAN_WORKDIR": str(tmp_path),
        "HOLOSCAN_OUTPUT_PATH": str(tmp_path / "out"),
        "HOLOSCAN_MODEL_PATH": str(models),
    }
    try:
        done = run(application, cwd=tmp_path / "elsewhere", environment=variables)
        assert done.returncode == 0, done.stderr
        assert np.array_equal(read_volume(tmp_path / "out" / "labels.nii.gz").voxels, expected(voxels))
        without = run(application, tmp_path / "input", tmp_path / "out2", cwd=tmp_path / "elsewhere")
        assert (without.returncode, (tmp_path / "out2").exists()) == (1, False)
        assert "Say with --model where it is." in without.stderr
    finally:
        models.rename(application / "models")


def test_the_self_test_compares_with_the_servers_answer(application: Path, tmp_path: Path) -> None:
    done = run(application, "--self-test", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 of 6120 voxels differ" in done.stderr
    wanted = application / "selftest" / "expected.nii.gz"
    kept = wanted.read_bytes()
    volume = read_volume(wanted)
    try:
        write_volume(wanted, 1 - np.minimum(volume.voxels, 1), volume.grid.affine, compress=True)
        assert run(application, "--self-test", cwd=tmp_path).returncode == 1
    finally:
        wanted.write_bytes(kept)


def test_input_that_cannot_be_placed_is_refused_and_nothing_is_written(application: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "in", np.zeros((8, 8, 5), np.int32))[2].unlink()
    done = run(application, tmp_path / "in", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 3
    assert "slices are missing or unevenly spaced" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_several_studies_load_the_model_once(application: Path, tmp_path: Path) -> None:
    first, second = (RNG.integers(-200, 900, (8, 8, 4)).astype(np.int32) for _ in range(2))
    write_series(tmp_path / "in", first, series="1.2.1", study="1.2.10", PixelRepresentation=1)
    write_series(tmp_path / "in" / "b", second, series="1.2.2", study="1.2.11", PixelRepresentation=1)
    write_series(tmp_path / "in" / "c", second, series="1.2.3", study="1.2.11", Modality="MR")
    counted = (
        "import torch\nload = torch.jit.load\ndef _load(*a, **k):\n    print('LOADED')\n    return load(*a, **k)\n"
    )
    counted += "torch.jit.load = _load\nimport runpy, sys\nsys.argv = sys.argv[1:]\n"
    counted += "sys.path.insert(0, sys.argv[0])\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    command = [sys.executable, "-W", "ignore", "-c", counted, str(application), str(tmp_path / "in")]
    done = subprocess.run([*command, str(tmp_path / "out"), "--nifti"], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("LOADED") == 1
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert [(v["study"], v["series"]) for v in told["volumes"]] == [("1.2.10", "1.2.1"), ("1.2.11", "1.2.2")]
    assert [s.split(" (")[0] for s in told["left_out"]] == ["The series 1.2.3"]
    for number, voxels in ((1, first), (2, second)):
        labels = read_volume(tmp_path / "out" / str(number) / "labels.nii.gz").voxels
        assert np.array_equal(labels, expected(voxels))


def test_serving_answers_each_case_that_appears(application: Path, tmp_path: Path) -> None:
    voxels = RNG.integers(-200, 900, (8, 8, 4)).astype(np.int32)
    (tmp_path / "in").mkdir()
    command = [sys.executable, str(application), str(tmp_path / "in"), str(tmp_path / "out"), "--serve"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "ready\n"
            write_series(tmp_path / "in" / ".good", voxels, PixelRepresentation=1)
            (tmp_path / "in" / ".bad").mkdir()
            (tmp_path / "in" / ".good").rename(tmp_path / "in" / "good")
            assert process.stderr.readline() == "good: 2 files written\n"
            (tmp_path / "in" / ".bad").rename(tmp_path / "in" / "bad")
            assert process.stderr.readline().startswith("bad: The input holds neither")
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["bad.failed.json", "good"]
    assert (tmp_path / "out" / "good" / "segmentation.dcm").exists()


def test_quick_and_plain_imports_answer_alike(tmp_path: Path) -> None:
    application = write_application(prepare(tmp_path / "model", spacing=True), tmp_path / "app")
    voxels = RNG.integers(-200, 900, (20, 18, 9)).astype(np.int16)
    write_volume(tmp_path / "a.nii.gz", voxels, np.diag([-1.0, 1.2, 2.0, 1.0]), compress=True)
    quick = run(application, tmp_path / "a.nii.gz", tmp_path / "quick", cwd=tmp_path)
    plain = {"LABELSERVER_APP_PLAIN_IMPORTS": "1"}
    slow = run(application, tmp_path / "a.nii.gz", tmp_path / "slow", cwd=tmp_path, environment=plain)
    assert (quick.returncode, slow.returncode) == (0, 0), quick.stderr + slow.stderr
    answers = [read_volume(tmp_path / name / "labels.nii.gz").voxels for name in ("quick", "slow")]
    assert np.array_equal(*answers)
    assert len(np.unique(answers[0])) == 3


def test_nothing_is_overwritten(application: Path, contents: ExportContents, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="holds something already"):
        write_application(contents, application)
    write_volume(tmp_path / "a.nii", np.zeros((4, 4, 4), np.int16), np.eye(4), compress=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels.nii.gz").write_bytes(b"mine")
    done = run(application, tmp_path / "a.nii", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "nothing is overwritten" in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["labels.nii.gz"]


def test_rules_that_make_no_sense_are_refused_at_the_export(contents: ExportContents, tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="selections"):
        write_application(contents, tmp_path / "app", ApplicationOptions(rules={"select": []}))
    assert not (tmp_path / "app").exists()


def test_an_import_of_the_server_cannot_slip_into_an_application() -> None:
    assert pointed("from labelserver.imaging.volume import Volume\n") == "from runner.volume import Volume\n"
    with pytest.raises(ValueError, match=r"labelserver\.tasks\.base"):
        pointed("from labelserver.tasks.base import InferType\n")

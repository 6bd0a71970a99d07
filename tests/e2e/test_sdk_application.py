"""The application as operators of MONAI Deploy's SDK, in an environment of its own.

The SDK changes what ``import monai`` does, so it is never installed beside the server. ``make sdk`` makes the
environment and names its interpreter in ``LABELSERVER_SDK_PYTHON``.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from labelserver.export.application import ApplicationOptions, write_application
from tests.support.dicom_studies import STUDY, write_series
from tests.support.exported_model import expected, prepare

pytestmark = [pytest.mark.slow, pytest.mark.sdk, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def interpreter() -> str:
    named = os.environ.get("LABELSERVER_SDK_PYTHON", "")
    if not named:
        pytest.skip("LABELSERVER_SDK_PYTHON names no interpreter with MONAI Deploy's SDK; make sdk sets one up")
    found = subprocess.run([named, "-c", "import monai.deploy.core"], capture_output=True, text=True, timeout=300)
    if found.returncode != 0:
        pytest.skip(f"the SDK cannot be imported: {found.stderr.strip()[-200:]}")
    return named


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdk")
    return write_application(prepare(folder / "model"), folder / "app", ApplicationOptions(sdk=True))


def run(interpreter: str, application: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [interpreter, str(application / "app_sdk.py"), "-i", str(folder / "in"), "-o", str(folder / "out")]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=350)


def test_the_sdk_writes_the_same_segmentation(interpreter: str, application: Path, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-200, 900, (16, 14, 5)).astype(np.int32)
    write_series(tmp_path / "in", voxels, PixelRepresentation=1)
    done = run(interpreter, application, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    segmentation = dcmread(tmp_path / "out" / "segmentation.dcm")
    assert segmentation.StudyInstanceUID == STUDY
    assert int(segmentation.pixel_array.sum()) == int((expected(voxels) > 0).sum())


def test_the_sdk_refuses_what_cannot_be_placed(interpreter: str, application: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "in", np.zeros((8, 8, 5), np.int32))[2].unlink()
    done = run(interpreter, application, tmp_path)
    assert done.returncode != 0
    assert "slices are missing" in done.stdout + done.stderr
    assert not (tmp_path / "out" / "segmentation.dcm").exists()


def test_without_the_option_there_is_no_such_file(tmp_path: Path) -> None:
    assert not (write_application(prepare(tmp_path / "model"), tmp_path / "app") / "app_sdk.py").exists()

"""The worked example of docs/deploy.md, as it stands there: from an empty folder to a segmentation in Orthanc."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from labelserver.phantoms import make_phantom
from tests.support.dicom_studies import STUDY, write_series
from tests.support.orthanc import running_orthanc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"


def test_from_an_empty_folder_to_a_segmentation_in_the_pacs(tmp_path: Path) -> None:
    chapter = PAGE.read_text(encoding="utf-8").split("\n## ")[1]
    blocks = re.findall(r"^```bash\n(.*?)^```", chapter, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    here = tmp_path / "empty"
    here.mkdir()
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        script = "set -e\n" + "".join(blocks).replace("http://127.0.0.1:8042", orthanc.url)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        case = make_phantom(3)
        spacing = np.linalg.norm(case.affine[:3, :3], axis=0).tolist()
        write_series(here / "study", case.voxels.astype(np.int32), spacing=spacing, PixelRepresentation=1)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=here,
            env={**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=850,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = httpx.get(f"{orthanc.dicomweb}/studies/{STUDY}/series", params={"Modality": "SEG"}).json()
        assert [series["00080060"]["Value"] for series in found] == [["SEG"]]

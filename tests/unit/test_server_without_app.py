"""A server without an app keeps images and labels; models are named as missing, and torch is never asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labelserver.api.application import create_app
from labelserver.bootstrap import build_server
from labelserver.settings import Settings
from tests.support.in_process import InProcess
from tests.support.study_folder import put_image, put_label


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    put_image(tmp_path / "studies", "ct_1.nii.gz")
    put_image(tmp_path / "studies", "ct_2.nii.gz")
    return tmp_path / "studies"


def test_images_and_labels_are_served_and_models_are_named_as_missing(studies: Path, tmp_path: Path) -> None:
    server = build_server(Settings(studies=str(studies), datastore_auto_reload=False))
    with InProcess(create_app(server)) as http:
        info = http.get("/info/").json()
        assert (info["models"], info["trainers"], info["ready"]) == ({}, {}, True)
        assert info["datastore"]["total"] == 2
        assert http.get("/readyz").status_code == 200
        assert http.get("/docs").status_code == 200
        assert http.get("/").status_code < 400
        assert http.post("/activelearning/first").json()["id"] == "ct_1"
        label = put_label(tmp_path / "l.nii.gz").read_bytes()
        assert http.put("/datastore/label?image=ct_1", files={"label": ("l.nii.gz", label)}).status_code == 200
        assert http.get("/datastore/label?label=ct_1&tag=final").content == label
        assert http.post("/activelearning/first").json()["id"] == "ct_2"
        for path in (
            "/infer/segmentation?image=ct_1",
            "/train/segmentation",
            "/train/",
            "/scoring/x",
            "/batch/infer/x",
        ):
            answer = http.post(path)
            assert answer.status_code == 404, path
            assert answer.json()["detail"]
        assert "without an app" in http.post("/infer/segmentation?image=ct_1").json()["detail"]
        assert http.get("/api/v1/jobs").json() == {"jobs": []}
        assert http.get("/api/v1/models").json() == {"models": []}
        assert http.get("/train/").status_code == 404
    server.close()


def test_it_needs_no_torch(studies: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'monai', 'ignite'):\n"
        "    sys.modules[name] = None\n"
        "from labelserver.api.application import create_app\n"
        "from labelserver.bootstrap import build_server\n"
        "from labelserver.settings import Settings\n"
        "from tests.support.in_process import InProcess\n"
        f"server = build_server(Settings(studies={str(studies)!r}))\n"
        "with InProcess(create_app(server)) as http:\n"
        "    assert http.get('/info/').status_code == 200\n"
        "server.close()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ran.returncode == 0, ran.stderr

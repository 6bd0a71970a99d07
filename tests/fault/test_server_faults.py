"""Processes are killed under a real server; nothing accepted is lost, and the next request works."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from labelserver.phantoms import make_study_set
from labelserver.storage.processes import identity_of
from tests.support.live_server import LiveServer, processor_seconds, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CONF = {"models": "segmentation"}
#: Short epochs, and no scoring beside them: these tests are about processes, not about learning.
SHORT = {"steps_per_epoch": 4, "patches_per_case": 2}
QUIET = {"LABELSERVER_AUTO_UPDATE_SCORING": "false"}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """App, studies and reference labels."""
    shutil.copytree("apps/radiology", tmp_path / "radiology")
    make_study_set(tmp_path / "phantoms", count=3)
    return tmp_path / "radiology", tmp_path / "phantoms", tmp_path / "phantoms-reference"


def submit_all(server: LiveServer, reference: Path) -> list[str]:
    images = sorted(path.name.removesuffix(".nii.gz") for path in reference.glob("*.nii.gz"))
    for image in images:
        server.save_label(image, reference / f"{image}.nii.gz")
    return images


def stored(server: LiveServer, image: str) -> np.ndarray:
    answer = server.http.get("/datastore/label", params={"label": image, "tag": "final"})
    assert answer.status_code == 200, answer.text
    return np.asanyarray(nib.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(answer.content))).dataobj)


def test_a_server_killed_during_training_finds_job_and_labels_again(folders):
    app, studies, reference = folders
    with LiveServer(app, studies, conf=CONF, **QUIET) as server:
        images = submit_all(server, reference)
        server.http.post("/train/segmentation", json={"max_epochs": 1000, **SHORT}).raise_for_status()
        wait_until("a first epoch", lambda: server.train_status().get("progress", {}).get("epoch", 0), 120)
        job = server.train_status()["id"]
        server.kill()
        server.start()
        status = server.train_status()
        assert status["id"] == job
        assert status["status"] == "RUNNING", status
        for image in images:
            truth = np.asanyarray(nib.load(reference / f"{image}.nii.gz").dataobj)
            np.testing.assert_array_equal(stored(server, image), truth)
        assert server.http.delete("/train/").status_code == 200
        wait_until("the stop", lambda: server.train_status()["status"] == "STOPPED", 60)


def test_a_training_whose_processes_died_with_the_server_is_marked_lost(folders):
    app, studies, reference = folders
    with LiveServer(app, studies, conf=CONF, **QUIET) as server:
        submit_all(server, reference)
        server.http.post("/train/segmentation", json={"max_epochs": 1000, **SHORT}).raise_for_status()
        wait_until("a first epoch", lambda: server.train_status().get("progress", {}).get("epoch", 0), 120)
        server.kill()
        for pid in server.processes("labelserver.worker"):
            os.kill(pid, signal.SIGKILL)
        server.start()
        status = wait_until("the verdict", lambda: s if (s := server.train_status())["status"] == "ERROR" else None, 30)
        assert status["reason"] == "lost"
        assert "start it again" in status["details"][-1]


def test_sigterm_suspends_a_training_with_a_checkpoint_and_the_next_start_resumes_it(folders):
    app, studies, reference = folders
    with LiveServer(app, studies, conf=CONF, **QUIET) as server:
        submit_all(server, reference)
        server.http.post("/train/segmentation", json={"max_epochs": 12, **SHORT}).raise_for_status()
        reached = wait_until(
            "a second epoch", lambda: server.train_status().get("progress", {}).get("epoch", 0) >= 2, 120
        )
        assert reached
        epoch = server.train_status()["progress"]["epoch"]
        job = server.train_status()["id"]
        before = server.processes("labelserver.worker")
        assert len(before) >= 3, "worker, runner and job"
        server.stop(signal.SIGTERM)
        assert "checkpoint" in server.log_tail(), server.log_tail()
        assert not [pid for pid in before if identity_of(pid)], "a process outlived the server"
        server.start()
        wait_until("the end", lambda: server.train_status()["status"] == "DONE", 200)
        status = server.train_status()
        assert status["id"] == job
        assert status["progress"]["epoch"] == 12
        assert epoch >= 2


def test_a_worker_killed_during_an_inference_costs_one_request(folders):
    app, studies, reference = folders
    with LiveServer(app, studies, conf=CONF, **QUIET) as server:
        images = submit_all(server, reference)
        assert server.train("segmentation", {"max_epochs": 1, **SHORT})["status"] == "DONE"
        expected = server.infer("segmentation", images[0])
        (worker,) = server.processes("labelserver.worker serve")
        before = processor_seconds(worker)
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(
                server.http.post,
                "/infer/segmentation",
                params={"image": images[0]},
                data={"params": '{"sw_overlap": 0.9}'},  # a thousand windows
            )
            wait_until("the inference's work", lambda: processor_seconds(worker) > before + 1)
            os.kill(worker, signal.SIGKILL)
            answer = held.result(120)
        assert answer.status_code >= 500, answer.text
        assert "again" in answer.json()["detail"]
        assert server.infer("segmentation", images[0]) == expected

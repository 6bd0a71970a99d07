"""Each way in which a training ends badly, with real processes: reason, sentence and advice, wherever people look."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from labelserver.cli.main import run
from labelserver.domain.jobs import Signal
from labelserver.engine.job_folder import JobFolder
from labelserver.storage.checksums import sha256_of
from tests.support.live_server import LiveServer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

APP = Path(__file__).parents[1] / "apps" / "faulty_app"
SHAPE = (16, 16, 16)
QUICK = {"max_epochs": 2, "seed": 3, "val_split": 0.34, "checkpoint_every_s": 0}


def write_case(studies: Path, name: str, label: np.ndarray | None = None) -> None:
    """An image with a bright cube, and its label in the folder of accepted labels."""
    random = np.random.default_rng(sum(name.encode()))
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:11, 4:12, 5:13] = 1
    image = (mask * 100 + random.normal(0, 10, SHAPE)).astype(np.float32)
    final = studies / "labels" / "final"
    final.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, np.eye(4)), studies / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(mask if label is None else label, np.eye(4)), final / f"{name}.nii.gz")


def make_place(folder: Path, cases: int) -> tuple[Path, Path]:
    app, studies = folder / "app", folder / "studies"
    shutil.copytree(APP, app)
    studies.mkdir()
    for number in range(cases):
        write_case(studies, f"case_{number:02d}")
    return app, studies


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    app, studies = make_place(tmp_path_factory.mktemp("failing"), 3)
    with LiveServer(app, studies, LABELSERVER_AUTO_UPDATE_SCORING="false", OMP_NUM_THREADS="1") as running:
        yield running


def run_job(server: LiveServer, **params: Any) -> dict[str, Any]:
    started = server.http.post("/train/tiny", json={**QUICK, **params})
    assert started.status_code == 200, started.text
    return ended(server, started.json()["id"])


def ended(server: LiveServer, job_id: str) -> dict[str, Any]:
    def final() -> dict[str, Any] | None:
        document: dict[str, Any] = server.http.get(f"/api/v1/jobs/{job_id}").json()
        return document if document["state"] in ("done", "stopped", "failed") else None

    found: dict[str, Any] = wait_until("the end of the job", final, 120)
    exit_file = server.app / "jobs" / job_id / "exit.json"
    wait_until("the end of its process", exit_file.exists)
    return found


def command(server: LiveServer, *words: str) -> str:
    """What a command prints, run in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit):
        run([*words, "--server", server.url])
    return said.getvalue()


@pytest.mark.parametrize(
    ("fault", "reason", "says", "advice"),
    [
        ("memory", "out_of_memory", "out of memory", "Lower train_batch_size"),
        ("limit", "out_of_memory", "out of memory", "Lower train_batch_size"),
        ("kill", "killed", "signal 9", "Resume the job"),
        ("nan", "nan_loss", "The loss is no number any more at step 2", "Lower the learning rate"),
        ("disk", "disk_full", "No space left", "Free some space"),
        ("raise", "app_error", "the network is upside down", "worker.log"),
    ],
)
def test_a_failed_training_says_why_and_what_to_do_wherever_people_look(
    server: LiveServer, fault: str, reason: str, says: str, advice: str
) -> None:
    job = run_job(server, fault=fault)
    assert (job["state"], job["reason"]) == ("failed", reason), job
    assert says in job["message"]
    assert advice in job["advice"]
    listed = command(server, "jobs", "list")
    assert re.search(rf"{job['id'][:8]}.*failed.*{reason}", listed), listed
    followed = command(server, "jobs", "follow", job["id"])
    assert reason in followed
    assert advice.split()[0] in followed
    line = re.compile(rf"job failed.*job_id={job['id']}.*reason={reason}")
    log = server.app / "logs" / "labelserver.log"
    wait_until("the log's line", lambda: line.search(log.read_text()))
    told = server.http.get(
        "/api/v1/events", params={"job": job["id"], "kind": "job.state", "after": 0, "follow": False}
    )
    assert f'"reason":"{reason}"' in told.text
    status = server.http.get("/train/").json()
    assert (status["status"], status["reason"]) == ("ERROR", reason)


@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_a_failed_training_is_resumed_from_its_last_checkpoint(server: LiveServer, fault: str) -> None:
    job = run_job(server, fault=fault)
    assert (server.app / "jobs" / job["id"] / "training-checkpoint.pt").is_file()
    assert "Follow it" in command(server, "jobs", "resume", job["id"])
    done = ended(server, job["id"])
    assert done["state"] == "done", done
    assert any("taken up at step 1" in event for event in events_of(server, job["id"]))
    curve = server.http.get(f"/api/v1/jobs/{job['id']}/curve").json()
    assert [point["epoch"] for point in curve["points"]] == [1, 2]
    assert done["versions"], "the resumed training hands over a version"


def events_of(server: LiveServer, job_id: str) -> list[str]:
    found = JobFolder(server.app / "jobs" / job_id)
    return [str(event.data.get("line", "")) for event in found.events()]


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_published_version_as_it_was(server: LiveServer) -> None:
    assert run_job(server)["state"] == "done"
    current = server.app / "versions" / "tiny" / "current"
    number = current.read_text().strip()
    before = {p: sha256_of(p) for p in (current.parent / number).iterdir() if p.is_file()}
    published = sha256_of(server.app / "model" / "tiny.pt")
    job = run_job(server, fault="disk")
    assert (job["state"], job["reason"]) == ("failed", "disk_full"), job
    assert job["versions"] == []
    assert current.read_text().strip() == number
    assert {p: sha256_of(p) for p in before} == before
    assert sha256_of(server.app / "model" / "tiny.pt") == published
    assert not list((server.app / "jobs" / job["id"]).glob(".tmp-*"))
    assert run_job(server)["state"] == "done", "and the next one finds everything in order"


def test_without_a_label_there_is_no_data(tmp_path: Path) -> None:
    app, studies = make_place(tmp_path, 0)
    empty = np.zeros(SHAPE, np.uint8)
    with LiveServer(app, studies, LABELSERVER_AUTO_UPDATE_SCORING="false", OMP_NUM_THREADS="1") as server:
        job = run_job(server)
        assert (job["state"], job["reason"]) == ("failed", "no_data"), job
        assert "Submit at least one label" in job["advice"]
        write_case(studies, "nothing", empty)
        wait_until("the new case", lambda: server.http.get("/datastore/").json()["completed"] == 1)
        job = run_job(server)
        assert (job["state"], job["reason"]) == ("failed", "bad_data"), job
        assert "nothing: The label is empty" in job["message"]
        assert "Correct or remove" in job["advice"]


def test_one_corrupt_label_among_thirty_is_named_and_the_others_are_learnt_from(tmp_path: Path) -> None:
    app, studies = make_place(tmp_path, 30)
    with LiveServer(app, studies, LABELSERVER_AUTO_UPDATE_SCORING="false", OMP_NUM_THREADS="1") as server:
        wait_until("all labels", lambda: server.http.get("/datastore/").json()["completed"] == 30)
        final = studies / "labels" / "final"
        broken = app / "model" / "tiny" / "broken.nii.gz"  # where the store cannot heal it
        broken.parent.mkdir(parents=True, exist_ok=True)
        broken.write_bytes((final / "case_17.nii.gz").read_bytes()[:60])
        job = run_job(server, max_epochs=1, val_split=0.2, broken="case_17")
        assert job["state"] == "done", job
        left_out = job["result"]["left_out"]
        assert [case["image"] for case in left_out] == ["case_17"]
        assert "label" in left_out[0]["reason"]
        assert any("left out case_17" in line for line in events_of(server, job["id"]))
        model, number = job["versions"][0]
        version = server.http.get(f"/api/v1/models/{model}/versions/{number}").json()
        assert [case["image"] for case in version["extra"]["left_out"]] == ["case_17"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_a_killed_and_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    server: LiveServer, kills: int
) -> None:
    final = server.app / "model" / "tiny" / "train_01" / "checkpoint_final.pt"
    request = {"max_epochs": 4, "pretrained": False, "deterministic": True}
    straight = run_job(server, **request)
    assert straight["state"] == "done"
    expected = final.read_bytes()
    steps = np.random.default_rng(kills).permutation(np.arange(2, 9))
    total = int(straight["result"]["total_iterations"])
    for number in range(kills):
        step = int(steps[number % len(steps)]) % total or 1
        job_id = server.http.post("/train/tiny", json={**QUICK, **request, "meet_at": step}).json()["id"]
        folder = JobFolder(server.app / "jobs" / job_id)
        wait_until("the step", (folder.path / "meet.at").exists, 120)
        process = folder.process()
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        assert ended(server, job_id)["reason"] == "killed"
        final.unlink()
        (folder.path / "meet.pass").touch()
        assert server.http.post(f"/api/v1/jobs/{job_id}/resume").status_code == 200
        done = ended(server, job_id)
        assert done["state"] == "done", done
        assert final.read_bytes() == expected, f"killed at step {step} of {total}"


def counted(folder: JobFolder, signal: Signal) -> int:
    return sum(event.signal is signal for event in folder.events())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_one_training_killed_at_random_moments_ends_with_the_weights_of_an_uninterrupted_one(
    server: LiveServer, kills: int
) -> None:
    """Also within the writing of a checkpoint, a validation, or the reading of the cases."""
    final = server.app / "model" / "tiny" / "train_01" / "checkpoint_final.pt"
    request = {"max_epochs": 40 * kills, "pretrained": False, "deterministic": True}
    assert run_job(server, **request)["state"] == "done"
    expected = final.read_bytes()
    final.unlink()
    chance = np.random.default_rng(kills)
    job_id = server.http.post("/train/tiny", json={**QUICK, **request}).json()["id"]
    folder = JobFolder(server.app / "jobs" / job_id)
    for kill in range(kills + 1):
        wait_until("the work", lambda: counted(folder, Signal.RUNNING) > kill, 120)  # noqa: B023  used at once
        if kill:  # the first one comes while the cases are read
            epochs = counted(folder, Signal.EPOCH)
            wait_until("an epoch", lambda: counted(folder, Signal.EPOCH) > epochs, 120)  # noqa: B023
        process = folder.process()
        assert process is not None
        time.sleep(chance.uniform(0.0, 0.3))  # the moment of the kill is what this test is about
        os.kill(process.pid, signal.SIGKILL)
        assert ended(server, job_id)["reason"] == "killed"
        assert server.http.post(f"/api/v1/jobs/{job_id}/resume").status_code == 200
    done = ended(server, job_id)
    assert done["state"] == "done", done
    assert any("taken up at step" in line for line in events_of(server, job_id))
    assert final.read_bytes() == expected

"""Taking a version out over HTTP: a job, its archive, and what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from labelserver.contracts.model_store import Candidate
from labelserver.domain.jobs import EXPORT_ARCHIVE, JobKind, Signal
from tests.api.conftest import World

EXPORT = "/api/v1/models/segmentation/versions/1/export"


@pytest.fixture
def world(world: World) -> World:
    """With one version of the model ``segmentation``."""
    weights = world.roots.app / "weights.safetensors"
    weights.write_bytes(b"w")
    store = world.server.model_store
    store.add(Candidate("segmentation", (weights,), publish_path=world.roots.app / "model/s.pt", number=1))
    return world


def archive_of(job_id: str) -> str:
    return f"/api/v1/jobs/{job_id}/archive"


def test_an_export_is_a_job_with_its_wishes(world: World) -> None:
    asked = {"format": "bundle", "verify": True, "modality": "CT"}
    answer = world.http.post(EXPORT, json=asked, headers={"X-Labelserver-Person": "ada"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["kind"], job["task"], job["person"], job["state"]) == ("export", "segmentation", "ada", "queued")
    assert job["params"] == {"version": 1, **asked}
    listed = world.http.get("/api/v1/jobs?kind=export").json()["jobs"]
    assert [found["id"] for found in listed] == [job["id"]]


def test_without_a_body_everything_is_taken_out(world: World) -> None:
    job = world.http.post(EXPORT).json()
    assert job["params"] == {"version": 1, "format": "all", "verify": False, "modality": ""}


def test_a_second_export_waits_behind_the_first(world: World) -> None:
    assert [world.http.post(EXPORT).status_code for _ in range(2)] == [202, 202]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (EXPORT, {"format": "docker"}, 422, "format"),
        (EXPORT, {"format": "bundle", "colour": "red"}, 422, "colour"),
        (EXPORT.replace("/1/", "/9/"), {}, 404, "9"),
        (EXPORT.replace("segmentation", "nothing"), {}, 404, "nothing"),
        (EXPORT.replace("/1/", "/one/"), {}, 422, "number"),
    ],
    ids=["format", "field", "version", "model", "number"],
)
def test_what_makes_no_sense_is_refused_and_starts_nothing(
    world: World, path: str, body: dict[str, str], status: int, words: str
) -> None:
    answer = world.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert words in answer.text
    assert world.http.get("/api/v1/jobs").json()["jobs"] == []


def test_the_archive_is_there_once_the_job_is_done(world: World, tmp_path: Path) -> None:
    job_id = world.http.post(EXPORT, json={"format": "torchscript"}).json()["id"]
    early = world.http.get(archive_of(job_id))
    assert early.status_code == 409
    assert "is queued" in early.json()["detail"]
    archive = tmp_path / EXPORT_ARCHIVE
    with zipfile.ZipFile(archive, "w") as writing:
        writing.writestr("segmentation-1/torchscript/about.json", json.dumps({}))
    world.engine.jobs.files[job_id, EXPORT_ARCHIVE] = archive
    done = {"model": "segmentation", "version": 1, "size_bytes": 1}
    world.engine.jobs.happen(job_id, Signal.STARTED, Signal.RUNNING, Signal.RESULT, **done)
    answer = world.http.get(archive_of(job_id))
    assert answer.status_code == 200
    assert answer.content == archive.read_bytes()
    assert answer.headers["content-type"] == "application/zip"
    assert 'filename="segmentation-1.zip"' in answer.headers["content-disposition"]


def test_an_archive_that_was_removed_and_other_jobs_have_none(world: World) -> None:
    job_id = world.http.post(EXPORT).json()["id"]
    world.engine.jobs.happen(job_id, Signal.STARTED, Signal.RUNNING, Signal.RESULT)
    assert world.http.get(archive_of(job_id)).status_code == 404
    training = world.http.post("/train/segmentation", json={}).json()["id"]
    assert world.engine.jobs.list(JobKind.TRAIN)
    assert world.http.get(archive_of(training)).status_code == 404
    assert world.http.get(archive_of("11111111-1111-4111-8111-111111111111")).status_code == 404
    assert world.http.get(archive_of("..%2F..")).status_code in (404, 422)

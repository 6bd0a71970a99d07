"""Scoring 200 images: killed half-way it does only the rest, new weights make old looks stale, people come first."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labelserver.client import LabelServerClient
from labelserver.imaging.volumes import write_volume
from labelserver.storage.device_marks import FOLDER, interactive
from tests.support.live_server import LiveServer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

APP = Path(__file__).parents[1] / "apps" / "scoring_app"
IMAGES = 200
SHAPE = (8, 8, 8)
ENOUGH_S = 240


class Scoring:
    """A server with 200 small images, and what its scoring wrote down."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(APP, folder / "scoring_app", ignore=shutil.ignore_patterns("__pycache__"))
        studies = folder / "studies"
        studies.mkdir()
        for number in range(IMAGES):
            voxels = np.random.default_rng(number).integers(0, 255, SHAPE).astype(np.int16)
            write_volume(studies / f"i{number:03}.nii.gz", voxels, np.eye(4), compress=True)
        self.notes = folder / "scoring_app" / "notes"
        self.weights = folder / "scoring_app" / "model" / "seg.pt"
        self.server = LiveServer(folder / "scoring_app", studies, OMP_NUM_THREADS="1")

    def looks(self) -> list[tuple[str, str]]:
        """(version, image) in the order of the looks."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [(line.split()[0], line.split()[1]) for line in lines if line.count(" ") == 1]

    def wait_for(self, count: int, version: str = "") -> None:
        def enough() -> bool:
            return sum(1 for found, _ in self.looks() if not version or found == version) >= count

        wait_until(f"{count} looks", enough, ENOUGH_S)

    def make_stale(self) -> None:
        """Other weights: all looks are out of date."""
        state = torch.load(self.weights, weights_only=True)
        name = next(name for name, value in state["model"].items() if value.is_floating_point())
        state["model"][name] = state["model"][name] + 0.25
        torch.save(state, self.weights)

    def job(self) -> dict[str, Any]:
        """The newest scoring job."""
        found: dict[str, Any] = self.server.http.get("/api/v1/jobs?kind=scoring").json()["jobs"][-1]
        return found

    def kinds(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.server.http.get("/api/v1/scores").json()["kinds"]
        return found


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scoring]:
    made = Scoring(tmp_path_factory.mktemp("scoring"))
    try:
        made.server.start()
        yield made
    finally:
        made.server.stop()
        made.server.http.close()


def test_scoring_killed_half_way_does_only_the_rest(scoring: Scoring) -> None:
    scoring.wait_for(IMAGES // 2)
    jobs = scoring.server.processes("labelserver.worker job")
    assert len(jobs) == 1, "one process scores for all methods"
    scoring.server.stop(signal.SIGKILL)
    for pid in jobs:
        os.kill(pid, signal.SIGKILL)
    before = len(scoring.looks())
    assert before < IMAGES
    scoring.server.start()
    wait_until("all looks", lambda: sum(k["images"] for k in scoring.kinds()) == IMAGES, ENOUGH_S)
    counted = Counter(image for _, image in scoring.looks())
    assert len(counted) == IMAGES
    twice = [image for image, times in counted.items() if times > 1]
    assert len(twice) <= 1, "at most the image at which it was killed"


def test_with_new_weights_only_what_the_old_ones_said_is_stale(scoring: Scoring) -> None:
    wait_until("the end of the job before", lambda: scoring.job()["state"] == "done", ENOUGH_S)
    before = len(scoring.looks())
    assert scoring.server.http.post("/scoring/looks?run_sync=true").status_code == 200
    assert len(scoring.looks()) == before, "nothing is stale"
    scoring.make_stale()
    assert scoring.server.http.post("/scoring/looks").status_code == 200
    wait_until("looks with the new weights", lambda: len(scoring.looks()) >= before + 20, ENOUGH_S)
    assert scoring.server.http.delete("/scoring/").status_code == 200
    wait_until("the end of the stopped job", lambda: scoring.job()["state"] == "stopped", ENOUGH_S)
    stopped_at = len(scoring.looks())
    assert stopped_at < before + IMAGES
    assert scoring.server.http.post("/scoring/looks").status_code == 200
    wait_until("some more", lambda: len(scoring.looks()) > stopped_at, ENOUGH_S)
    people_come_first(scoring)
    wait_until("the rest", lambda: scoring.job()["state"] == "done", ENOUGH_S)
    new = [image for version, image in scoring.looks()[before:]]
    assert sorted(new) == sorted(set(new)), "no image twice"
    assert len(new) == IMAGES
    assert [(one["images"], one["current"]) for one in scoring.kinds()] == [(IMAGES, True)]


def people_come_first(scoring: Scoring) -> None:
    """While somebody waits for the device no further step begins; the one that runs may end."""
    with interactive(scoring.server.app / FOLDER, "cpu"):
        begun = len(scoring.looks())
        wait_until("the pause", lambda: scoring.job()["progress"].get("paused") is True, ENOUGH_S)
        held = len(scoring.looks())
        assert held <= begun + 1
        for image in ("i001", "i002", "i003"):  # a person works meanwhile
            answer = scoring.server.http.post(f"/infer/seg?image={image}&output=image")
            assert answer.status_code == 200
        assert len(scoring.looks()) == held
    wait_until("it goes on", lambda: len(scoring.looks()) > held or scoring.job()["state"] == "done", ENOUGH_S)


def test_the_next_image_comes_from_what_is_known(scoring: Scoring) -> None:
    jobs = len(scoring.server.http.get("/api/v1/jobs?kind=scoring").json()["jobs"])
    looks = len(scoring.looks())
    best = scoring.server.http.post("/activelearning/entropy", json={}).json()
    listed = scoring.server.http.get("/api/v1/images?sort=entropy&limit=1").json()["images"][0]
    assert best["id"] == listed["id"]
    given = scoring.server.http.post("/activelearning/default", json={}).json()
    assert given["id"]
    assert (len(scoring.looks()), len(scoring.server.http.get("/api/v1/jobs?kind=scoring").json()["jobs"])) == (
        looks,
        jobs,
    )
    picture = scoring.server.http.get(f"/api/v1/scores/map/{best['id']}")
    assert picture.content.startswith(b"\x89PNG")


class Gate:
    """Holds the next step of the scoring, or the next click, until it is opened."""

    def __init__(self, scoring: Scoring, name: str) -> None:
        self._pipe = scoring.server.app / "gates" / name
        self._reached = self._pipe.with_name(f"{name}.reached")
        self._pipe.parent.mkdir(exist_ok=True)
        os.mkfifo(self._pipe)

    def reached_after(self) -> int:
        """How many looks there were when somebody came here."""
        wait_until("somebody at the gate", lambda: self._reached.exists() and self._reached.read_text(), ENOUGH_S)
        return int(self._reached.read_text())

    def open(self) -> None:
        """Let through who waits here, and everybody after."""
        wait_until("somebody at the gate", self._reached.exists, ENOUGH_S)
        held = os.open(self._pipe, os.O_WRONLY)
        self._pipe.unlink()
        self._reached.unlink()
        os.close(held)


def test_a_click_of_a_session_waits_for_no_step_and_holds_the_next_one(scoring: Scoring) -> None:
    """In steps of the scoring, not in seconds: the click is answered within one, and no other begins beside it."""
    with LabelServerClient(scoring.server.url, person="ann") as ann:
        session = ann.open_session("dot", "i001")
        assert session.click((1, 1, 1)).ran
        scoring.make_stale()
        step = Gate(scoring, "step")
        assert scoring.server.http.post("/scoring/looks").status_code == 200
        held_at = step.reached_after()
        assert session.click((2, 2, 2)).ran
        assert len(scoring.looks()) == held_at, "the step that ran is not over, and the click is answered"

        click = Gate(scoring, "click")
        with ThreadPoolExecutor(1) as clicking:
            answer = clicking.submit(session.click, (3, 3, 3))
            assert click.reached_after() == held_at, "a click comes to its task while the step is under way"
            step.open()
            wait_until("the pause", lambda: scoring.job()["progress"].get("paused") is True, ENOUGH_S)
            assert len(scoring.looks()) == held_at + 1, "the step ends, and no other begins"
            for image in ("i001", "i002"):  # other work of people changes nothing about it
                assert scoring.server.http.post(f"/infer/seg?image={image}&output=image").status_code == 200
            assert len(scoring.looks()) == held_at + 1
            assert not answer.done()
            click.open()
            assert answer.result(ENOUGH_S).ran
        assert (session.mask[(1, 2, 3), (1, 2, 3), (1, 2, 3)] == 1).all()
    wait_until("it goes on", lambda: len(scoring.looks()) >= held_at + 3, ENOUGH_S)
    assert scoring.server.http.delete("/scoring/").status_code == 200

"""The event stream of a real server: live, taken up again by its id after a restart, closed at once at the end."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from labelserver.client import LabelServerClient
from labelserver.imaging.volumes import write_volume
from labelserver.storage import device_marks
from labelserver.wire.events import ServerEvent
from labelserver.wire.triggers import TrainingTriggers
from tests.support.live_server import LiveServer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

APP = Path(__file__).parents[1] / "apps" / "tiny_app"


@pytest.fixture
def server(tmp_path: Path) -> LiveServer:
    app, studies = tmp_path / "app", tmp_path / "studies"
    shutil.copytree(APP, app)
    studies.mkdir()
    write_volume(studies / "case.nii.gz", np.zeros((4, 4, 4), np.uint8), np.eye(4), compress=True)
    return LiveServer(app, studies, LABELSERVER_AUTO_UPDATE_SCORING="false")


class Listener(threading.Thread):
    """Collects what a client hears; it goes on by itself after a restart of the server."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.heard: list[ServerEvent] = []
        self.start()

    def run(self) -> None:
        with LabelServerClient(self._url) as client, closing(client.events(after=0)) as news:
            for event in news:
                self.heard.append(event)
                if event.kind == "training.triggers" and event.data["every_labels"] == 99:
                    return

    def kinds(self) -> list[str]:
        return [event.kind for event in list(self.heard)]


def test_a_reader_hears_everything_in_order_across_a_restart(server: LiveServer, tmp_path: Path) -> None:
    server.start()
    try:
        listener = Listener(server.url)
        mask = tmp_path / "mask.nii.gz"
        write_volume(mask, np.ones((4, 4, 4), np.uint8), np.eye(4), compress=True)
        server.save_label("case", mask)
        wait_until("the label's event", lambda: "label.saved" in listener.kinds())
        job = server.train("count", {})
        wait_until(
            "the job's events", lambda: job["id"] in {e.job_id for e in listener.heard if e.data.get("state") == "done"}
        )
        with httpx.stream("GET", f"{server.url}/api/v1/events", timeout=30) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("retry:")
            begun = time.monotonic()
            server.stop()
            list(lines)
        assert time.monotonic() - begun < 10, "an open stream does not hold the server up"
        server.start(ready=False)
        wait_until("an answer", lambda: server.http.get("/readyz").status_code == 200, 120)
        with LabelServerClient(server.url) as client:
            client.set_triggers(TrainingTriggers(every_labels=99))
        listener.join(60)
        assert not listener.is_alive()
        numbers = [event.id for event in listener.heard if event.id is not None]
        assert numbers == sorted(set(numbers)), "each once, and in order"
        states = [e.data["state"] for e in listener.heard if e.kind == "job.state" and e.job_id == job["id"]]
        assert states == ["queued", "starting", "running", "done"]
        steps = [e.data["epoch"] for e in listener.heard if e.kind == "job.progress"]
        assert steps == list(range(1, 11))
    finally:
        server.stop()


def test_a_training_waits_while_people_use_its_device(server: LiveServer, tmp_path: Path) -> None:
    """The trainer yields at its sixth step; it does not come to the seventh while the mark is there."""
    barrier = tmp_path / "barrier"
    with server:
        started = server.http.post("/train/count", json={"meet": str(barrier), "yield_device": True})
        assert started.status_code == 200, started.text
        job = f"/api/v1/jobs/{started.json()['id']}"

        def progress() -> dict[str, Any]:
            found: dict[str, Any] = server.http.get(job).json()["progress"]
            return found

        wait_until("the sixth step", barrier.with_suffix(".at").exists)
        with device_marks.interactive(server.app / device_marks.FOLDER, "cpu"):
            barrier.with_suffix(".pass").touch()
            wait_until("the pause", lambda: progress().get("paused") is True)
            assert progress()["epoch"] == 6
        wait_until("the end", lambda: server.train_status()["status"] == "DONE")
        assert progress()["epoch"] == 10
        assert progress()["paused"] is False

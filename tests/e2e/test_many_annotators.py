"""Several people at one real server, one of whom vanishes: nobody works twice, and everything gets done."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import ImageId
from tests.support.live_server import LiveServer, wait_until
from tests.support.study_folder import put_image, put_label

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

APP = """
from labelserver import LabelApp
from labelserver.tasks.strategies import First, Random


class App(LabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="Queue", description="For tests", labels=["organ"])

    def init_strategies(self):
        return {"random": Random(), "first": First()}
"""


@contextmanager
def serving(folder: Path, images: int, **rules: Any) -> Iterator[LiveServer]:
    studies = folder / "studies"
    data = put_image(studies, "i0000.nii.gz").read_bytes()
    for number in range(1, images):
        (studies / f"i{number:04}.nii.gz").write_bytes(data)
    (folder / "app").mkdir()
    (folder / "app" / "main.py").write_text(APP)
    put_label(folder / "label.nii.gz")
    with LiveServer(folder / "app", studies) as server:
        assert server.http.put("/api/v1/queue/rules", json=rules).status_code == 200
        yield server


class Annotator:
    """A process, and what it printed so far."""

    def __init__(self, server: LiveServer, folder: Path, person: str, protocol: str = "queue") -> None:
        self.person = person
        self.output = folder / f"{person}.out"
        command = [sys.executable, "-m", "tests.support.annotating_process", server.url, person]
        with self.output.open("w") as stream:
            self.process = subprocess.Popen([*command, str(folder / "label.nii.gz"), protocol], stdout=stream)

    def lines(self, word: str) -> list[str]:
        said = [line.split() for line in self.output.read_text().splitlines()]
        return [line[1] for line in said if line[0] == word]

    def finish(self, seconds: float = 480) -> None:
        assert self.process.wait(seconds) == 0, self.person


def test_eight_annotators_on_a_thousand_images_one_of_them_killed(tmp_path: Path) -> None:
    images = 1000
    with serving(tmp_path, images, overlap_share=0, lease_s=20, quiet_lease_s=20) as server:
        people = [Annotator(server, tmp_path, f"p{n}", "old" if n % 4 == 3 else "queue") for n in range(8)]
        victim = people[2]

        def works_on_one() -> bool:
            return len(victim.lines("done")) >= 5

        wait_until("five labels of the one to be killed", works_on_one, 120)
        # given an image by its lease, which must come back when nobody hears of the holder any more
        victim.process.send_signal(signal.SIGKILL)
        victim.process.wait()
        abandoned = server.http.post("/api/v1/queue/next", headers={"X-Labelserver-Person": victim.person}).json()
        for annotator in people:
            if annotator is not victim:
                annotator.finish()
        none = server.http.post("/api/v1/queue/next", headers={"X-Labelserver-Person": "late"}).json()
        assert none["status"] == "nothing_left"
        assert server.http.get("/datastore/").json()["completed"] == images
    store = LocalDatastore(tmp_path / "studies", look_soon=True)
    revisions = {image: store.revisions(ImageId(image), "final") for image in store.list_images()}  # type: ignore[arg-type]
    store.close()
    assert len(revisions) == images
    twice = {image: [r.provenance.person for r in found] for image, found in revisions.items() if len(found) != 1}
    assert twice == {}, "images that two people worked on"
    by = Counter(found[0].provenance.person for found in revisions.values())
    assert set(by) == {annotator.person for annotator in people}
    assert sum(by.values()) == images
    assert revisions[abandoned["image"]["id"]][0].provenance.person != victim.person


def test_an_image_for_three_is_read_by_three_different_people(tmp_path: Path) -> None:
    images = 60
    with serving(tmp_path, images, overlap_share=1, overlap_readers=3, lease_s=60, quiet_lease_s=60) as server:
        people = [Annotator(server, tmp_path, f"p{n}", "old" if n == 3 else "queue") for n in range(4)]
        for annotator in people:
            annotator.finish()
        last = server.http.post("/api/v1/queue/next", headers={"X-Labelserver-Person": "late"}).json()
        assert (last["status"], last["to_review"]) == ("needs_review", images)
    store = LocalDatastore(tmp_path / "studies", look_soon=True)
    for image in store.list_images():
        readers = [store.revisions(ImageId(image), f"reader_{n}") for n in range(1, 5)]  # type: ignore[arg-type]
        assert [len(found) for found in readers] == [1, 1, 1, 0], image
        assert len({found[0].provenance.person for found in readers[:3]}) == 3, image
        assert store.revisions(ImageId(image), "final") == []  # type: ignore[arg-type]
    store.close()


def test_a_killed_server_forgets_no_lease_and_no_rule(tmp_path: Path) -> None:
    anna = {"X-Labelserver-Person": "anna"}
    with serving(tmp_path, 4, overlap_share=0, lease_s=600) as server:
        before = server.http.post("/api/v1/queue/next", json={"strategy": "first"}, headers=anna).json()
        server.http.post("/api/v1/images/i0003/flag", json={"reason": "wrong patient"}, headers=anna)
        server.kill()
        server.start()
        assert server.http.get("/api/v1/queue/rules").json()["lease_s"] == 600
        beat = server.http.post(f"/api/v1/queue/leases/{before['lease']['id']}/heartbeat", headers=anna)
        assert beat.status_code == 200, beat.text
        again = server.http.post("/api/v1/queue/next", json={"strategy": "first"}, headers=anna).json()
        assert (again["lease"]["id"], again["resumed"]) == (before["lease"]["id"], True)
        others = [
            server.http.post("/api/v1/queue/next", json={"strategy": "first"}, headers={"X-Labelserver-Person": who})
            for who in ("bea", "carl", "dora")
        ]
        told = [answer.json() for answer in others]
        assert [t["image"]["id"] for t in told[:2]] == ["i0001", "i0002"]
        assert (told[2]["status"], told[2]["leased"], told[2]["flagged"]) == ("all_leased", 3, 1)

"""kill -9 of the server at random moments of a burst of saves from four clients: what was answered 200 is kept."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.storage.checksums import sha256_of
from tests.support.live_server import LiveServer
from tests.support.study_folder import marked, number_in, put_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

APP = Path(__file__).parents[1] / "apps" / "tiny_app"
IMAGES = ["a", "deep/b", "c"]
CLIENTS = 4


@dataclass
class Burst:
    """Four clients that save as fast as they can until the server is gone."""

    port: int
    folder: Path
    first: int
    answered: list[list[tuple[str, int]]] = field(default_factory=lambda: [[] for _ in range(CLIENTS)])
    odd: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.threads = [threading.Thread(target=self._save, args=(n,)) for n in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def wait(self) -> None:
        for thread in self.threads:
            thread.join()

    def _save(self, client: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            self._save_over(connection, client)

    def _save_over(self, connection: http.client.HTTPConnection, client: int) -> None:
        number = self.first + client
        while True:
            image = IMAGES[number // CLIENTS % len(IMAGES)]
            data = marked(self.folder / f"{client}.nii.gz", number).read_bytes()
            head = (
                b'--b\r\nContent-Disposition: form-data; name="params"\r\n\r\n%s\r\n'
                % json.dumps({"number": number}).encode()
            )
            head += b'--b\r\nContent-Disposition: form-data; name="label"; filename="l.nii.gz"\r\n\r\n'
            try:
                connection.request(
                    "PUT",
                    f"/datastore/label?image={image}",
                    head + data + b"\r\n--b--\r\n",
                    {"Content-Type": "multipart/form-data; boundary=b"},
                )
                with connection.getresponse() as answer:
                    text = answer.read()
            except (OSError, http.client.HTTPException):
                return  # the server was killed; nobody was promised anything
            if answer.status != 200:
                self.odd.append(f"{answer.status} {text[:300]!r}")
                return
            self.answered[client].append((image, number))
            number += CLIENTS


def assert_only_whole_files(studies: Path) -> None:
    """Of what anybody may see below ``labels/``, nothing is half, even while the server is dead."""
    for path in (studies / "labels").rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            number_in(path)


def assert_kept(server: LiveServer, studies: Path, answered: list[list[tuple[str, int]]], folder: Path) -> None:
    """Every answered save is a readable revision; the served label is the newest; one client's saves are in order."""
    store = LocalDatastore(studies)
    place: dict[int, tuple[str, int]] = {}
    for image in IMAGES:
        history = store.revisions(ImageId(image), FINAL)
        assert [r.number for r in history] == sorted({r.number for r in history})
        for revision in history:
            number = revision.info["number"]
            assert isinstance(number, int)
            place[number] = (image, revision.number)
        if history:
            current = store.current_revision(ImageId(image), FINAL)
            assert current.number == history[-1].number
            served = server.http.get("/datastore/label", params={"label": image, "tag": "final"})
            assert served.status_code == 200, served.text
            (folder / "served.nii.gz").write_bytes(served.content)
            assert number_in(folder / "served.nii.gz") == current.info["number"]
    for client in answered:
        last: dict[str, int] = defaultdict(int)
        for image, number in client:
            assert number in place, f"the accepted save {number} of {image} is lost"
            found_image, revision_number = place[number]
            assert found_image == image
            assert revision_number > last[image]
            last[image] = revision_number
            file = store.revision_file(ImageId(image), FINAL, revision_number)
            assert number_in(file) == number
    for image in IMAGES:
        for revision in store.revisions(ImageId(image), FINAL):
            assert sha256_of(store.revision_file(ImageId(image), FINAL, revision.number)) == revision.sha256
    assert store.problems() == []
    store.close()


@pytest.mark.parametrize("kills", [10, pytest.param(300, marks=pytest.mark.soak)])
def test_a_server_killed_in_a_burst_of_saves_has_kept_every_answered_one(kills: int, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    for name in IMAGES:
        put_image(studies, f"{name}.nii.gz")
    shutil.copytree(APP, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    chance = random.Random(20261120)
    total = 0
    with LiveServer(tmp_path / "app", studies, LABELSERVER_AUTO_UPDATE_SCORING="false") as server:
        server.http.get("/info/")
        for kill in range(kills):
            burst = Burst(server.port, tmp_path, (kill + 1) * 100_000)
            time.sleep(chance.uniform(0.02, 0.6))  # the moment of the kill is what this test is about
            server.kill()
            burst.wait()
            assert burst.odd == []
            assert_only_whole_files(studies)
            server.start(ready=False)
            assert_kept(server, studies, burst.answered, tmp_path)
            total += sum(len(client) for client in burst.answered)
    assert total > kills, "the bursts were too short to prove anything"

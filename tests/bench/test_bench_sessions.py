"""What a click costs beside the model: in any volume, with eight people at once, while much else goes on."""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from labelserver.client import LabelServerClient
from labelserver.imaging.volumes import write_volume
from labelserver.wire.mask_box import MEDIA_TYPE_ZSTD
from tests.bench.report import Section, quantile
from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

APP = Path(__file__).parents[1] / "apps" / "clicks_app"
CLICKS = 100
PERSONS = 8
ROUNDS = 12
LONG_S = 30
UPLOAD_BYTES = 2**30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("bench-sessions")
    shutil.copytree(APP, folder / "clicks_app", ignore=shutil.ignore_patterns("__pycache__"))
    studies = folder / "studies"
    studies.mkdir()
    volumes = {"ct": (512, 512, 200), "small": (128, 128, 128), "large": (512, 512, 512)}
    volumes |= {f"p{number}": (256, 256, 100) for number in range(PERSONS)}
    for name, shape in volumes.items():
        write_volume(studies / f"{name}.nii", np.zeros(shape, np.int16), np.eye(4), compress=False)
    quiet = {"LABELSERVER_AUTO_UPDATE_SCORING": "false", "LABELSERVER_PREPARED_IMAGES_BYTES": str(4 * 2**30)}
    with LiveServer(folder / "clicks_app", studies, **quiet) as running:
        yield running


class Clicker:
    """Sends clicks as a program does, and keeps how long each took and how large its answer was."""

    def __init__(self, server: LiveServer, person: str, image: str, task: str = "local") -> None:
        self.http = httpx.Client(base_url=server.url, timeout=120, headers={"X-Labelserver-Person": person})
        opened = self.http.post("/api/v1/sessions", json={"task": task, "image": image})
        assert opened.status_code == 201, opened.text
        self._path = f"/api/v1/sessions/{opened.json()['id']}/prompts"
        self._shape = opened.json()["shape"]
        self.seconds: list[float] = []
        self.sizes: list[int] = []
        self._number = 0

    def click(self) -> None:
        self._number += 1
        center = [min(n - 49, 48 + self._number % 8) for n in self._shape]
        body = {"prompts": [{"kind": "point", "points": [center], "frame": "voxel"}]}
        begun = time.perf_counter()
        answer = self.http.post(self._path, json=body, headers={"Accept": MEDIA_TYPE_ZSTD})
        self.seconds.append(time.perf_counter() - begun)
        assert answer.status_code == 200, answer.text
        self.sizes.append(len(answer.content))


def test_a_click_costs_the_same_in_any_volume(server: LiveServer) -> None:
    clickers = {name: Clicker(server, "ann", name) for name in ("ct", "small", "large")}
    for clicker in clickers.values():  # memory that is touched for the first time
        for _ in range(20):
            clicker.click()
        clicker.seconds.clear()
    for _ in range(CLICKS):  # in turn, so that what else goes on meets all alike
        for clicker in clickers.values():
            clicker.click()
    for clicker in clickers.values():
        clicker.http.close()
    about = f"{CLICKS} clicks each over HTTP; the model answers a ready-made ball in 96 x 96 x 96 voxels."
    with Section("Interactive sessions: overhead", about) as section:
        ct = clickers["ct"].seconds
        detail = f"median {statistics.median(ct) * 1000:.1f} ms"
        section.at_most("click in 512 x 512 x 200, p95", quantile(ct, 0.95) * 1000, 10, "ms", detail)
        large, small = (statistics.median(clickers[name].seconds) for name in ("large", "small"))
        detail = f"{large * 1000:.1f} and {small * 1000:.1f} ms"
        section.at_most("512 x 512 x 512 against 128 x 128 x 128, median", large / small, 1.5, "x", detail)
        section.at_most("answer to a local edit", max(clickers["ct"].sizes) / 1024, 20, "KiB")


def test_eight_persons_click_at_once_while_much_else_goes_on(server: LiveServer) -> None:
    clickers = [Clicker(server, f"person-{number}", f"p{number}", "busy") for number in range(PERSONS)]
    for clicker in clickers:
        clicker.click()
        clicker.seconds.clear()
    stop = threading.Event()
    info: list[float] = []

    def ask_info() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while not stop.is_set():
                begun = time.perf_counter()
                assert http.get("/info/").status_code == 200
                info.append(time.perf_counter() - begun)
                stop.wait(0.05)

    def infer() -> None:
        server.infer("long", "ct", {"seconds": LONG_S, "deaf": True}, output="json")

    def upload() -> None:
        def parts() -> Iterator[bytes]:
            block = bytes(2**20)
            head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="big.nii"\r\n\r\n'
            yield head
            for _ in range(UPLOAD_BYTES // len(block)):
                yield block
            yield b"\r\n--b--\r\n"

        with httpx.Client(base_url=server.url, timeout=300) as http:
            http.put("/session/", content=parts(), headers={"Content-Type": "multipart/form-data; boundary=b"})

    others = [threading.Thread(target=work, daemon=True) for work in (ask_info, infer, upload)]
    for thread in others:
        thread.start()
    barrier = threading.Barrier(PERSONS)

    def click(clicker: Clicker) -> None:
        for _ in range(ROUNDS):
            barrier.wait(120)
            clicker.click()

    threads = [threading.Thread(target=click, args=(clicker,)) for clicker in clickers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    others[1].join(LONG_S + 60)
    stop.set()
    others[0].join(60)
    others[2].join(300)
    for clicker in clickers:
        clicker.http.close()
    about = (
        f"{ROUNDS} rounds; the model works 50 ms on each click. A 1 GB upload, an inference of {LONG_S} s that never "
        "yields, and somebody who asks for /info/ run meanwhile."
    )
    with Section("Interactive sessions: eight people at once", about) as section:
        waits = [value for clicker in clickers for value in clicker.seconds]
        median = statistics.median(waits)
        assert len(waits) == PERSONS * ROUNDS
        detail = f"median {median * 1000:.0f} ms, longest {max(waits) * 1000:.0f} ms"
        section.at_most("longest wait against the median", max(waits) / median, 3, "x", detail)
        detail = f"{len(info)} calls, median {statistics.median(info) * 1000:.1f} ms"
        section.at_most("/info/, p99", quantile(info, 0.99) * 1000, 50, "ms", detail)


def test_the_python_client_adds_little(server: LiveServer) -> None:
    with LabelServerClient(server.url, person="ann") as client, client.open_session("local", "ct") as session:
        for number in range(10):
            session.click((100 + number, 100, 100))
        begun = time.perf_counter()
        for number in range(CLICKS):
            session.click((100 + number % 8, 100, 100))
        with Section("Interactive sessions: from Python", "The mask on this side follows each answer.") as section:
            section.note("a click", f"{(time.perf_counter() - begun) / CLICKS * 1000:.1f} ms")

"""How soon the server is there, how small it is, and whether anybody waits for somebody else's inference."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from labelserver.client import LabelServerClient
from labelserver.domain.json_types import JsonObject
from labelserver.phantoms import make_study_set
from tests.bench.report import Section, quantile
from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

CLI = [sys.executable, "-m", "labelserver.cli.main"]
#: times that something is repeated whose best time counts: other work only ever makes it slower
REPEAT = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    make_study_set(folder / "studies", 6)
    words = ["apps", "--download", "--name", "radiology", "--output", str(folder)]
    subprocess.run([*CLI, *words], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[LiveServer]:
    quiet = {"LABELSERVER_AUTO_UPDATE_SCORING": "false"}
    with LiveServer(folder / "radiology", folder / "studies", conf={"models": "segmentation"}, **quiet) as running:
        yield running


def installed_bytes(name: str, known: dict[str, int], extras: tuple[str, ...] = ()) -> int:
    """What a distribution and all that it requires take on the disk, as far as `known` does not count it yet."""
    key = canonicalize_name(name)
    if key in known:
        return 0
    try:
        found = distribution(name)
    except PackageNotFoundError:  # for another platform or Python
        return 0
    files = [Path(str(found.locate_file(file))) for file in found.files or ()]
    known[key] = sum(path.stat().st_size for path in files if path.is_file())
    total = known[key]
    for requirement in map(Requirement, found.requires or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            total += installed_bytes(requirement.name, known, tuple(requirement.extras))
    return total


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def test_the_server_is_there_at_once_and_small(folder: Path) -> None:
    with Section(
        "Start and size", f"The best of {REPEAT} starts: other work on the machine only ever adds."
    ) as section:
        helped = [
            seconds(lambda: subprocess.run([*CLI, "--help"], check=True, capture_output=True)) for _ in range(REPEAT)
        ]
        section.at_most("labelserver --help", min(helped), 0.5, "s")
        starts = [start(folder) for _ in range(REPEAT)]
        detail = "radiology and six phantoms"
        section.note("first GET /info/ in a new app folder", f"{starts[0][0]:.2f} s", detail)
        section.at_most("first GET /info/ after the command", min(info for info, _, _ in starts), 1.0, "s", detail)
        section.at_most("first 200 of GET /readyz", min(ready for _, ready, _ in starts), 8.0, "s", detail)
        section.at_most("idle server process", max(rss for _, _, rss in starts), 150, "MiB")
        size = installed_bytes("labelserver", {})
        section.at_most("installed environment", size / 2**30, 1.6, "GiB", "labelserver and all that it needs to run")


def start(folder: Path) -> tuple[float, float, float]:
    """Seconds from the command to the first /info/ and to readiness; then MiB of the server process."""
    quiet = {"LABELSERVER_AUTO_UPDATE_SCORING": "false"}
    running = LiveServer(folder / "radiology", folder / "studies", conf={"models": "segmentation"}, **quiet)
    begun = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        info = threads.submit(until_ok, running.url + "/info/", begun)
        ready = threads.submit(until_ok, running.url + "/readyz", begun)
        try:
            running.start()
            status = Path(f"/proc/{running.pid}/status").read_text().splitlines()
            rss_kib = int(next(line for line in status if line.startswith("VmRSS")).split()[1])
            return info.result(), ready.result(), rss_kib / 1024
        finally:
            running.http.close()
            running.stop()


def until_ok(url: str, begun: float) -> float:
    """Seconds from `begun` to the first 200."""
    with httpx.Client(timeout=5) as http:
        while time.perf_counter() - begun < 60:
            try:
                if http.get(url).status_code == 200:
                    return time.perf_counter() - begun
            except httpx.TransportError:
                time.sleep(0.005)
    raise AssertionError(f"no answer from {url}")


def latencies_ms(url: str, busy: Callable[[], bool], at_least: int = 50) -> list[float]:
    """One GET /info/ after the other while `busy`."""
    found: list[float] = []
    with httpx.Client(base_url=url, timeout=60) as http:
        http.get("/info/")
        while busy() or len(found) < at_least:
            found.append(1000 * seconds(lambda: http.get("/info/").raise_for_status()))
            time.sleep(0.01)
    return found


def test_nobody_waits_for_a_training_or_an_inference(server: LiveServer, folder: Path) -> None:
    about = "One request after the other, while the worker is idle, while a training runs, while inferences run."
    with Section("GET /info/ beside other work", about) as section:

        def tell(what: str, found: list[float]) -> None:
            p50, p99 = quantile(found, 0.5), quantile(found, 0.99)
            detail = f"{len(found)} requests, p50 {p50:.1f} ms, longest {max(found):.1f} ms"
            section.note(f"{what}, p99", f"{p99:.1f} ms", detail)

        tell("idle", latencies_ms(server.url, lambda: False, 200))
        reference = folder / "studies-reference"
        with LabelServerClient(server.url) as client:
            for number in range(3):
                client.save_label(f"phantom_{number:03d}", reference / f"phantom_{number:03d}.nii.gz")
            job = client.train_start("segmentation", {"max_epochs": 1})
            tell("while a training runs", latencies_ms(server.url, client.train_running))
            client.wait_for_training(job)

            def infer_some() -> list[float]:
                options: JsonObject = {"result_extension": ".nii.gz"}
                return [seconds(lambda: client.infer("segmentation", "phantom_005", options)) for _ in range(5)]

            with ThreadPoolExecutor(1) as thread:
                work = thread.submit(infer_some)
                found = latencies_ms(server.url, lambda: not work.done())
        tell("while inferences run", found)
        inference_ms = 1000 * quantile(work.result(), 0.5)
        detail = f"an inference takes {inference_ms:.0f} ms"
        section.at_most("longest wait to one inference", max(found) / inference_ms, 0.5, "x", detail)

"""Every snippet of the README runs, in the order in which a reader meets them.

The word after a block's language says how it is run: ``make`` (the targets exist), ``install`` (pip would install it),
``server`` (the last line is started and stays up for all later snippets), ``client``, ``app``; none: run as it stands.
The server listens on a free port, so the address in a snippet is replaced.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.live_server import LiveServer

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1:8000"


@dataclass(frozen=True)
class Snippet:
    language: str
    kind: str
    text: str


def snippets() -> list[Snippet]:
    found = re.findall(r"^```(\w+) ?(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [Snippet(*parts) for parts in found]


def one(kind: str) -> str:
    return next(snippet.text for snippet in snippets() if snippet.kind == kind)


def environment() -> dict[str, str]:
    """The commands of this interpreter's environment come first; one thread is enough for tiny trainings."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def shell(text: str, folder: Path, url: str = "") -> str:
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**environment(), "LABELSERVER_URL": url},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ran.returncode == 0, f"{text}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the snippets before the server's start were run."""
    folder = tmp_path_factory.mktemp("newcomer")
    *before, last = one("server").strip().splitlines()
    assert last.startswith("labelserver start_server")
    shell("\n".join(before), folder)
    return folder


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[LiveServer]:
    words = one("server").strip().splitlines()[-1].split()
    assert words[:3] == ["labelserver", "start_server", "--app"]
    assert words[4] == "--studies"
    # Coarse voxels and no scoring beside the trainings: the same snippets, sooner.
    quick = {"conf": {"spacing": "5,5,5"}, "LABELSERVER_AUTO_UPDATE_SCORING": "false"}
    with LiveServer(workspace / words[3], workspace / words[5], *words[6:], **quick) as running:
        yield running


def test_every_snippet_says_how_it_is_run() -> None:
    known = {"bash": {"", "make", "install", "server"}, "python": {"client", "app"}}
    assert all(snippet.kind in known[snippet.language] for snippet in snippets())
    assert [snippet.kind for snippet in snippets()].count("server") == 1


def test_the_app_is_as_short_as_promised() -> None:
    assert len([line for line in one("app").splitlines() if line.strip()]) <= 40


def test_what_is_not_there_yet_is_listed() -> None:
    section = (ROOT / "README.md").read_text().split("## Not there yet")[1].split("\n## ")[0]
    for route in ("/proxy", "/ohif", "/infer/wsi", "/infer/wsi_v2", "dicom_seg"):
        assert route in section


def test_links_and_pictures_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_make_targets_exist() -> None:
    for line in one("make").strip().splitlines():
        subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_package_can_be_installed_as_shown() -> None:
    words = one("install").split()
    assert words == ["pip", "install", "."]
    command = [sys.executable, "-m", *words, "--dry-run", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tour_runs_from_top_to_bottom(server: LiveServer, workspace: Path) -> None:
    tour = [snippet for snippet in snippets() if snippet.kind in ("", "client")]
    assert len(tour) >= 5
    for snippet in tour:
        text = snippet.text.replace(ADDRESS, f"127.0.0.1:{server.port}")
        if snippet.language == "bash":
            shell(text, workspace, server.url)
        else:
            ran = subprocess.run(
                [sys.executable, "-c", text], cwd=workspace, capture_output=True, text=True, timeout=400
            )
            assert ran.returncode == 0, ran.stderr
    assert (workspace / "image.nii.gz").stat().st_size > 10_000
    assert (workspace / "mask.nii.gz").read_bytes()[:2] == b"\x1f\x8b"
    versions = server.http.get("/api/v1/models/segmentation/versions").json()["versions"]
    assert len(versions) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_app_labels_trains_and_infers(workspace: Path, tmp_path: Path) -> None:
    app = tmp_path / "my_app"
    app.mkdir()
    (app / "main.py").write_text(one("app"))
    reference = ROOT / "sample-data" / "reference"
    studies = tmp_path / "studies"
    studies.mkdir()
    for image in sorted((ROOT / "sample-data" / "studies").glob("*.nii.gz"))[:4]:
        (studies / image.name).write_bytes(image.read_bytes())
    with LiveServer(app, studies) as running:
        assert list(running.http.get("/info/").json()["models"]) == ["organs"]
        for number in range(3):
            running.save_label(f"phantom_{number:03d}", reference / f"phantom_{number:03d}.nii.gz")
        ended = running.train("organs", {"max_epochs": 1}, timeout_s=300)
        assert ended["status"] == "DONE", ended
        mask = running.infer("organs", "phantom_003", {"result_extension": ".nii.gz"})
    assert mask[:2] == b"\x1f\x8b"

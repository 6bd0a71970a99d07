"""What `pip install .` gives: the package, the template apps and the phantom generator, without the clone around it."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.house.resolve_constraints import OFFLINE
from tests.support.live_server import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@contextmanager
def running(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[httpx.Client]:
    """A server from the installed wheel."""
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        with httpx.Client() as http:
            wait_until("an answer of the server", lambda: _answers(http, f"http://127.0.0.1:{command[-1]}/healthz"))
            yield http
    finally:
        process.terminate()
        process.wait(30)


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).status_code == 200
    except httpx.TransportError:
        return False


def copied_clone(folder: Path) -> Path:
    """The files that git knows, without anything that was built."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def programs_without_node(folder: Path) -> Path:
    """The system's programs, without Node's."""
    folder.mkdir()
    for place in ("/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            if (
                program.name not in ("node", "nodejs", "npm", "npx", "corepack")
                and not (folder / program.name).exists()
            ):
                (folder / program.name).symlink_to(program)
    return folder


def test_a_fresh_clone_without_node_makes_the_page(tmp_path: Path) -> None:
    """pip fetches Node for the build alone; afterwards an unpacked archive installs without Node and registry."""
    clone = copied_clone(tmp_path / "clone")
    bare = {**os.environ, "PATH": str(programs_without_node(tmp_path / "bin"))}
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(clone), "--no-deps", "--quiet", "--wheel-dir", str(tmp_path)],
        env=bare,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    if ran.returncode and any(word in ran.stderr for word in OFFLINE):
        pytest.skip("no package index answers, so pip cannot fetch Node")
    assert ran.returncode == 0, ran.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        assert "labelserver/web_dist/index.html" in archive.namelist()


def test_the_source_archive_carries_the_page_and_builds_without_node(tmp_path: Path, wheel: Path) -> None:
    build = "import hatchling.build, sys; print(hatchling.build.build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert not (unpacked / "web").exists()
    bare = {**os.environ, "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "pip", "wheel", str(unpacked), "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], check=True, timeout=120, env=bare)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive, zipfile.ZipFile(wheel) as first:
        assert sorted(archive.namelist()) == sorted(first.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the build backend comes with the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(folder)], check=True, timeout=120)
    return next(folder.glob("labelserver-*.whl"))


def test_the_wheel_carries_apps_and_types_and_nothing_else_of_the_clone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    for needed in (
        "web_dist/index.html",
        "carried/apps/radiology/main.py",
        "carried/apps/radiology/README.md",
        "phantoms.py",
        "py.typed",
    ):
        assert f"labelserver/{needed}" in names
    assert not [name for name in names if name.startswith(("tests/", "apps/", "docs/")) or "__pycache__" in name]
    assert sum(item.file_size for item in zipfile.ZipFile(wheel).infolist()) < 5 * 2**20
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: torch")]
    assert required == [line for line in required if ">=" in line and "==" not in line and "<" not in line]


def test_the_page_weighs_little(wheel: Path) -> None:
    """Everything that a browser loads before somebody works, as it travels: 80 kB (1000 bytes) of gzip at most."""
    with zipfile.ZipFile(wheel) as archive:
        index = archive.read("labelserver/web_dist/index.html").decode()
        named = set(re.findall(r"\./(assets/[^\"']+)", index))
        assert {Path(name).suffix for name in named} == {".js", ".css"}
        parts = {name: archive.read(f"labelserver/web_dist/{name}") for name in named} | {"": index.encode()}
        sizes = {name: len(gzip.compress(data, 9)) for name, data in parts.items()}
    assert sum(sizes.values()) <= 80_000, sizes
    assert not re.search(r"(src|href)=[\"'](https?:)?//", index), "something comes from elsewhere"
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=", index), "the policy allows nothing inline"


def test_an_installed_wheel_begins_without_the_clone_and_without_a_network(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(site), "http_proxy": "http://127.0.0.1:9"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "labelserver.cli.main", *words]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert str(site) in run("apps")
    without_node = {**environment, "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "labelserver.cli.main", "start_server", "--studies", str(tmp_path), "--port"]
    with running([*command, str(port := free_port())], without_node, tmp_path) as http:
        page = http.get(f"http://127.0.0.1:{port}/")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        script = re.search(r"assets/[^\"']+\.js", page.text)
        assert script is not None
        answer = http.get(f"http://127.0.0.1:{port}/{script[0]}")
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/javascript")
    run("apps", "--download", "--name", "radiology", "--output", "workspace")
    assert (tmp_path / "workspace" / "radiology" / "main.py").is_file()
    run("datasets", "--download", "--name", "phantom-abdomen", "--output", "workspace", "--count", "2")
    assert len(list((tmp_path / "workspace" / "phantom-abdomen").glob("*.nii.gz"))) == 2

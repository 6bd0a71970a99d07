"""What `pip install .` gives: the package, the template apps and the phantom generator, without the clone around it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


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
    for needed in ("carried/apps/radiology/main.py", "carried/apps/radiology/README.md", "phantoms.py", "py.typed"):
        assert f"labelserver/{needed}" in names
    assert not [name for name in names if name.startswith(("tests/", "apps/", "docs/")) or "__pycache__" in name]
    assert sum(item.file_size for item in zipfile.ZipFile(wheel).infolist()) < 5 * 2**20
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: torch")]
    assert required == [line for line in required if ">=" in line and "==" not in line and "<" not in line]


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
    run("apps", "--download", "--name", "radiology", "--output", "workspace")
    assert (tmp_path / "workspace" / "radiology" / "main.py").is_file()
    run("datasets", "--download", "--name", "phantom-abdomen", "--output", "workspace", "--count", "2")
    assert len(list((tmp_path / "workspace" / "phantom-abdomen").glob("*.nii.gz"))) == 2

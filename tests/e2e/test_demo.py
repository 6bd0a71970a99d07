"""The whole loop without a person, shortened: two rounds, and the second version is better than the first."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.test_server_process import children_of
from tests.support.live_server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEMO = [sys.executable, "-m", "labelserver.cli.main", "demo"]


def test_two_rounds_of_the_demo_improve_the_model(tmp_path: Path) -> None:
    words = ["--workspace", str(tmp_path / "demo"), "--rounds", "2", "--per-round", "3", "--held-out", "1"]
    begun = time.monotonic()
    ran = subprocess.run([*DEMO, *words, "--epochs", "2"], capture_output=True, text=True, timeout=590)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = re.findall(r"^ +(\d) +(\d+) +(\d+) +(0\.\d{3}) ", ran.stdout, re.MULTILINE)
    assert [row[:3] for row in rows] == [("1", "3", "1"), ("2", "6", "2")]
    assert float(rows[1][3]) > float(rows[0][3])
    assert "rose from" in ran.stdout
    people = re.search(r"Labels by person: annotator A (\d+), annotator B (\d+)", ran.stdout)
    assert people is not None, ran.stdout
    assert int(people[1]) + int(people[2]) == 6
    with Image.open(tmp_path / "demo" / "learning-curve.png") as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("L").getcolors() or []) > 10
    print(ran.stdout, f"{time.monotonic() - begun:.0f} s")


def test_the_demo_leaves_a_folder_alone_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    ran = subprocess.run([*DEMO, "--workspace", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert (tmp_path / "thesis.txt").exists()


def test_ending_the_demo_ends_its_server(tmp_path: Path) -> None:
    command = [*DEMO, "--workspace", str(tmp_path / "demo"), "--rounds", "2", "--per-round", "1", "--held-out", "1"]
    demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        servers = wait_until("the demo's server", lambda: children_of(demo.pid), 60)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(90) == 128 + signal.SIGTERM
    finally:
        demo.kill()
    assert not any(Path(f"/proc/{pid}").exists() for pid in servers)

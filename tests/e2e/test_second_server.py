"""A second server on the same studies is refused with the first one's name; other verbs may open the folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labelserver.bootstrap import build_server
from labelserver.settings import Settings
from tests.support.study_folder import put_image


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "labelserver.cli.main", *words], capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
def test_the_second_server_ends_with_status_1_and_names_the_first(tmp_path: Path) -> None:
    put_image(tmp_path / "studies", "a.nii.gz")
    studies = str(tmp_path / "studies")
    server = build_server(Settings(studies=studies))
    try:
        refused = command("start_server", "--studies", studies, "--port", "0")
        assert refused.returncode == 1
        assert "in use by process" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert command("datasets", "log", "--studies", studies).returncode == 0
        assert command("datasets", "verify", "--studies", studies).returncode == 0
    finally:
        server.close()

"""``labelserver evaluate clicks`` measures a model here and at a running server, and goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from labelserver.cli.main import run
from labelserver.imaging.volumes import write_volume
from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

APP = Path(__file__).parents[1] / "apps" / "drawing_app"


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(words)
    return int(ended.value.code or 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two images with a ball each, and their labels in another folder."""
    for number, center in enumerate(((12, 12, 10), (10, 13, 9))):
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in (24, 24, 20)), indexing="ij"), -1)
        ball = ((grid - center) ** 2).sum(-1) <= 25
        noise = np.random.default_rng(number).normal(0, 5, ball.shape)
        for folder, voxels in (("studies", (ball * 100 + noise).astype(np.int16)), ("truth", ball.astype(np.uint8))):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_volume(tmp_path / folder / f"ball_{number}.nii.gz", voxels, np.eye(4), compress=True)
    (tmp_path / "truth" / "labels.json").write_text('{"1": "object"}')
    shutil.copytree(APP, tmp_path / "app")
    return tmp_path


def asked(place: Path, output: str, *words: str) -> list[str]:
    folders = ["--studies", str(place / "studies"), "--labels", str(place / "truth"), "--output", str(place / output)]
    return ["evaluate", "clicks", *folders, "--clicks", "3", *words]


def test_a_model_is_measured_here_and_at_a_server_alike(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*asked(place, "here.json", "--app", str(place / "app"), "--model", "ball")) == 0
    here = json.loads((place / "here.json").read_text())
    assert [one["image"] for one in here["objects"]] == ["ball_0", "ball_1"]
    assert "Written" in capsys.readouterr().out
    assert (place / "here.png").read_bytes().startswith(b"\x89PNG")
    with LiveServer(place / "app", place / "studies", LABELSERVER_AUTO_UPDATE_SCORING="false") as server:
        assert command(*asked(place, "there.json", "--server", server.url, "--model", "ball")) == 0
        assert command(*asked(place, "none.json", "--server", server.url, "--model", "nobody")) == 1
        assert "nobody" in capsys.readouterr().err
        assert server.http.get("/api/v1/sessions").json()["sessions"] == [], "every session was closed"
    there = json.loads((place / "there.json").read_text())
    assert [one["dice"] for one in there["objects"]] == [one["dice"] for one in here["objects"]]
    assert all(dice[-1] > 0.6 for dice in (one["dice"] for one in there["objects"]))


def test_what_was_measured_already_is_not_measured_again(place: Path) -> None:
    model = ("--app", str(place / "app"), "--model", "ball")
    assert command(*asked(place, "run.json", *model, "--limit", "1")) == 0
    first = json.loads((place / "run.json").read_text())
    assert len(first["objects"]) == 1
    first["objects"][0]["dice"] = [0.123] * 3
    (place / "run.json").write_text(json.dumps(first))
    assert command(*asked(place, "run.json", *model)) == 0
    both = json.loads((place / "run.json").read_text())["objects"]
    assert [one["image"] for one in both] == ["ball_0", "ball_1"]
    assert both[0]["dice"] == [0.123] * 3
    assert both[1]["dice"][-1] > 0.5

"""The template app: its options are read and checked, all of them are documented, and its tasks fit together."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from labelserver.domain.errors import AppLoadFailed
from labelserver.tasks.planned import learning_strategies

APP = Path(__file__).parents[2] / "apps" / "radiology"


@pytest.fixture
def configuration(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The app's class of options, imported as the server does: with the app folder on the path."""
    monkeypatch.syspath_prepend(str(APP))
    for name in [name for name in sys.modules if name == "lib" or name.startswith("lib.")]:
        monkeypatch.delitem(sys.modules, name)
    from lib.configuration import Configuration

    yield Configuration
    for name in [name for name in sys.modules if name == "lib" or name.startswith("lib.")]:
        del sys.modules[name]


def test_options_are_read_from_text(configuration: Any) -> None:
    found = configuration.parse(
        {
            "models": "all",
            "labels": "liver, tumour",
            "network": "8,16",
            "spacing": "1.5",
            "roi_size": "[64, 64, 32]",
            "intensity_window": "-100,300",
            "skip_trainers": "true",
            "port": "foreign keys are left alone",
        }
    )
    assert found.models == ("segmentation", "seeds", "click3d", "deepedit")
    assert found.labels == ("liver", "tumour")
    assert found.network == (8, 16)
    assert found.spacing == (1.5, 1.5, 1.5)
    assert found.roi_size == (64, 64, 32)
    assert found.intensity_window == (-100.0, 300.0)
    assert found.skip_trainers is True
    assert configuration.parse({}) == configuration()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models", "deepgrow"),
        ("click_roi", "44"),
        ("click_spacing", "-1"),
        ("deepedit_size", "50"),
        ("accept_licences", "everything"),
        ("labels", "a,a"),
        ("labels", ","),
        ("network", "16"),
        ("network", "many"),
        ("roi_size", "50"),
        ("roi_size", "48,48"),
        ("spacing", "0"),
        ("intensity_window", "5,1"),
        ("dropout", "1"),
        ("skip_scoring", "perhaps"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(configuration: Any, key: str, value: str) -> None:
    with pytest.raises(AppLoadFailed, match=f"--conf {key}"):
        configuration.parse({key: value})


def test_every_option_is_documented(configuration: Any) -> None:
    described = set(re.findall(r"^\| `(\w+)` \|", (APP / "README.md").read_text(), re.MULTILINE))
    assert {field.name for field in fields(configuration)} <= described
    assert f"| `dropout` | `{configuration().dropout}` |" in (APP / "README.md").read_text()


@pytest.mark.slow
def test_the_app_registers_tasks_that_share_one_network(tmp_path: Path) -> None:
    from labelserver.app.loading import load_app

    studies, folder = tmp_path / "studies", tmp_path / "radiology"
    studies.mkdir()
    shutil.copytree(APP, folder)
    app = load_app(folder, str(studies), {"models": "segmentation", "labels": "liver,spleen", "network": "4,8"})
    info = app.info()
    assert info["models"]["segmentation"]["labels"] == {"liver": 1, "spleen": 2}
    assert set(info["trainers"]) == {"segmentation"}
    assert set(info["strategies"]) == {"random", "first", "last", "epistemic", *learning_strategies()}
    assert "default" in info["strategies"]
    assert set(info["scoring"]) == {"intensity", "quality", "dice", "sum", "segmentation_epistemic"}
    config = info["trainers"]["segmentation"]["config"]
    readme = (APP / "README.md").read_text()
    assert f"| `max_epochs` | `{config['max_epochs']}` |" in readme
    assert f"| `steps_per_epoch` | `{config['steps_per_epoch']}` |" in readme
    assert set(load_app(folder, str(studies), {"models": "all"}).info()["models"]) == {
        "segmentation",
        "seeds",
        "click3d",
        "deepedit",
    }
    clicks = load_app(folder, str(studies), {}).info()
    assert clicks["models"]["seeds"]["interactive"]["label_values"] == clicks["models"]["click3d"]["labels"]
    assert set(clicks["trainers"]) == {"segmentation", "click3d"}
    few = load_app(folder, str(studies), {"skip_trainers": "true", "skip_scoring": "true", "skip_strategies": "true"})
    assert few.info()["trainers"] == {}
    assert few.info()["scoring"] == {}
    assert set(few.info()["strategies"]) == {"random", "first", "last"}

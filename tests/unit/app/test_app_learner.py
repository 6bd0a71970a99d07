"""A simulation whose learner is an app's own training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from labelserver import settings as settings_module
from labelserver.app.app_learner import AppLearner
from labelserver.app.strategy_evaluation import read_cases, split_cases
from labelserver.domain.errors import TaskFailed
from labelserver.learning.choosing import CHOOSERS
from labelserver.learning.simulation import Budget, DataSet, simulate
from labelserver.phantoms import make_study_set
from labelserver.settings import Settings

APP = Path(__file__).parents[2] / "apps" / "strategy_app"


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "_installed", Settings())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setenv("PYTHONPATH", "")


@pytest.mark.slow
def test_each_round_trains_anew_on_the_labels_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    make_study_set(tmp_path / "studies", 5, reference_folder=tmp_path / "labels", spacing_mm=12.0)
    data = DataSet.of(*split_cases(read_cases(tmp_path / "studies", tmp_path / "labels"), 0.2))
    params = {"max_epochs": 1, "steps_per_epoch": 2, "patches_per_case": 1, "device": "cpu"}
    learner = AppLearner(APP, "segmentation", tmp_path / "studies", tmp_path / "labels", params=params)
    trained: list[list[str]] = []
    train = learner.train
    monkeypatch.setattr(
        learner, "train", lambda cases, *rest: (trained.append([c.name for c in cases]), train(cases, *rest))[1]
    )
    rounds = simulate(data, learner, CHOOSERS["default"].choose, Budget(1, 1, 1), 0)
    assert [one.labels for one in rounds] == [1, 2]
    assert trained == [[rounds[0].picks[0][0]], [rounds[0].picks[0][0], rounds[1].picks[0][0]]]
    assert "unsure" in rounds[1].picks[0][1]
    assert 0 <= rounds[1].dice <= 1
    assert not (APP / "model").exists(), "the app itself is left as it is"


def test_an_app_without_such_a_trainer_is_named(tmp_path: Path) -> None:
    make_study_set(tmp_path / "studies", 1, reference_folder=tmp_path / "labels", spacing_mm=20.0)
    cases = read_cases(tmp_path / "studies", tmp_path / "labels")
    learner = AppLearner(APP, "nothing", tmp_path / "studies", tmp_path / "labels")
    with pytest.raises(TaskFailed, match="no model 'nothing'"):
        learner.train(cases, 0, 0)

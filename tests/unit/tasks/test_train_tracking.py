"""Trackers write what a training measures where they are installed, and nobody misses them where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_fakes import TinyTrain, Watcher, make_store, tiny

from labelserver.contracts.progress import watched_by
from labelserver.tasks import train_tracking

pytestmark = pytest.mark.slow


def run(folder: Path, **request: Any) -> TinyTrain:
    task = tiny(folder)
    with watched_by(Watcher()):
        task({"model": "tiny", "max_epochs": 2, "seed": 3, **request}, make_store(folder, 3))
    return task


def test_without_a_tracker_nothing_is_offered_and_a_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_tracking, "is_installed", lambda package: False)
    task = run(tmp_path, tracking="mlflow")
    assert task.config()["tracking"] == ["None"]
    assert not list((tmp_path / "app").rglob("mlruns"))


def test_mlflow_is_the_default_where_it_is_wanted_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tracking, "is_installed", lambda package: True)
    assert train_tracking.tracking_choices("mlflow") == ["mlflow", "None"]
    assert train_tracking.tracking_choices(None) == ["None", "mlflow"]


def test_tensorboard_gets_loss_and_metrics_where_it_is_installed(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, tracking="None")
    folder = next((tmp_path / "app").rglob("events_*"))
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    assert {"train_mean_dice", "val_mean_dice"} <= set(found.Tags()["scalars"])


def test_mlflow_gets_loss_and_metrics_where_it_is_installed(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    place = (tmp_path / "mlruns").as_uri()
    run(tmp_path, tracking="mlflow", tracking_uri=place, tracking_experiment_name="organs")
    client = mlflow.MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name("organs")
    metrics = client.search_runs([experiment.experiment_id])[0].data.metrics
    assert {"train_mean_dice", "val_mean_dice"} <= set(metrics)

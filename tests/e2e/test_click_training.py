"""A short training on phantoms already follows clicks: the measured counts are in tests/bench/test_bench_clicks.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from labelserver.app.click_evaluation import InProcessClicker, Plan, clicked, objects_of, summarised
from labelserver.phantoms import LABELS, make_study_set
from labelserver.tasks.click3d import Click3d, click_network
from labelserver.tasks.click_train import Click3dTrain
from tests.bench.test_bench_clicks import Cases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GEOMETRY = {"roi": 32, "intensity_window": (-160.0, 240.0), "spacing_mm": 6.0}


def test_a_short_training_follows_clicks_on_held_out_phantoms(tmp_path: Path) -> None:
    make_study_set(tmp_path / "train", 8, seed=100, spacing_mm=5.0)
    make_study_set(tmp_path / "test", 2, seed=999, spacing_mm=5.0)
    published = tmp_path / "click3d.pt"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = Click3dTrain(tmp_path / "model", click_network(), LABELS, publish_path=str(published), **GEOMETRY)  # type: ignore[arg-type]
        trainer({"max_epochs": 4, "steps_per_epoch": 50, "seed": 1}, Cases(tmp_path / "train"))  # type: ignore[arg-type]
        clicker = InProcessClicker(Click3d(published, click_network(), LABELS, **GEOMETRY))  # type: ignore[arg-type]
        names = {value: name for name, value in LABELS.items()}
        objects = objects_of(tmp_path / "test", tmp_path / "test-reference", names)
        found = summarised([clicked(clicker, one, Plan(5)) for one in objects], 5)
    finally:
        torch.set_num_threads(threads)
    assert float(str(found["dice@1"])) >= 0.5
    assert float(str(found["dice@5"])) >= 0.7
    assert found["far_changes"] == 0

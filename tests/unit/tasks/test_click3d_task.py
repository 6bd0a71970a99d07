"""The click network's task: channels, fixed cost, orientation, and training that learns to follow clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_fakes import Watcher, make_store

from labelserver.contracts.model_store import writing_to
from labelserver.contracts.progress import watched_by
from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.model_store.local import LocalModelStore
from labelserver.tasks.click3d import Click3d, click_network
from labelserver.tasks.click_channels import CHANNELS, drawn
from labelserver.tasks.click_train import Click3dTrain, ClickLoss
from labelserver.tasks.hints import Hint
from labelserver.tasks.prompting import ClickState, PromptedImage

SHAPE = (16, 16, 16)


class Follower(torch.nn.Module):
    """Answers the bump of positive points: stands for a trained network."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(-0.4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        Follower.calls += 1
        assert inputs.shape[1:] == (9, 16, 16, 16)
        return (inputs[:, 3:4] + self.offset) * 20


def hint(at: tuple[int, int, int], positive: bool = True, age: int = 0, kind: PromptKind = PromptKind.POINT) -> Hint:
    region = np.zeros(SHAPE, bool)
    region[at] = True
    return Hint(kind, positive, region, age, new=age == 0)


def test_prompts_fade_with_distance_and_age() -> None:
    image = np.zeros(SHAPE, np.float32)
    channels = drawn(image, image, [hint((4, 8, 8), age=1), hint((12, 8, 8)), hint((8, 2, 2), positive=False)])
    points = channels[CHANNELS.index("point+")]
    assert points[12, 8, 8] == 1
    assert points[4, 8, 8] == pytest.approx(0.9)
    assert 1 > points[12, 9, 8] > points[12, 10, 8] > 0
    assert points[8, 8, 8] < points[9, 8, 8]
    assert channels[CHANNELS.index("point-")][8, 2, 2] == 1
    assert channels[CHANNELS.index("box+")].max() == 0


def test_contrast_is_about_what_lies_under_the_positive_prompts() -> None:
    image = np.zeros(SHAPE, np.float32)
    image[8:] = 0.5
    contrast = drawn(image, np.zeros_like(image), [hint((12, 8, 8))])[CHANNELS.index("contrast")]
    assert contrast[12, 4, 4] == 0
    assert contrast[2, 4, 4] < -0.9


@pytest.mark.parametrize("affine", [np.eye(4), np.array([[0, 0, -1, 5], [0, -1, 0, 3], [2, 0, 0, 0], [0, 0, 0, 1.0]])])
@pytest.mark.parametrize("at", [(6, 20, 8), (25, 4, 15), (0, 0, 0)])
def test_masks_land_where_the_click_was_in_one_pass(
    tmp_path: Path, affine: np.ndarray, at: tuple[int, int, int]
) -> None:
    torch.save(Follower().state_dict(), tmp_path / "w.pt")
    task = Click3d(tmp_path / "w.pt", Follower(), ["organ"], roi=16)
    shape = (30, 26, 18)
    prepared = task.prepare(PromptedImage(np.zeros(shape, np.int16), Grid(shape, affine)))
    Follower.calls = 0
    prompt = Prompt(PromptKind.POINT, "organ", True, np.array([at], dtype=float))
    answers = list(task.predict(prepared, ClickState((prompt,), 1, np.zeros(shape, np.uint8), {"organ": 1})))
    assert Follower.calls == 1
    assert len(answers) == 1
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(a, a + n) for a, n in zip(answers[0].lo, answers[0].values.shape, strict=True))] = answers[
        0
    ].values
    assert mask[at] == 1
    away = np.abs((np.argwhere(mask) - at) * np.linalg.norm(affine[:3, :3], axis=0)).max()
    assert away <= 5


def test_until_a_version_is_trained_seeds_answer_and_say_so(tmp_path: Path) -> None:
    task = Click3d(tmp_path / "none.pt", click_network((4, 8)), ["organ"], roi=16)
    shape = (20, 20, 20)
    prepared = task.prepare(PromptedImage(np.zeros(shape, np.int16), Grid(shape, np.eye(4))))
    prompt = Prompt(PromptKind.POINT, "organ", True, np.array([[10.0, 10, 10]]))
    found = list(task.predict(prepared, ClickState((prompt,), 1, np.zeros(shape, np.uint8), {"organ": 1})))
    assert "seeds" in str(found[-1].notes["engine"])


def test_a_window_that_the_network_cannot_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        Click3d("w.pt", click_network((4, 8)), ["organ"], roi=44)


def test_the_loss_does_not_look_where_nobody_looked() -> None:
    truth = torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8)
    truth[..., :2] = 255
    scores = torch.full(truth.shape, -9.0)
    worse = scores.clone()
    worse[..., :2] = 9
    assert ClickLoss()(scores, truth) == ClickLoss()(worse, truth)


@pytest.mark.slow
def test_training_publishes_through_the_model_store_and_two_runs_are_equal(tmp_path: Path) -> None:
    store = make_store(tmp_path, 4)
    found: list[Any] = []
    for run in ("a", "b"):
        versions = LocalModelStore(tmp_path / run)
        (tmp_path / run / "model").mkdir(parents=True)
        trainer = Click3dTrain(
            tmp_path / run / "model" / "click3d",
            click_network((8, 16)),
            ["cube"],
            roi=16,
            publish_path=str(tmp_path / run / "model" / "click3d.pt"),
            val_interval=5,
        )
        with watched_by(Watcher()), writing_to(versions):
            trainer({"model": "click3d", "max_epochs": 5, "steps_per_epoch": 8, "val_clicks": 3, "seed": 1}, store)  # type: ignore[arg-type]
        found.append(versions.version("click3d", 1))
    assert found[0].key_metric == "val_dice_last_click"
    assert set(found[0].metrics) == {"val_dice_last_click", "val_dice_first_click", "val_clicks_to_85"}
    assert found[0].metrics["val_dice_last_click"] > 0.6
    assert found[0].metrics == found[1].metrics

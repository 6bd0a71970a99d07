"""The ready-made click models of MONAI's transforms: they answer where the click was, and they train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from training_fakes import make_store

from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.tasks.deepedit import AddFoundClicksd, DeepEdit, DeepEditTrain, deepedit_labels, deepedit_network
from labelserver.tasks.deepgrow import (
    DeepGrow2D,
    DeepGrow3D,
    DeepGrow3DTrain,
    deepgrow_network,
    guidance_channels,
)
from labelserver.tasks.hints import hints_on
from labelserver.tasks.prompting import ClickState, PromptedImage
from labelserver.tasks.windows import window_at

SIZE = (16, 16, 16)
SMALL = (4, 4, 8, 8, 8, 4)


class Bump(torch.nn.Module):
    """Positive where a positive click is near: stands for a trained DeepGrow."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(-0.3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs[:, 1:2] + self.offset) * 20


def saved(folder: Path, network: torch.nn.Module) -> str:
    path = folder / "weights.pt"
    torch.save(network.state_dict(), path)
    return str(path)


def click(at: tuple[float, float, float]) -> Prompt:
    return Prompt(PromptKind.POINT, "organ", True, np.array([at]))


def answered(task: Any, shape: tuple[int, int, int], at: tuple[float, float, float]) -> np.ndarray:
    image = PromptedImage(np.zeros(shape, np.int16), Grid(shape, np.diag([-1.0, 1.0, 2.0, 1.0])))
    mask = np.zeros(shape, np.uint8)
    state = ClickState((click(at),), 1, mask, {"organ": 1})
    last = list(task.predict(task.prepare(image), state))[-1]
    assert last.final
    mask[tuple(slice(a, a + n) for a, n in zip(last.lo, last.values.shape, strict=True))] = last.values
    return mask


def test_guidance_channels_are_monais_bumps() -> None:
    grid = Grid((24, 24, 24), np.eye(4))
    window = window_at(np.full(3, 12.0), grid, 16)
    hints = hints_on(window, [(click((10, 12, 14)), True), (click((14, 14, 10)), False)])
    found = guidance_channels(np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32), hints)
    assert found.shape == (3, *SIZE)
    for channel, prompt in ((1, (10, 12, 14)), (2, (14, 14, 10))):
        at = np.rint(window.to_patch(np.array([prompt], dtype=float)))[0].astype(int)
        assert np.unravel_index(found[channel].argmax(), SIZE) == tuple(at)


@pytest.mark.parametrize("at", [(6, 20, 8), (25, 4, 15)])
def test_deepgrow_3d_answers_where_the_click_was(tmp_path: Path, at: tuple[int, int, int]) -> None:
    task = DeepGrow3D(saved(tmp_path, Bump()), Bump(), ["organ"], roi=16)
    mask = answered(task, (30, 26, 18), at)
    assert mask[at] == 1
    assert np.abs(np.argwhere(mask).mean(axis=0) - at).max() < 1.0


def test_deepgrow_2d_answers_in_the_slice_of_the_click_alone(tmp_path: Path) -> None:
    task = DeepGrow2D(saved(tmp_path, Bump()), Bump(), ["organ"], roi=16)
    mask = answered(task, (30, 26, 9), (12, 9, 4))
    assert mask[12, 9, 4] == 1
    assert set(np.argwhere(mask)[:, 2]) == {4}


def test_deepgrow_2d_takes_a_drawn_scribble_and_a_picture(tmp_path: Path) -> None:
    task = DeepGrow2D(saved(tmp_path, deepgrow_network(2, SMALL)), deepgrow_network(2, SMALL), ["organ"], roi=32)
    assert answered(task, (30, 26, 1), (12, 9, 0)).shape == (30, 26, 1)


def test_deepedit_counts_channels_in_label_order_and_background_last() -> None:
    assert deepedit_labels({"spleen": 7, "background": 0, "liver": 3}) == {"liver": 1, "spleen": 2, "background": 0}


def test_deepedit_answers_clicks_and_without_clicks(tmp_path: Path) -> None:
    labels = ["organ", "vessel"]
    network = deepedit_network(labels, (4, 8, 8))
    image = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(0, 90, (20, 22, 12)).astype(np.int16), np.eye(4)), image)
    for kind, request in (("deepedit", {"organ": [[4, 5, 6]], "background": [[1, 1, 1]]}), ("segmentation", {})):
        task = DeepEdit(saved(tmp_path, network), network, labels, spatial_size=SIZE, type=kind)
        file, answer = task({"image": str(image), **request})
        assert nib.load(file).shape == (20, 22, 12)
        assert answer["label_names"] == {"organ": 1, "vessel": 2}
        Path(file).unlink()


@pytest.mark.parametrize("before", [None, [], [None], [[1, 3, 3, 3]]])
def test_a_label_without_a_click_so_far_takes_simulated_ones(before: Any) -> None:
    label = np.zeros((1, *SIZE), np.float32)
    label[:, 4:12, 4:12, 4:12] = 1
    mistakes = [label, np.zeros_like(label)]
    data = {
        "image": label,
        "label": label,
        "label_names": {"cube": 1, "background": 0},
        "guidance": {"cube": [[1, 8, 8, 8]], "background": before},
        "discrepancy": {"cube": mistakes, "background": mistakes},
        "probability": 1.0,
    }
    clicks = AddFoundClicksd(keys="NA", guidance="guidance", discrepancy="discrepancy", probability="probability")
    found = clicks.set_random_state(1)(data)["guidance"]
    assert all(len(point) == 4 for points in found.values() for point in points)
    assert sum(map(len, found.values())) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deepedit", "deepgrow"])
def test_training_runs_and_its_weights_answer(tmp_path: Path, kind: str) -> None:
    store = make_store(tmp_path, 3)
    published = tmp_path / "app" / "model" / "it.pt"
    published.parent.mkdir(parents=True)
    options: dict[str, Any] = {"publish_path": str(published)}
    trainer: Any
    task: Any
    if kind == "deepedit":
        network = deepedit_network(["cube"], (4, 8, 8))
        trainer = DeepEditTrain(tmp_path / "m", network, ["cube"], spatial_size=SIZE, **options)
        task = DeepEdit(str(published), network, ["cube"], spatial_size=SIZE)
        request = {"max_epochs": 2, "max_clicks": 2}
    else:
        network = deepgrow_network(3, SMALL)
        trainer = DeepGrow3DTrain(tmp_path / "m", network, ["cube"], roi=32, val_interval=1, **options)
        task = DeepGrow3D(str(published), network, ["cube"], roi=32)
        request = {"max_epochs": 2, "steps_per_epoch": 2, "val_clicks": 2}
    stats = trainer({"seed": 1, **request}, store)
    assert stats["total_time"]
    assert published.is_file()
    _, answer = task({"image": store.get_image_uri("case_0"), "foreground": [[8, 8, 8]], "cube": [[8, 8, 8]]})
    assert answer["label_names"] == {"cube": 1}

"""Looking at a pool: only what is stale, broken off and taken up again, and what a look holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from labelserver.contracts.progress import Silent, watched_by
from labelserver.contracts.scores import INTENSITY
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.volumes import write_volume
from labelserver.learning.small_maps import largest_box, largest_slices
from labelserver.tasks.intensity_scoring import IntensityScoring
from labelserver.tasks.pool_looks import class_probabilities
from labelserver.tasks.pool_scoring import PoolScoring
from labelserver.tasks.segmentation import SegmentationInfer

SHAPE = (12, 12, 12)


def network(seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(3, 1, 3, channels=(4, 8), strides=(2,), norm="INSTANCE", dropout=0.3)


def save_weights(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": network(seed).state_dict()}, path)


def task(path: Path, *, sampling: bool = True) -> SegmentationInfer:
    return SegmentationInfer(
        path,
        network(),
        ["organ", "gland"],
        spacing_mm=(1, 1, 1),
        roi_size=SHAPE,
        intensity_window=(0, 255),
        train_mode=sampling,
        skip_writer=True,
    )


def studies(folder: Path, count: int) -> LocalDatastore:
    folder.mkdir(parents=True)
    for number in range(count):
        voxels = np.random.default_rng(number).integers(0, 255, SHAPE).astype(np.int16)
        write_volume(folder / f"i{number:03}.nii.gz", voxels, np.eye(4), compress=True)
    return LocalDatastore(folder, auto_reload=False)


class Watched(Silent):
    """Counts steps, and asks for the end after some; `at_step` is told before each image."""

    def __init__(self, stop_after: int = 10**9, at_step: Callable[[], None] = lambda: None) -> None:
        self.steps, self.waits, self.stop_after, self.at_step = 0, 0, stop_after, at_step

    def report(self, data: JsonObject) -> None:
        self.steps += 1

    def should_stop(self) -> bool:
        return self.steps >= self.stop_after

    def yield_device(self, device: str) -> None:
        self.waits += 1
        self.at_step()


def test_a_second_run_does_nothing_and_new_weights_make_all_stale(tmp_path: Path) -> None:
    store, weights = studies(tmp_path / "s", 4), tmp_path / "model" / "m.pt"
    scoring = PoolScoring(task(weights), "m", looks=2)
    assert scoring({}, store)["left"] == 4  # no weights yet
    save_weights(weights, 1)
    first = scoring({}, store)
    assert (first["executed"], first["fresh"], first["left"], first["failed"]) == (4, 0, 0, {})
    again = scoring({}, store)
    assert (again["executed"], again["fresh"]) == (0, 4)
    save_weights(weights, 2)
    second = scoring({}, store)
    assert (second["executed"], second["fresh"]) == (4, 0)
    assert second["version"] != first["version"]
    assert [one["images"] for one in store.scored() if one["kind"] == "m"] == [4]


def test_only_an_image_with_other_content_is_looked_at_again(tmp_path: Path) -> None:
    store, weights = studies(tmp_path / "s", 3), tmp_path / "m.pt"
    save_weights(weights, 1)
    scoring = PoolScoring(task(weights), "m", looks=1)
    scoring({}, store)
    touched, changed = (tmp_path / "s" / f"i{n:03}.nii.gz" for n in (0, 1))
    touched.touch()
    write_volume(changed, np.zeros(SHAPE, np.int16), np.eye(4), compress=True)
    store.refresh()
    seen: list[str] = []
    look = scoring.look
    scoring.look = lambda image, *rest: (seen.append(image), look(image, *rest))[1]  # type: ignore[method-assign]
    assert scoring({}, store)["executed"] == 1
    assert seen == ["i001"]
    assert store.stale("m", scoring.version(), store.list_images()) == []


def test_a_run_that_was_stopped_goes_on_with_the_rest(tmp_path: Path) -> None:
    store, weights = studies(tmp_path / "s", 6), tmp_path / "m.pt"
    save_weights(weights, 1)
    scoring = PoolScoring(task(weights), "m", looks=1)
    with watched_by(Watched(stop_after=2)):
        assert scoring({}, store)["left"] == 4
    rest = scoring({}, store)
    assert (rest["executed"], rest["fresh"]) == (4, 2)


def test_a_spent_budget_ends_a_run_and_the_device_is_given_up_between_images(tmp_path: Path) -> None:
    store, weights = studies(tmp_path / "s", 3), tmp_path / "m.pt"
    save_weights(weights, 1)
    scoring = PoolScoring(task(weights), "m", looks=1)
    assert scoring({"budget_s": 1e-9}, store)["left"] == 3
    watched = Watched()
    with watched_by(watched):
        scoring({}, store)
    assert watched.waits == 3


def test_new_weights_in_the_middle_end_the_run_that_uses_the_old_ones(tmp_path: Path) -> None:
    store, weights = studies(tmp_path / "s", 4), tmp_path / "m.pt"
    save_weights(weights, 1)
    scoring = PoolScoring(task(weights), "m", looks=1)
    watched = Watched()

    def publish() -> None:
        if watched.waits == 2:
            save_weights(weights, 2)

    watched.at_step = publish
    with watched_by(watched):
        assert scoring({}, store)["left"] == 2
    assert scoring({}, store)["executed"] == 4


@pytest.mark.parametrize("ways", ["dropout", "flips", "tasks"])
def test_a_look_holds_scores_an_embedding_and_a_map(tmp_path: Path, ways: str) -> None:
    store = studies(tmp_path / "s", 1)
    for seed in (1, 2):
        save_weights(tmp_path / f"m{seed}.pt", seed)
    tasks = [task(tmp_path / f"m{seed}.pt", sampling=ways == "dropout") for seed in (1, 2)]
    scoring = PoolScoring(tasks if ways == "tasks" else tasks[0], "m", looks=3, ways=ways)
    scoring({}, store)
    look = store.look_at("i000")
    assert look is not None
    assert set(look.scores) == {"entropy", "margin", "bald", "foreground", "epistemic_entropy"}
    assert all(0 <= value <= 1 for value in look.scores.values())
    assert look.scores["bald"] > 1e-6
    assert len(look.classes) == 2
    assert len(look.embedding) == 8  # channels of the innermost layer
    assert look.picture.startswith(b"\x89PNG")
    assert store.get_image_info("i000")["entropy"] == pytest.approx(look.scores["entropy"], abs=1e-6)
    assert store.get_image_info("i000")["scored_by"] == f"m@{look.version}"
    assert scoring.look("i000", look.version, {}, store).scores == look.scores  # the same seed, the same look


def test_one_broken_image_keeps_no_other_from_its_score(tmp_path: Path) -> None:
    store, weights = studies(tmp_path / "s", 3), tmp_path / "m.pt"
    save_weights(weights, 1)
    (tmp_path / "s" / "i001.nii.gz").write_bytes(b"no image")
    found = PoolScoring(task(weights), "m", looks=1)({}, store)
    assert found["executed"] == 2
    assert list(found["failed"]) == ["i001"]
    plain = IntensityScoring()({}, store)
    assert (plain["executed"], list(plain["failed"])) == (2, ["i001"])


def test_intensities_tell_images_apart_without_a_network(tmp_path: Path) -> None:
    store = studies(tmp_path / "s", 3)
    assert IntensityScoring()({}, store)["executed"] == 3
    assert IntensityScoring()({}, store)["executed"] == 0
    look = store.look_at("i001", INTENSITY)
    assert look is not None
    assert len(look.embedding) == 30
    assert np.isfinite(look.embedding).all()


@pytest.mark.parametrize(
    ("pred", "channels"),
    [(np.full((1, 2, 2), 0.25), 2), (np.full((3, 2, 2), 1 / 3), 3), (np.full((2, 2, 2), 0.9), 3)],
)
def test_predictions_become_probabilities_with_a_background(pred: Any, channels: int) -> None:
    found = class_probabilities(torch.as_tensor(pred, dtype=torch.float32))
    assert found.shape[0] == channels
    assert np.allclose(found.sum(axis=0), 1.0, atol=1e-5)


class UnsureInBright(torch.nn.Module):
    """Cannot decide where the image is of middle brightness; elsewhere it is background."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.where((x - 0.5).abs() < 0.2, 0.0, 9.0), torch.zeros_like(x)], dim=1)


def test_a_look_keeps_where_the_doubt_is_on_the_axes_of_the_file(tmp_path: Path) -> None:
    voxels = np.zeros((30, 24, 8), np.int16)
    voxels[20:26, 4:9, 5:7] = 128
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 4.0, 1], [0, 0, 0, 1]])
    (tmp_path / "s").mkdir()
    write_volume(tmp_path / "s" / "i000.nii.gz", voxels, affine, compress=True)
    store, weights = LocalDatastore(tmp_path / "s", auto_reload=False), tmp_path / "m.pt"
    torch.save({"model": {}}, weights)
    unsure = SegmentationInfer(
        weights,
        UnsureInBright(),
        ["organ"],
        spacing_mm=(2, 2, 2),
        roi_size=(16, 16, 16),
        intensity_window=(0, 255),
        skip_writer=True,
    )
    assert PoolScoring(unsure, "m", looks=1)({}, store)["executed"] == 1
    found = store.doubt_in("i000")
    assert found is not None
    assert found.shape == voxels.shape
    asked = largest_slices(found, 2)
    assert (asked.axis, asked.slices) == (2, (5, 6))
    ((low, high),) = largest_box(found).boxes
    assert all(a <= middle < b for a, middle, b in zip(low, (23, 6, 6), high, strict=True))
    write_volume(tmp_path / "s" / "i000.nii.gz", voxels[:10], affine, compress=True)
    store.refresh()
    assert store.doubt_in("i000") is None, "of an image that is another now nothing is asked"

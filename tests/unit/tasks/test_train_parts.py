"""Parts of training that need no training: what a request may say, data sets, metrics."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot
from monai.transforms import Compose, Lambdad, RandGaussianNoised, RandSpatialCropd
from training_fakes import SHAPE, write_case

from labelserver.domain.errors import InvalidParams, TaskFailed
from labelserver.tasks import train_request as asked
from labelserver.tasks.train_check import CaseCheck
from labelserver.tasks.train_data import CaseDataset, DiscreteOutputs, as_transform, header_problem
from labelserver.tasks.train_files import known_metric, save_torch
from labelserver.tasks.train_metrics import (
    from_engine_idx,
    is_better,
    numbered_regions,
    patch_dice,
    plain_numbers,
    region_wise_metrics,
    region_wise_rmse,
)
from labelserver.tasks.train_sampled_dice import MEASURED_STEPS, SampledDice
from labelserver.tasks.train_seeds import EpochSampler, mixed


def test_numbers_from_clients_may_be_text() -> None:
    assert asked.whole_number({"max_epochs": "7"}, "max_epochs", 50, least=1) == 7
    assert asked.share({"val_split": "0.3"}, "val_split", 0.2) == 0.3
    assert asked.share({"val_split": -1}, "val_split", 0.2) == 0.0
    assert asked.truth({"pretrained": "false"}, "pretrained", True) is False
    assert asked.positive({"rate": "1e-3"}, "rate", 1.0) == 1e-3
    assert asked.choice({"dataset": ["CacheDataset", "Dataset"]}, "dataset", "CacheDataset") == "CacheDataset"
    for wrong in ("x", float("nan"), 0, -1, None):
        with pytest.raises(InvalidParams):
            asked.positive({"rate": wrong}, "rate", 1.0)


def test_a_path_may_not_leave_the_allowed_folders(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    outside.mkdir()
    (home / "link").symlink_to(outside)
    assert asked.inside(Path("a/b.nii"), [home], "train_ds") == home / "a" / "b.nii"
    for path in (Path("../outside/x"), outside / "x", Path("link/x")):
        with pytest.raises(InvalidParams, match="outside"):
            asked.inside(path, [home], "train_ds")


def test_a_sampler_gives_each_case_once_an_epoch_in_an_order_of_the_epoch() -> None:
    sampler = EpochSampler(10, seed=3, shuffle=True)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    sampler.start_at(2, 4)
    assert list(sampler) == second[4:]
    assert list(EpochSampler(4, seed=3, shuffle=False)) == [0, 1, 2, 3]


def test_mixed_seeds_fit_numpy_and_differ() -> None:
    seeds = {mixed(1, epoch, case) for epoch in range(50) for case in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**32 for seed in seeds)


def cases(count: int) -> list[dict[str, Any]]:
    return [{"image": torch.full((1, 8, 8), float(number))} for number in range(count)]


def noisy(counter: list[int]) -> Compose:
    def load(image: torch.Tensor) -> torch.Tensor:
        counter.append(1)
        return image + 100

    return Compose([Lambdad("image", load), RandGaussianNoised("image", prob=1.0)])


def test_prepared_cases_are_computed_once_and_never_changed() -> None:
    counter: list[int] = []
    dataset = CaseDataset(cases(3), noisy(counter), budget_bytes=10_000, seed=1)
    assert [problem for _, problem in dataset.prepare()] == [None, None, None]
    dataset.epoch = 1
    first = dataset[1]["image"]
    first += 1000
    dataset.epoch = 2
    assert abs(float(dataset[1]["image"].mean()) - 101) < 1
    assert len(counter) == 3
    assert dataset.cached_cases == 3


def test_the_memory_budget_is_kept() -> None:
    counter: list[int] = []
    dataset = CaseDataset(cases(4), noisy(counter), budget_bytes=2 * 8 * 8 * 4, seed=1)
    list(dataset.prepare())
    assert dataset.cached_cases == 2
    assert dataset.cached_bytes <= 2 * 8 * 8 * 4
    for _ in range(2):
        assert abs(float(dataset[3]["image"].mean()) - 103) < 1
    assert len(counter) == 6


def test_random_numbers_follow_from_seed_epoch_and_index() -> None:
    def image(seed: int, epoch: int, index: int) -> torch.Tensor:
        dataset = CaseDataset(cases(2), noisy([]), budget_bytes=10_000, seed=seed)
        dataset.epoch = epoch
        return torch.as_tensor(dataset[index]["image"])

    assert torch.equal(image(1, 1, 0), image(1, 1, 0))
    assert not torch.equal(image(1, 1, 0), image(1, 2, 0))
    assert not torch.equal(image(1, 1, 0), image(2, 1, 0))
    assert not torch.equal(image(1, 1, 0), image(1, 1, 2)), "a second visit of a case in an epoch is another one"


def test_a_cropped_patch_does_not_share_memory_with_the_kept_volume() -> None:
    steps = Compose([Lambdad("image", lambda x: x + 1), RandSpatialCropd("image", roi_size=(4, 4), random_size=False)])
    dataset = CaseDataset(cases(1), steps, budget_bytes=10_000, seed=1)
    dataset[0]["image"].zero_()
    assert float(dataset[0]["image"].min()) == 1.0


def test_a_case_that_fails_to_load_is_reported_and_can_be_dropped() -> None:
    def fragile(image: torch.Tensor) -> torch.Tensor:
        if float(image.max()) == 1:
            raise ValueError("broken pixels")
        return image

    dataset = CaseDataset(cases(3), Compose([Lambdad("image", fragile)]), budget_bytes=10_000, seed=1)
    assert dict(dataset.prepare()) == {0: None, 1: "broken pixels", 2: None}
    dataset.drop({1})
    assert [float(dataset[i]["image"].max()) for i in range(len(dataset))] == [0.0, 2.0]


def test_a_transforms_hook_may_return_a_list_a_compose_or_a_callable() -> None:
    assert as_transform(None) is None
    assert as_transform(str) is str
    assert isinstance(as_transform([]), Compose)
    with pytest.raises(TaskFailed, match="int"):
        as_transform(3)


def test_headers_tell_missing_damaged_and_misplaced_files(tmp_path: Path) -> None:
    write_case(tmp_path, "good", seed=1)
    write_case(tmp_path, "small", seed=1, label_shape=(16, 16, 8))
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")

    def problem(image: str, label: str) -> str | None:
        final = tmp_path / "labels" / "final"
        return header_problem({"image": str(tmp_path / image), "label": str(final / label)})

    assert problem("good.nii.gz", "good.nii.gz") is None
    assert "does not exist" in str(problem("good.nii.gz", "none.nii.gz"))
    assert "cannot be read" in str(problem("bad.nii.gz", "good.nii.gz"))
    assert "shape" in str(problem("good.nii.gz", "small.nii.gz"))
    assert header_problem({"image": np.zeros(3), "label": np.zeros(3)}) is None


def test_outputs_become_one_hot_for_one_and_for_several_channels() -> None:
    label = torch.tensor([[[0.0, 1.0, 2.0]]])
    several = DiscreteOutputs()({"pred": torch.tensor([[[5.0, 0, 0]], [[0, 5.0, 0]], [[0, 0, 5.0]]]), "label": label})
    assert torch.equal(several["pred"], several["label"])
    single = DiscreteOutputs()({"pred": torch.tensor([[[-1.0, 1.0, 1.0]]]), "label": label})
    assert torch.equal(single["pred"], single["label"])


def test_metrics_of_regions_bear_their_names() -> None:
    assert numbered_regions(["liver", "spleen"]) == {"liver": 1, "spleen": 2}
    assert numbered_regions({"background": 0, "liver": 3}) == {"liver": 3}
    assert list(region_wise_metrics(["liver"], "val_mean_dice", "val")) == ["val_mean_dice", "val_liver_mean_dice"]
    assert list(region_wise_rmse(["tip"], "val_rmse", "val")) == ["val_rmse", "val_tip_rmse"]


def test_dice_is_computed_for_each_region() -> None:
    pred = torch.zeros(3, 4, 4)
    pred[1, :2], pred[2, 2:] = 1, 1
    label = pred.clone()
    label[2, 3] = 0
    engine = Engine(lambda engine, batch: [{"pred": pred, "label": label}])
    for name, handler in region_wise_metrics(["a", "b"], "mean", "val").items():
        handler.attach(engine, name)
    state = engine.run([0])
    assert plain_numbers(state.metrics) == pytest.approx(
        {"mean": (1 + 2 / 3) / 2, "val_a_mean_dice": 1.0, "val_b_mean_dice": 2 / 3}
    )


def test_dice_over_the_patches_of_an_epoch_counts_all_voxels_together() -> None:
    label = torch.tensor([[[0, 1, 1, 2]], [[0, 0, 1, 0]]])
    found = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 0]])
    pred = torch.nn.functional.one_hot(found, 4).movedim(-1, 1).float()
    engine = Engine(lambda engine, batch: {"pred": pred[batch], "label": label[batch]})
    for name, handler in patch_dice(["a", "b", "absent"], "mean", "train").items():
        handler.attach(engine, name)
    both, other = slice(0, 2), slice(1, 2)
    state = engine.run([both, other, other, other], max_epochs=2)  # every fourth step is counted
    assert plain_numbers(state.metrics) == pytest.approx(
        {"mean": (2 / 4 + 2 / 3) / 2, "train_a_mean_dice": 2 / 4, "train_b_mean_dice": 2 / 3}
    )


def test_one_channel_of_the_outputs_can_be_picked() -> None:
    items = [{"pred": torch.arange(6.0).reshape(3, 2)}, {"pred": torch.ones(3, 2)}]
    (column,) = from_engine_idx("pred", 1)(items)
    assert [part.tolist() for part in column] == [[[2.0, 3.0]], [[1.0, 1.0]]]
    (first,) = from_engine_idx(["pred"], 1, first=True)(items)
    assert first.tolist() == [[2.0, 3.0]]


def test_nan_is_never_better_and_never_stays_best() -> None:
    nan = math.nan
    assert not is_better(nan, 0.1)
    assert is_better(0.1, nan)
    assert not is_better(0.1, 0.1)
    assert known_metric(-1) == known_metric(nan) == known_metric(None) == 0.0
    assert plain_numbers({"a": nan, "b": torch.tensor(0.5), "c": torch.ones(3), "d": None}) == {"b": 0.5}


def test_sampled_dice_is_monais_mean_dice_of_the_steps_that_it_looks_at() -> None:
    generator = torch.Generator().manual_seed(5)
    sampled, exact = SampledDice(), DiceMetric(include_background=False, ignore_empty=True)
    sampled.reset()
    for step in range(9):
        pred = torch.rand(2, 3, 6, 6, 6, generator=generator)
        label = torch.randint(0, 3 if step else 2, (2, 1, 6, 6, 6), generator=generator)
        sampled.update((pred, label))
        if step % MEASURED_STEPS == 0:
            exact(one_hot(pred.argmax(1, keepdim=True), 3), one_hot(label, 3))
    assert sampled.compute() == pytest.approx(float(exact.aggregate()))
    sampled.reset()
    assert math.isnan(sampled.compute())


def test_sampled_dice_reads_a_sigmoid_and_passes_over_what_nobody_annotated() -> None:
    pred = torch.tensor([[[[[3.0, -3.0, 3.0, 3.0]]]]])
    label = torch.tensor([[[[[1, 1, 255, 0]]]]])
    dice = SampledDice()
    dice.reset()
    dice.update((pred, label))
    assert dice.compute() == pytest.approx(2 * 1 / (2 + 2))
    both = torch.cat([-pred, pred], 1)
    dice.reset()
    dice.update((both, label))
    assert dice.compute() == pytest.approx(0.5)
    dice.reset()
    dice.update((both, torch.full_like(label, 7)))
    assert math.isnan(dice.compute()), "values that the network does not know are no class of it"


LABEL_PROBLEMS = {
    "fractions": (np.full(SHAPE, 0.5, np.float32), "fractions"),
    "no numbers": (np.full(SHAPE, np.nan, np.float32), "no numbers"),
    "negative": (np.full(SHAPE, -1, np.int16), "the value -1"),
    "empty": (np.zeros(SHAPE, np.uint8), "is empty"),
    "nobody looked": (np.full(SHAPE, 255, np.uint8), "is empty"),
    "strange values": (np.full(SHAPE, 9, np.uint8), "the values 9"),
}


@pytest.mark.parametrize("name", LABEL_PROBLEMS)
def test_a_label_that_cannot_be_learnt_from_is_named(tmp_path: Path, name: str) -> None:
    voxels, says = LABEL_PROBLEMS[name]
    case = case_with(tmp_path, voxels)
    problem = CaseCheck(known_values=(1, 2)).problem(case)
    assert problem is not None
    assert says in problem


def test_labels_that_are_fine_pass(tmp_path: Path) -> None:
    richer = np.zeros(SHAPE, np.int32)
    richer[0, 0, :3] = (1, 9, 70_000)
    assert CaseCheck(known_values=(1, 2)).problem(case_with(tmp_path, richer)) is None
    assert CaseCheck(allow_empty=True).problem(case_with(tmp_path, np.zeros(SHAPE, np.uint8))) is None
    assert CaseCheck().problem({"image": np.zeros(3), "label": 2}) is None, "an app's own kind of case"


def test_a_damaged_file_is_found_before_the_first_epoch(tmp_path: Path) -> None:
    case = case_with(tmp_path, np.ones(SHAPE, np.uint8))
    for key in ("label", "image"):
        path = Path(case[key])
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        problem = CaseCheck(whole_images=True).problem(case)
        assert problem is not None
        assert problem.startswith(f"The {key} cannot be read")
        path.write_bytes(whole)
    assert CaseCheck(whole_images=True).problem(case) is None


def case_with(folder: Path, label: np.ndarray) -> dict[str, str]:
    write_case(folder, "case", seed=1)
    path = folder / "labels" / "final" / "case.nii.gz"
    nib.save(nib.Nifti1Image(label, np.eye(4)), path)
    return {"image": str(folder / "case.nii.gz"), "label": str(path)}


def test_a_disk_that_is_full_leaves_the_file_before_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save_torch(path, {"a": torch.ones(3)})
    before = path.read_bytes()
    program = (
        "import resource, sys, torch\nfrom pathlib import Path\n"
        "from labelserver.domain.errors import DiskFull\nfrom labelserver.tasks.train_files import save_torch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    save_torch(Path(sys.argv[1]), {'a': torch.ones(100_000)})\n"
        "except DiskFull as error:\n    print(error.message)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert "No space left" in ran.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]

"""The ready-made trainer: what a patch is, which labels count, how a rate falls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from training_fakes import CaseStore, Watcher

from labelserver.contracts.model_store import writing_to
from labelserver.contracts.progress import watched_by
from labelserver.domain.schema import channels_of_values
from labelserver.model_store.local import LocalModelStore
from labelserver.tasks.segmentation import SegmentationInfer
from labelserver.tasks.segmentation_train import OnlyKnownLabelsd, SegmentationTrain
from labelserver.tasks.train import Context
from labelserver.tasks.train_data import as_transform

LABELS = {"background": 0, "big": 1, "small": 2}
GEOMETRY: dict[str, Any] = {"spacing_mm": (2, 2, 2), "roi_size": (16, 16, 16), "intensity_window": (0, 200)}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return UNet(3, 1, 3, channels=(8, 16), strides=(2,), norm="INSTANCE")


def trainer(folder: Path, **options: Any) -> SegmentationTrain:
    return SegmentationTrain(
        folder / "model" / "seg",
        network(),
        LABELS,
        publish_path=str(folder / "model" / "seg.pt"),
        **GEOMETRY,
        **options,
    )


def two_cubes(folder: Path, count: int) -> CaseStore:
    """Images of 1 x 2 x 2 mm, stored as LPS, with a bright cube (1) and a very bright smaller one (2)."""
    names = [f"case_{number}" for number in range(count)]
    (folder / "labels" / "final").mkdir(parents=True)
    for number, name in enumerate(names):
        random = np.random.default_rng(number)
        label = np.zeros((40, 20, 20), np.uint8)
        at = random.integers(0, 4, 3)
        label[at[0] + 2 : at[0] + 18, at[1] + 2 : at[1] + 10, at[2] + 2 : at[2] + 10] = 1
        label[26:34, 12:17, 12:17] = 2
        image = label * 80 + random.normal(20, 8, label.shape)
        affine = np.diag([-1.0, -2.0, 2.0, 1.0])
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / f"{name}.nii.gz")
        label[0, 0, 0] = 9  # of a richer label set
        nib.save(nib.Nifti1Image(label, affine), folder / "labels" / "final" / f"{name}.nii.gz")
    return CaseStore(folder, names)


def test_values_beyond_the_known_labels_become_background() -> None:
    given = {"label": torch.tensor([[0.0, 1.0, 2.0, 3.0, -1.0, 255.0]])}
    assert OnlyKnownLabelsd("label", largest=2)(given)["label"].tolist() == [[0, 1, 2, 0, 0, 0]]


def test_values_of_another_schema_become_the_networks_channels() -> None:
    given = {"label": torch.tensor([[0.0, 1.0, 10.0, 234.0, 2.0]])}
    channels = channels_of_values(["liver", "spleen"], {"spleen": 1, "liver": 10, "tumour": 234})
    assert OnlyKnownLabelsd("label", largest=2, channels=channels)(given)["label"].tolist() == [[0, 2, 1, 0, 0]]


def test_patches_have_the_asked_size_and_show_every_label(tmp_path: Path) -> None:
    task = trainer(tmp_path)
    context = Context(request={"patches_per_case": "9"})
    transform = as_transform(task.train_pre_transforms(context))
    assert transform is not None
    patches = transform(two_cubes(tmp_path, 1).datalist()[0])
    assert len(patches) == 9
    assert {tuple(patch["image"].shape) for patch in patches} == {(1, 16, 16, 16)}
    assert set(patches[0]) == {"image", "label"}
    assert all(float(patch["image"].min()) > -0.2 and float(patch["image"].max()) < 1.3 for patch in patches)
    assert {int(v) for patch in patches for v in patch["label"].unique()} == {0, 1, 2}


def test_the_rate_falls_to_nearly_nothing(tmp_path: Path) -> None:
    task = trainer(tmp_path)
    context = Context(request={"learning_rate": 0.01}, network=network(), max_epochs=10)
    context.optimizer = task.optimizer(context)
    scheduler = task.lr_scheduler_handler(context).lr_scheduler
    rates = []
    for _ in range(10):
        rates.append(context.optimizer.param_groups[0]["lr"])
        context.optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.004)
    assert max(rates) == rates[1] > rates[2] > rates[-1] > 0
    assert rates[-1] < 0.001


def test_background_is_no_label_and_options_have_defaults(tmp_path: Path) -> None:
    task = trainer(tmp_path, config={"max_epochs": 3})
    assert task.info()["labels"] == {"big": 1, "small": 2}
    assert task.config()["max_epochs"] == 3
    assert task.config()["patches_per_case"] == 4


@pytest.mark.slow
def test_it_learns_two_cubes_and_the_infer_task_reads_what_was_published(tmp_path: Path) -> None:
    store, watcher = two_cubes(tmp_path, 3), Watcher()
    versions = LocalModelStore(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with watched_by(watcher), writing_to(versions):
            trainer(tmp_path)({"model": "seg", "max_epochs": 10, "steps_per_epoch": 10, "seed": 1}, store)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(threads)
    version = versions.version("seg", 1)
    assert version.metrics["val_mean_dice"] > 0.8, watcher.lines
    assert set(version.metrics) == {"val_mean_dice", "val_big_mean_dice", "val_small_mean_dice"}
    versions.decide("seg", 1)
    infer = SegmentationInfer(str(tmp_path / "model" / "seg.pt"), network(), LABELS, **GEOMETRY)
    file, _ = infer({"image": store.get_image_uri(version.held_out[0])})
    found = np.asarray(nib.load(file).dataobj)
    truth = np.asarray(nib.load(store.datalist()[0]["label"].replace("case_0", version.held_out[0])).dataobj)
    Path(file).unlink()
    for value in (1, 2):
        both = 2 * np.count_nonzero((found == value) & (truth == value))
        assert both / (np.count_nonzero(found == value) + np.count_nonzero(truth == value)) > 0.8

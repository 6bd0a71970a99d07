"""Small cases, a datastore of them, a watcher and a trainer, for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import EnsureChannelFirstd, LoadImaged, RandSpatialCropd, ScaleIntensityd

from labelserver.domain.json_types import JsonObject
from labelserver.tasks.train import BasicTrainTask, Context

SHAPE = (16, 16, 16)


def write_case(folder: Path, name: str, *, seed: int, label_shape: tuple[int, ...] = SHAPE) -> None:
    """An image with a bright cube, and its label (value 1) in ``labels/final``."""
    random = np.random.default_rng(seed)
    corner = random.integers(2, 6, size=3)
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(c, c + 8) for c in corner)] = 1
    image = (mask * 100 + random.normal(0, 10, SHAPE)).astype(np.float32)
    (folder / "labels" / "final").mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"{name}.nii.gz")
    label = mask if label_shape == SHAPE else np.zeros(label_shape, np.uint8)
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "labels" / "final" / f"{name}.nii.gz")


class CaseStore:
    """As much of a datastore as a training asks for."""

    split_key = b"project"

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names

    def datalist(self) -> list[dict[str, Any]]:
        final = self.folder / "labels" / "final"
        return [{"image": self.get_image_uri(n), "label": str(final / f"{n}.nii.gz")} for n in self.names]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return list(self.names)

    def get_image_uri(self, image_id: str) -> str:
        return str(self.folder / f"{image_id}.nii.gz")


def make_store(folder: Path, count: int) -> CaseStore:
    names = [f"case_{number}" for number in range(count)]
    for number, name in enumerate(names):
        write_case(folder, name, seed=number)
    return CaseStore(folder, names)


class Watcher:
    """A progress that remembers, and that may ask for a stop."""

    job_id = "job-1"

    def __init__(self, folder: Path | None = None, *, resume: bool = False) -> None:
        self.folder, self.resume = folder, resume
        self.reports: list[JsonObject] = []
        self.points: list[JsonObject] = []
        self.yields: list[str] = []
        self.lines: list[str] = []
        self.versions: list[tuple[str, int]] = []
        self.stop_when: Callable[[], bool] = lambda: False

    def report(self, data: JsonObject) -> None:
        self.reports.append(data)

    def epoch_done(self, point: JsonObject) -> None:
        self.points.append(point)
        self.reports.append(point)

    def yield_device(self, device: str) -> None:
        self.yields.append(device)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def version_ready(self, model: str, number: int) -> None:
        self.versions.append((model, number))

    def should_stop(self) -> bool:
        return self.stop_when()


class TinyTrain(BasicTrainTask):
    """Tells a bright cube from noise"""

    rate = 1e-2

    def network(self, context: Context) -> torch.nn.Module:
        torch.manual_seed(7)
        return UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="INSTANCE", dropout=0.1)

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        return torch.optim.Adam(context.network.parameters(), lr=self.rate)

    def loss_function(self, context: Context) -> Any:
        return DiceCELoss(to_onehot_y=True, softmax=True)

    def train_pre_transforms(self, context: Context) -> Any:
        keys = ["image", "label"]
        return [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            ScaleIntensityd("image"),
            RandSpatialCropd(keys, roi_size=(12, 12, 12), random_size=False),
        ]

    def val_pre_transforms(self, context: Context) -> Any:
        return self.train_pre_transforms(context)[:-1]


def tiny(folder: Path, **options: Any) -> TinyTrain:
    return TinyTrain(
        str(folder / "app" / "model" / "tiny"),
        publish_path=str(folder / "app" / "model" / "tiny.pt"),
        labels=["cube"],
        **options,
    )

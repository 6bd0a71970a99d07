"""What a second training saves, because its cases are found as the first prepared them.

12 CT-like volumes of 256 x 256 x 64 voxels of 0.8 x 0.8 x 2.5 mm as .nii.gz, worked on at 2 mm, a small U-Net. From the
call of the trainer to its first step, within one process that has loaded everything; each round on a new cache.
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from ignite.engine import Events
from monai.networks.nets import UNet

from labelserver.datastore.local import LocalDatastore
from labelserver.tasks.segmentation_train import SegmentationTrain
from labelserver.tasks.train import Context
from tests.bench.report import Section

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

SHAPE, CASES, ROUNDS = (256, 256, 64), 12, 3
AFFINE = np.diag([0.8, 0.8, 2.5, 1.0])


class _Reached(Exception):
    """The first step begins."""


class FirstStep(SegmentationTrain):
    """Ends at its first step"""

    def finalize(self, context: Context) -> None:
        def end(engine: Any) -> None:
            raise _Reached

        context.trainer.add_event_handler(Events.ITERATION_STARTED, end)


def make(studies: Path, numbers: range) -> None:
    """A body with noise around it, which packs about as a CT does."""
    random = np.random.default_rng(1)
    final = studies / "labels" / "final"
    final.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        organ = np.zeros(SHAPE, np.uint8)
        organ[tuple(slice(c, c + size // 4) for c, size in zip(random.integers(4, 40, 3), SHAPE, strict=True))] = 1
        image = (organ * 60 + random.normal(0, 25, SHAPE)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, AFFINE), studies / f"ct_{number:02}.nii.gz")
        nib.save(nib.Nifti1Image(organ, AFFINE), final / f"ct_{number:02}.nii.gz")


def to_first_step(app: Path, store: LocalDatastore) -> float:
    """Seconds."""
    shutil.rmtree(app, ignore_errors=True)
    network = UNet(3, 1, 2, channels=(8, 16), strides=(2,), norm="INSTANCE")
    task = FirstStep(app / "model" / "seg", network, ["organ"], spacing_mm=(2, 2, 2), roi_size=(48, 48, 32))
    began = time.perf_counter()
    with pytest.raises(_Reached):
        task({"max_epochs": 1, "device": "cpu", "val_split": 0, "pretrained": False, "tracking": "None"}, store)
    return time.perf_counter() - began


def test_a_second_training_begins_sooner(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    make(studies, range(CASES))
    store = LocalDatastore(studies)
    store.learn_labels(["organ"])
    to_first_step(tmp_path / "warm", store)  # what is loaded at the first use
    first, second, one_more = [], [], []
    for number in range(ROUNDS):
        shutil.rmtree(Path(store.cache_home()) / "cases", ignore_errors=True)
        first.append(to_first_step(tmp_path / "app", store))
        second.append(to_first_step(tmp_path / "app", store))
        make(studies, range(CASES + number, CASES + number + 1))
        store.refresh()
        one_more.append(to_first_step(tmp_path / "app", store))
    with Section("Cases of a second training", (__doc__ or "").partition("\n\n")[2].strip()) as section:
        told = f"{statistics.median(first):.2f} s, then {statistics.median(second):.2f} s"
        ratio = statistics.median(second) / statistics.median(first)
        section.at_most("second run to its first step, of the first run's", ratio * 100, 15, "%", told)
        more = statistics.median(one_more) - statistics.median(second)
        each = statistics.median(first) / CASES
        section.note("one new label, in cases of the first run", f"{more / each:.2f}")
    store.close()

"""What a training hands to the gate: held-out cases that nobody learned from, each measured, before and after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from labelserver.contracts.model_store import writing_to
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.models import Verdict
from labelserver.domain.splits import Side
from labelserver.model_store.local import LocalModelStore
from labelserver.tasks.train import Context
from labelserver.tasks.train_files import state_of
from labelserver.tasks.train_run import Run
from tests.unit.tasks.training_fakes import TinyTrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEY = "val_mean_dice"
SHAPE = (16, 16, 16)


class CubeTrain(TinyTrain):
    """Tells a bright cube from noise, with as many classes as it has labels"""

    def network(self, context: Context) -> torch.nn.Module:
        torch.manual_seed(7)
        classes = len(self._labels) + 1
        network: torch.nn.Module = UNet(3, 1, classes, channels=(4, 8), strides=(2,), norm="INSTANCE")
        return network


def write(folder: Path, number: int) -> None:
    """A bright cube somewhere, and its label under tag final as another tool leaves it."""
    random = np.random.default_rng(number)
    corner = random.integers(0, 10, size=3)
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(c, c + 6) for c in corner)] = 1
    image = (mask * 100 + random.normal(0, 10, SHAPE)).astype(np.float32)
    (folder / "labels" / "final").mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"case_{number}.nii.gz")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / "labels" / "final" / f"case_{number}.nii.gz")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalDatastore]:
    studies = tmp_path / "studies"
    for number in range(10):
        write(studies, number)
    opened = LocalDatastore(studies)
    opened.learn_labels(["cube"])
    yield opened
    opened.close()


def train(tmp_path: Path, store: LocalDatastore, labels: list[str] | None = None, **request: Any) -> dict[str, Any]:
    task = CubeTrain(
        str(tmp_path / "app" / "model" / "tiny"),
        publish_path=str(tmp_path / "app" / "model" / "tiny.pt"),
        labels=labels or ["cube"],
    )
    asked = {"max_epochs": 8, "device": "cpu", "seed": 1, "dataset": "CacheDataset", **request}
    with writing_to(LocalModelStore(tmp_path / "app")):
        return task(asked, store)


def decided(tmp_path: Path, number: int) -> Verdict:
    return LocalModelStore(tmp_path / "app").decide("tiny", number).verdict


def test_every_held_out_case_is_measured_before_and_after_on_the_labels_of_now(
    tmp_path: Path, store: LocalDatastore
) -> None:
    train(tmp_path, store)
    assert decided(tmp_path, 1) is Verdict.PUBLISHED
    train(tmp_path, store, max_epochs=2)
    version = LocalModelStore(tmp_path / "app").version("tiny", 2)
    sides = store.sides(store.list_images())
    held_out = {image for image, side in sides.items() if side.side is Side.HELD_OUT}
    assert set(version.held_out) == set(version.cases) == set(version.baseline_cases) == held_out
    assert set(version.labels) == set(store.list_images()) - held_out
    assert version.baseline_version == 1
    mean = sum(values[KEY] for values in version.cases.values()) / len(held_out)
    assert mean == pytest.approx(version.metrics[KEY], abs=1e-5)
    assert version.baseline[KEY] == pytest.approx(
        LocalModelStore(tmp_path / "app").version("tiny", 1).metrics[KEY], abs=1e-5
    )
    for image, digest in version.labels.items():
        revision = store.current_revision(image, "final")  # type: ignore[arg-type]
        assert (digest, version.revisions[image]) == (revision.sha256, revision.number)
    assert len(version.network_hash) == 64
    assert [output.name for output in version.outputs] == ["cube"]
    assert version.outputs[0].schema_id == store.schema().entries[0].id
    assert version.extra["duration_s"]
    assert version.extra["device"] == "cpu"
    assert version.extra["curves"]


def test_training_on_labels_shuffled_between_cases_is_not_published(tmp_path: Path, store: LocalDatastore) -> None:
    train(tmp_path, store)
    assert decided(tmp_path, 1) is Verdict.PUBLISHED
    sides = store.sides(store.list_images())
    to_learn_from = sorted(image for image, side in sides.items() if side.side is Side.TRAINING)
    folder = tmp_path / "studies" / "labels" / "final"
    labels = [(folder / f"{image}.nii.gz").read_bytes() for image in to_learn_from]
    for image, label in zip(to_learn_from, labels[1:] + labels[:1], strict=True):
        (folder / f"{image}.nii.gz").write_bytes(label)
    store.refresh()
    for pretrained in (False, True):
        number = int(train(tmp_path, store, pretrained=pretrained)["model_version"])
        assert decided(tmp_path, number) is Verdict.REJECTED
    current = LocalModelStore(tmp_path / "app").current("tiny")
    assert current is not None
    assert current.number == 1


def test_a_version_that_somebody_publishes_meanwhile_is_measured_and_is_the_one_to_beat(
    tmp_path: Path, store: LocalDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, store)
    assert decided(tmp_path, 1) is Verdict.PUBLISHED
    train(tmp_path, store)
    versions = LocalModelStore(tmp_path / "app")
    plain = CubeTrain.finalize

    def publish_meanwhile(self: CubeTrain, context: Context) -> None:
        versions.publish("tiny", 2, "while another one is trained")
        plain(self, context)

    monkeypatch.setattr(CubeTrain, "finalize", publish_meanwhile)
    monkeypatch.setattr(Run, "_measure_baseline", _measuring_as_if_1_were_in_use(versions))
    train(tmp_path, store, max_epochs=1)
    assert versions.version("tiny", 3).baseline_version == 2


def _measuring_as_if_1_were_in_use(versions: LocalModelStore) -> Any:
    """The first measure of a run believes that version 1 is in use, as it was when the training was asked for."""
    plain, calls = Run._measure_baseline, [0]

    def measure(self: Run) -> None:
        calls[0] += 1
        plain(self)
        if calls[0] == 1:
            self._state.baseline_version = 1

    return measure


def test_a_class_that_is_added_keeps_what_is_known_about_the_others(tmp_path: Path, store: LocalDatastore) -> None:
    train(tmp_path, store)
    assert decided(tmp_path, 1) is Verdict.PUBLISHED
    store.learn_labels(["cube", "ball"])
    began: list[dict[str, torch.Tensor]] = []

    class Watched(CubeTrain):
        def finalize(self, context: Context) -> None:
            began.append(state_of(context.network))
            super().finalize(context)

    task = Watched(
        str(tmp_path / "app" / "model" / "tiny"),
        publish_path=str(tmp_path / "app" / "model" / "tiny.pt"),
        labels=["cube", "ball"],
    )
    with writing_to(LocalModelStore(tmp_path / "app")):
        task({"max_epochs": 1, "device": "cpu", "seed": 1}, store)
    version = LocalModelStore(tmp_path / "app").version("tiny", 2)
    assert version.baseline[KEY] > 0.5  # the old version is measured although its network has one class less
    old = torch.load(LocalModelStore(tmp_path / "app").published_file("tiny", 1), weights_only=True)
    last = [name for name, value in began[0].items() if value.shape != old[name].shape]
    assert last
    for name, value in old.items():
        mine = began[0][name]
        axis = next((a for a, (x, y) in enumerate(zip(mine.shape, value.shape, strict=True)) if x != y), None)
        assert torch.equal(mine if axis is None else mine.narrow(axis, 0, 2), value)


def test_labels_of_held_out_images_alone_are_trained_on_and_not_called_checked(
    tmp_path: Path, store: LocalDatastore
) -> None:
    for image, side in store.sides(store.list_images()).items():
        if side.side is Side.TRAINING:
            store.remove_label(image, "final")
    train(tmp_path, store, max_epochs=1)
    assert LocalModelStore(tmp_path / "app").version("tiny", 1).held_out == ()
    assert decided(tmp_path, 1) is Verdict.UNCHECKED

"""What nobody annotated is neither learned nor measured, and labels reach a network in its own values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import EnsureChannelFirstd, LoadImaged
from training_fakes import TinyTrain, Watcher

from labelserver.contracts.progress import watched_by
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.annotation import AnnotatedPart, Boxes, Slices, region_to_json
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance
from labelserver.domain.schema import LabelSchema
from labelserver.imaging.seg_nrrd import write_seg_nrrd
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.tasks.segmentation_train import OnlyKnownLabelsd, SegmentationTrain
from labelserver.tasks.train import Context
from labelserver.tasks.train_data import DiscreteOutputs, as_transform
from labelserver.tasks.train_labels import ANNOTATED, own_numbering
from labelserver.tasks.train_losses import PartlyAnnotatedDiceCE
from labelserver.tasks.train_metrics import patch_dice
from labelserver.tasks.transforms import LoadAnnotatedd, LoadVolumed

SHAPE = (16, 16, 16)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # stored as LPS, so that the axes are flipped on the way to the network


def batch(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    scores = torch.randn(2, classes, 4, 4, 4, dtype=torch.float64).float().requires_grad_()
    return scores, torch.randint(0, classes, (2, 1, 4, 4, 4), dtype=torch.uint8)


# the loss


def test_the_loss_is_monais_where_everything_is_annotated() -> None:
    scores, label = batch()
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)(scores, label)
    loss = PartlyAnnotatedDiceCE()
    assert loss(scores, label).item() == pytest.approx(theirs.item(), rel=1e-5)
    loss.annotated = torch.ones(2, 3)
    assert loss(scores, label).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_voxels_that_nobody_looked_at_have_no_gradient() -> None:
    scores, label = batch()
    label[..., :2] = 255
    PartlyAnnotatedDiceCE()(scores, label).backward()
    assert scores.grad is not None
    assert not scores.grad[..., :2].any()
    assert scores.grad[..., 2:].all()


def test_a_label_that_nobody_looked_for_may_be_answered_on_background() -> None:
    """Only how much goes to background and the unknown label together counts."""
    loss = PartlyAnnotatedDiceCE()
    loss.annotated = torch.tensor([[1.0, 1.0, 0.0]])
    label = torch.zeros(1, 1, 4, dtype=torch.uint8)
    label[..., 3] = 1
    probabilities = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]])
    swapped = probabilities[:, [2, 1, 0]]
    both = [loss(p.log().T[None], label).item() for p in (probabilities, swapped)]
    assert both[0] == pytest.approx(both[1])
    loss.annotated = None
    both = [loss(p.log().T[None], label).item() for p in (probabilities, swapped)]
    assert both[0] != pytest.approx(both[1])


def test_a_batch_without_any_annotated_voxel_teaches_nothing() -> None:
    scores, label = batch()
    loss = PartlyAnnotatedDiceCE()
    loss.annotated = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    found = loss(scores, torch.full_like(label, 255))
    found.backward()
    assert found.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


# the metrics


def test_metrics_see_nothing_outside_of_the_region() -> None:
    label = torch.tensor([[1.0, 1.0, 255.0, 255.0]])
    pred = torch.tensor([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    found = DiscreteOutputs()({"pred": pred, "label": label})
    assert found["label"].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]
    assert found["pred"].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    whole = DiscreteOutputs()({"pred": pred, "label": torch.tensor([[1.0, 1.0, 0.0, 0.0]])})
    assert whole["pred"].tolist() == [[0, 1, 1, 1], [1, 0, 0, 0]]


def test_patch_dice_counts_annotated_voxels_and_labels() -> None:
    scores = torch.nn.functional.one_hot(torch.tensor([[1, 1, 2, 1]]), 3).movedim(-1, 1).float()
    label = torch.tensor([[[1, 1, 0, 255]]], dtype=torch.uint8)
    metric = patch_dice({"a": 1, "b": 2}, "mean", "train")
    for part in metric.values():
        part.reset()
    output = {"pred": scores, "label": label, ANNOTATED: torch.tensor([[1.0, 1.0, 0.0]])}
    for part in metric.values():
        part.update((output["pred"], output["label"], output[ANNOTATED]))
    assert metric["mean"].compute() == 1.0
    assert metric["train_a_mean_dice"].compute() == 1.0


# the transforms


@pytest.mark.parametrize(
    ("region", "inside"),
    [
        ({"kind": "slices", "axis": 0, "slices": [1]}, (slice(1, 2), slice(None), slice(None))),
        ({"kind": "boxes", "boxes": [[[0, 1, 2], [2, 3, 4]]]}, (slice(0, 2), slice(1, 3), slice(2, 4))),
    ],
)
def test_outside_of_the_region_is_255(region: dict[str, Any], inside: tuple[slice, ...]) -> None:
    label = torch.ones(1, 4, 4, 4)
    text = json.dumps({"values": [1], "region": region, "mask": None})
    found = LoadAnnotatedd("label", 3)({"label": label, ANNOTATED: text})
    assert (found["label"][0][inside] == 1).all()
    assert int((found["label"] == 255).sum()) == 64 - int(np.prod([label[0][inside].numel()]))
    assert found[ANNOTATED].tolist() == [1, 1, 0]


def test_a_case_without_a_note_is_wholly_annotated() -> None:
    found = LoadAnnotatedd("label", 3)({"label": torch.ones(1, 2, 2), ANNOTATED: ""})
    assert (found["label"] == 1).all()
    assert found[ANNOTATED].tolist() == [1, 1, 1]


def test_what_was_drawn_of_a_label_that_was_not_annotated_is_background() -> None:
    text = json.dumps({"values": [10], "region": {"kind": "whole"}, "mask": None})
    given = {"label": torch.tensor([[[[0.0, 10.0, 3.0]]]]), ANNOTATED: text}
    found = LoadAnnotatedd("label", 3, {10: 1, 3: 2})(given)
    assert found["label"].flatten().tolist() == [0, 10, 0]
    assert found[ANNOTATED].tolist() == [1, 1, 0]


def test_not_annotated_outlives_the_numbering() -> None:
    given = {"label": torch.tensor([[0.0, 10.0, 7.0, 255.0]])}
    step = OnlyKnownLabelsd("label", largest=2, channels={10: 1, 3: 2}, keep_unknown=True)
    assert step(given)["label"].tolist() == [[0, 1, 0, 255]]
    given = {"label": torch.tensor([[0.0, 2.0, 7.0, 255.0]])}
    assert OnlyKnownLabelsd("label", largest=2, keep_unknown=True)(given)["label"].tolist() == [[0, 2, 0, 255]]


# which values


def test_a_trainers_own_values_follow_its_names() -> None:
    stored = {"spleen": 1, "liver": 10, "tumour": 234}
    assert own_numbering(["liver", "spleen"], stored) == {10: 1, 1: 2}
    assert own_numbering({"background": 0, "liver": 1, "tumour": 5}, stored) == {10: 1, 234: 5}
    assert own_numbering(None, stored) == {1: 1, 10: 2, 234: 3}
    assert own_numbering(["liver"], {}) == {1: 1}


# whole runs

Store = Callable[..., LocalDatastore]


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Store]:
    """A store of `count` images with a bright cube and no label."""
    opened: list[LocalDatastore] = []

    def make(name: str, count: int = 2, schema: list[dict[str, Any]] | None = None) -> LocalDatastore:
        folder = tmp_path / name
        (folder / ".labelserver").mkdir(parents=True)
        # One key for all stores, so that the same image is held out in each.
        rule = {"format": 1, "key": "11" * 32, "share": 0.2, "patient_pattern": ""}
        (folder / ".labelserver" / "split.json").write_text(json.dumps(rule))
        for number in range(count):
            image = np.random.default_rng(number).normal(0, 10, SHAPE)
            image[4:12, 4:12, 4:12] += 100
            write_volume(folder / f"ct_{number}.nii.gz", image.astype(np.float32), AFFINE, compress=True)
        store = LocalDatastore(folder)
        store.set_schema(LabelSchema.from_json({"labels": schema or [{"name": "cube", "value": 1}]}))
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


def cube(value: int = 1, *, until: int = 12) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[4:12, 4:12, 4:until] = value
    return label


def save(store: LocalDatastore, image: str, voxels: np.ndarray, part: AnnotatedPart | None = None) -> None:
    file = store.layout.studies.parent / "upload.nii.gz"
    write_volume(file, voxels, AFFINE, compress=True)
    store.accept_label(ImageId(image), file, ".nii.gz", FINAL, Provenance(), {}, annotated=part)


def trained(folder: Path, store: LocalDatastore, labels: list[str], **options: Any) -> tuple[dict[str, Any], Watcher]:
    torch.manual_seed(0)
    network = UNet(3, 1, len(labels) + 1, channels=(4, 8), strides=(2,), norm="INSTANCE")
    task = SegmentationTrain(
        folder / "model",
        network,
        labels,
        spacing_mm=(1, 1, 1),
        roi_size=(8, 8, 8),
        intensity_window=(0, 100),
        config={"max_epochs": 2, "steps_per_epoch": 2, "patches_per_case": 2, "val_split": 0.4, "seed": 5, **options},
    )
    watcher = Watcher()
    with watched_by(watcher):
        result = task({"name": "run", "device": "cpu"}, store)
    weights = torch.load(folder / "model" / "run" / "checkpoint_final.pt", weights_only=True)
    return {"weights": weights, **result}, watcher


def differ(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return any(not torch.equal(one["weights"][name], two["weights"][name]) for name in one["weights"])


def test_voxels_outside_of_the_region_change_no_bit_of_the_weights(make_store: Store, tmp_path: Path) -> None:
    half = AnnotatedPart(None, Slices(2, tuple(range(8))))
    found = []
    for name, change in (("a", None), ("b", 12), ("c", 4)):
        store = make_store(name)
        save(store, "ct_0", cube())
        voxels = cube()
        if change is not None:  # draw something else from slice `change` on
            voxels[..., change:] = 1 - voxels[..., change:]
        save(store, "ct_1", voxels, half)
        result, watcher = trained(tmp_path / f"out-{name}", store, ["cube"], val_split=0)
        assert any("annotated in part" in line for line in watcher.lines)
        found.append(result)
    assert not differ(found[0], found[1])
    assert differ(found[0], found[2])


def test_a_held_out_case_is_measured_inside_of_its_region_alone(make_store: Store, tmp_path: Path) -> None:
    part = AnnotatedPart(None, Boxes((((0, 0, 0), (16, 16, 8)),)))
    metrics = []
    for name, wrong in (("a", False), ("b", True)):
        store = make_store(name)
        for image in ("ct_0", "ct_1"):
            voxels = cube()
            if wrong:
                voxels[..., 8:] = 1
            save(store, image, voxels, part)
        result, _ = trained(tmp_path / f"out-{name}", store, ["cube"])
        metrics.append(result["eval"]["metrics"])
    assert metrics[0]
    assert metrics[0] == metrics[1]


def test_a_label_that_was_not_annotated_in_a_case_is_not_punished_there(make_store: Store, tmp_path: Path) -> None:
    schema = [{"name": "cube", "value": 1}, {"name": "rim", "value": 2}]
    found = []
    for name, drawn in (("a", 0), ("b", 2)):
        store = make_store(name, schema=schema)
        voxels = cube(until=8)
        voxels[4:12, 4:12, 8:12] = drawn
        save(store, "ct_0", voxels, AnnotatedPart(("cube",)))
        save(store, "ct_1", voxels, AnnotatedPart(("cube",)))
        found.append(trained(tmp_path / f"out-{name}", store, ["cube", "rim"])[0])
    assert not differ(*found)


def test_complete_labels_train_as_they_always_did(make_store: Store, tmp_path: Path) -> None:
    store = make_store("a")
    save(store, "ct_0", cube())
    save(store, "ct_1", cube())
    task = SegmentationTrain(tmp_path / "m", torch.nn.Identity(), ["cube"], spacing_mm=(1, 1, 1), roi_size=(8, 8, 8))
    context = Context(train_datalist=store.datalist())
    assert isinstance(task.loss_function(context), DiceCELoss)
    assert task.train_iteration_update(context) is None
    transform = as_transform(task.val_pre_transforms(context))
    assert transform is not None
    assert set(transform(store.datalist()[0])) == {"image", "label"}


class Reading(TinyTrain):
    """Reads label files with MONAI's own transforms, and remembers what it saw."""

    seen: list[tuple[str, list[int], set[str]]]

    def network(self, context: Context) -> torch.nn.Module:
        return UNet(3, 1, 3, channels=(4, 8), strides=(2,), norm="INSTANCE")

    def train_pre_transforms(self, context: Context) -> Any:
        keys = ["image", "label"]
        return [LoadImaged(keys), EnsureChannelFirstd(keys), self.look]

    def look(self, data: dict[str, Any]) -> dict[str, Any]:
        values = [int(v) for v in np.unique(data["label"])]
        self.seen.append((Path(data["label"].meta["filename_or_obj"]).name, values, set(data)))
        return {"image": data["image"], "label": data["label"]}

    def val_pre_transforms(self, context: Context) -> Any:
        return self.train_pre_transforms(context)


def read_by(folder: Path, store: LocalDatastore, labels: Any) -> tuple[Reading, Watcher]:
    task = Reading(str(folder / "model"), labels=labels, config={"max_epochs": 1, "val_split": 0})
    task.seen = []
    watcher = Watcher()
    with watched_by(watcher):
        task({"name": "run", "device": "cpu"}, store)
    return task, watcher


def test_a_trainer_that_reads_files_itself_gets_its_own_values(make_store: Store, tmp_path: Path) -> None:
    store = make_store("a", 1, [{"name": "spleen", "value": 1}, {"name": "cube", "value": 10}])
    voxels = cube(10)
    voxels[0, 0, 0] = 1
    save(store, "ct_0", voxels)
    task, _ = read_by(tmp_path / "one", store, ["cube"])
    assert {(tuple(values), frozenset(keys) >= {ANNOTATED}) for _, values, keys in task.seen} == {((0, 1), False)}
    derived = list((store.layout.state / "cache" / "training").rglob("*.nii.gz"))
    assert task.seen[0][0] == derived[0].name
    assert np.array_equal(read_volume(derived[0]).voxels, cube(1))
    made = derived[0].stat().st_mtime_ns
    read_by(tmp_path / "two", store, ["cube"])
    assert [p.stat().st_mtime_ns for p in (store.layout.state / "cache" / "training").rglob("*.nii.gz")] == [made]


def test_a_trainer_whose_values_are_the_schemas_reads_the_labels_own_file(make_store: Store, tmp_path: Path) -> None:
    store = make_store("a", 1)
    save(store, "ct_0", cube(), AnnotatedPart(None, Slices(0, (4, 5))))
    task, _ = read_by(tmp_path, store, ["cube"])
    assert {name for name, _, _ in task.seen} == {"ct_0.nii.gz"}
    assert not (store.layout.state / "cache" / "training").exists()
    assert task.seen[0][1] == [0, 1]
    assert ANNOTATED in task.seen[0][2]


def test_layers_are_laid_into_one_map_and_told(make_store: Store, tmp_path: Path) -> None:
    store = make_store("a", 1, [{"name": "one", "value": 3}, {"name": "two", "value": 7}])
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, 4:8, 4:8, 4:8], layers[1, 6:10, 4:8, 4:8] = 1, 1
    path = tmp_path / "l.seg.nrrd"
    write_seg_nrrd(path, layers, AFFINE, ["one", "two"], [(1, 2, 3), (4, 5, 6)], compress=True)
    store.save_label("ct_0", str(path), "final", {})
    task, watcher = read_by(tmp_path, store, ["two", "one"])
    assert any("32 voxels" in line for line in watcher.lines)
    values = np.zeros(SHAPE, np.uint8)
    values[layers[0] == 1], values[layers[1] == 1] = 2, 1
    derived = next((store.layout.state / "cache" / "training").rglob("*.nii.gz"))
    assert np.array_equal(read_volume(derived).voxels, values)
    assert task.seen[0][0] == derived.name
    store.upkeep.erase(store.upkeep.plan_erasure("ct_0"), "Ada")
    assert not derived.exists()


def test_a_label_whose_region_was_lost_is_left_out_by_name(make_store: Store, tmp_path: Path) -> None:
    store = make_store("a", 2)
    mask = tmp_path / "mask.nii.gz"
    write_volume(mask, (np.indices(SHAPE).sum(axis=0) % 2).astype(np.uint8), AFFINE, compress=True)
    save(store, "ct_0", cube(), AnnotatedPart(mask=mask))
    save(store, "ct_1", cube())
    store.revision_file(ImageId("ct_0"), FINAL, 1).with_name("1.annotated").unlink()
    result, _ = trained(tmp_path / "out", store, ["cube"])
    assert [left["image"] for left in result["left_out"]] == ["ct_0"]
    assert "annotated" in result["left_out"][0]["reason"]


def test_the_region_of_a_mask_reaches_the_tensor(make_store: Store, tmp_path: Path) -> None:
    store = make_store("a", 1)
    mask = np.indices(SHAPE).sum(axis=0) % 3 == 0
    write_volume(tmp_path / "mask.nii.gz", mask.astype(np.uint8), AFFINE, compress=True)
    save(store, "ct_0", cube(), AnnotatedPart(mask=tmp_path / "mask.nii.gz"))
    found = store.training_label(ImageId("ct_0"), FINAL)
    text = json.dumps({"values": None, "region": region_to_json(found.region), "mask": str(found.mask)})
    case = {"label": store.get_label_uri("ct_0", "final"), ANNOTATED: text}
    loaded = LoadAnnotatedd("label", 2)(LoadVolumed("label")(case))
    assert np.array_equal(np.asarray(loaded["label"][0]) == 255, ~mask)

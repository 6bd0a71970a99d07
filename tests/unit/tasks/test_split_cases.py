"""An image that inference, scoring or a training prepared serves the others; a case stays what its author meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureTyped,
    Lambdad,
    Orientationd,
    RandFlipd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)

from labelserver.datastore.local import LocalDatastore
from labelserver.imaging.volumes import write_volume
from labelserver.tasks import kept_heads
from labelserver.tasks.case_cache import CaseCache
from labelserver.tasks.image_places import cache_home_of, kept_as
from labelserver.tasks.pool_scoring import PoolScoring
from labelserver.tasks.prepared_cases import PreparedCases
from labelserver.tasks.prepared_images import shared
from labelserver.tasks.segmentation import SegmentationInfer
from labelserver.tasks.segmentation_train import SegmentationTrain
from labelserver.tasks.split_cases import IMAGE, SplitCases, split_of
from labelserver.tasks.train_context import Case, Context
from labelserver.tasks.train_data import CaseDataset
from labelserver.tasks.transforms import LoadVolumed

pytestmark = pytest.mark.usefixtures("new_process")

SHAPE = (14, 12, 10)
AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 2.5, 1], [0, 0, 0, 1]])
BOTH = ("image", "label")
AXES = (("L", "R"), ("P", "A"), ("I", "S"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a file of each key was read."""
    counted: Counter[str] = Counter()
    load = LoadVolumed.__call__

    def call(self: Any, data: Any) -> Any:
        counted.update(map(str, self.keys))
        return load(self, data)

    monkeypatch.setattr(LoadVolumed, "__call__", call)
    return counted


@pytest.fixture
def store(tmp_path: Path) -> LocalDatastore:
    """Three images, each with a label."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for number in range(3):
        voxels = np.random.default_rng(number).integers(0, 255, SHAPE).astype(np.int16)
        write_volume(folder / f"i{number}.nii.gz", voxels, AFFINE, compress=True)
    store = LocalDatastore(folder, auto_reload=False)
    for number in range(3):
        draw(store, f"i{number}", number)
    return store


def draw(store: LocalDatastore, image_id: str, seed: int, affine: Any = AFFINE) -> None:
    voxels = np.random.default_rng(100 + seed).integers(0, 3, SHAPE).astype(np.uint8)
    file = store.layout.studies.parent / "drawn.nii.gz"
    write_volume(file, voxels, affine, compress=True)
    store.save_label(image_id, str(file), "final", {})


def network() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return UNet(3, 1, 3, channels=(4, 8), strides=(2,), norm="INSTANCE")


OPTIONS: dict[str, Any] = {"spacing_mm": (2.0, 2.0, 2.0), "roi_size": (8, 8, 8), "intensity_window": (0, 255)}


def infer_task(tmp_path: Path) -> SegmentationInfer:
    weights = tmp_path / "m.pt"
    if not weights.exists():
        torch.save({"model": network().state_dict()}, weights)
    return SegmentationInfer(weights, network(), ["organ", "gland"], **OPTIONS)


def infer(tmp_path: Path, store: LocalDatastore, image_id: str) -> np.ndarray:
    with kept_as(image_id, cache_home_of(store)):
        mask, _ = infer_task(tmp_path)({"image": store.get_image_uri(image_id), "result_write_to_file": False})
    return np.asarray(mask)


def steps_of(tmp_path: Path, *, train: bool = True) -> list[Any]:
    """Of the trainer that belongs to the infer task."""
    trainer = SegmentationTrain(tmp_path / "model", network(), ["organ", "gland"], **OPTIONS)
    context = Context(request={})
    steps: Any = trainer.train_pre_transforms(context) if train else trainer.val_pre_transforms(context)
    return list(steps)


def cases(store: LocalDatastore) -> list[Case]:
    return [{**case, "annotated": ""} for case in store.datalist()]


def dataset(store: LocalDatastore, steps: Sequence[Any], *, on_disk: bool = True) -> CaseDataset:
    cache = CaseCache(Path(store.cache_home()) / kept_heads.FOLDER, 2**30)

    def image_id_of(case: Case) -> str:
        return Path(case["image"]).name.partition(".")[0]

    def prepared(code: str) -> PreparedCases:
        return PreparedCases(cache, code, image_id_of)

    return CaseDataset(
        cases(store), Compose(list(steps)), budget_bytes=2**30, seed=3, prepared=prepared if on_disk else None
    )


def prepare(data: CaseDataset) -> CaseDataset:
    assert [problem for _, problem in data.prepare()] == [None] * len(data.data)
    if data.on_disk is not None:
        data.on_disk.settle()
    return data


def another_process() -> None:
    kept_heads.settle()
    shared().clear()


def entries(store: LocalDatastore) -> list[Path]:
    return sorted(Path(store.cache_home()).glob("cases/*/*.safetensors"))


@pytest.mark.parametrize("train", [True, False])
def test_a_training_after_inferences_and_scorings_reads_labels_alone(
    tmp_path: Path, store: LocalDatastore, read: Counter[str], train: bool
) -> None:
    infer(tmp_path, store, "i0")
    another_process()
    assert PoolScoring(infer_task(tmp_path), "m", looks=1)({}, store)["executed"] == 3
    assert read == Counter(image=3)
    another_process()
    prepare(dataset(store, steps_of(tmp_path, train=train)))
    assert read == Counter(image=3, label=3)


def test_an_inference_and_a_scoring_after_a_training_decode_nothing(
    tmp_path: Path, store: LocalDatastore, read: Counter[str]
) -> None:
    before = [infer(tmp_path, store, f"i{number}") for number in range(3)]
    another_process()
    for file in entries(store):
        file.unlink()
    prepare(dataset(store, steps_of(tmp_path)))
    another_process()
    read.clear()
    after = [infer(tmp_path, store, f"i{number}") for number in range(3)]
    another_process()
    assert PoolScoring(infer_task(tmp_path), "m", looks=1)({}, store)["executed"] == 3
    assert read == Counter()
    np.testing.assert_array_equal(after, before)


def test_the_training_and_validation_of_one_image_share_its_part_and_nothing_lies_there_twice(
    tmp_path: Path, store: LocalDatastore, read: Counter[str]
) -> None:
    prepare(dataset(store, steps_of(tmp_path)))
    assert len(entries(store)) == 6, "of each case the image and what stands beside it"
    image_bytes = sorted(file.stat().st_size for file in entries(store))[-3:]
    voxels = [case[IMAGE].numel() for case in dataset(store, steps_of(tmp_path))._prepared.values()]
    assert all(size < 2 * 4 * 4000 for size in image_bytes), voxels
    prepare(dataset(store, steps_of(tmp_path, train=False)))
    assert read == Counter(image=3, label=6)
    assert len(entries(store)) == 9


def test_the_next_run_reads_nothing_and_gets_the_same_as_without_a_disk(
    tmp_path: Path, store: LocalDatastore, read: Counter[str]
) -> None:
    first = prepare(dataset(store, steps_of(tmp_path)))
    read.clear()
    second = prepare(dataset(store, steps_of(tmp_path)))
    assert read == Counter()
    assert second.on_disk is not None
    assert (second.on_disk.found, second.on_disk.made) == (3, 0)
    alone = prepare(dataset(store, steps_of(tmp_path), on_disk=False))
    for data in (first, second, alone):
        data.epoch = 1
    for index in range(3):
        for one, two, three in zip(first[index], second[index], alone[index], strict=True):
            assert list(one) == list(two) == list(three)
            for key in one:
                torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)
                torch.testing.assert_close(one[key], three[key], rtol=0, atol=0)


def test_a_new_label_costs_its_own_reading_and_a_new_image_all(
    tmp_path: Path, store: LocalDatastore, read: Counter[str]
) -> None:
    prepare(dataset(store, steps_of(tmp_path)))
    read.clear()
    draw(store, "i1", 7)
    again = prepare(dataset(store, steps_of(tmp_path)))
    assert read == Counter(label=1)
    assert again.on_disk is not None
    assert (again.on_disk.found, again.on_disk.made) == (2, 1)
    write_volume(store.layout.studies / "i2.nii.gz", np.ones(SHAPE, np.int16), AFFINE, compress=True)
    read.clear()
    prepare(dataset(store, steps_of(tmp_path)))
    assert read == Counter(image=1, label=1)


def test_an_image_whose_entry_went_is_decoded_again_and_its_label_is_not(
    tmp_path: Path, store: LocalDatastore, read: Counter[str]
) -> None:
    steps = steps_of(tmp_path, train=False)
    first = prepare(dataset(store, steps))
    for file in sorted(entries(store), key=lambda f: -f.stat().st_size)[:3]:
        file.unlink()
    read.clear()
    second = prepare(dataset(store, steps))
    assert read == Counter(image=3)
    for index in range(3):
        torch.testing.assert_close(second[index][IMAGE], first[index][IMAGE], rtol=0, atol=0)


def as_written(steps: Sequence[Any], case: Case) -> Any:
    return Compose(list(steps))(dict(case))


def usual(*more: Any, spacing_keys: Sequence[str] = BOTH) -> list[Any]:
    """Steps as many apps have them."""
    modes = tuple("nearest" if key == "label" else "bilinear" for key in spacing_keys)
    return [
        LoadVolumed(BOTH),
        Orientationd(BOTH, axcodes="RAS", labels=AXES),
        Spacingd(spacing_keys, pixdim=(2.0, 2.0, 2.0), mode=modes),
        ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=0.0, b_max=1.0, clip=True),
        EnsureTyped(BOTH),
        SpatialPadd(BOTH, spatial_size=(24, 24, 24)),
        *more,
    ]


def test_a_split_case_is_the_case_that_the_author_meant(store: LocalDatastore) -> None:
    steps = usual()
    split = split_of(steps)
    assert split is not None
    assert (split.end, len(split.head), len(split.tail), split.coupled) == (6, 4, 2, ("label",))
    for case in cases(store):
        found = SplitCases(split, Compose(steps), len(steps)).made(case, None).item
        meant = as_written(steps, case)
        assert list(found) == list(meant)
        torch.testing.assert_close(found["image"], meant["image"], rtol=0, atol=1e-5)
        torch.testing.assert_close(found["label"], meant["label"], rtol=0, atol=0)
        for key in BOTH:
            assert isinstance(found[key], MetaTensor)
            torch.testing.assert_close(found[key].affine, meant[key].affine)
            traces = [[step["class"] for step in one[key].applied_operations] for one in (found, meant)]
            assert traces[0] == traces[1]


def test_a_label_that_lies_nearly_on_its_image_is_prepared_with_it(store: LocalDatastore) -> None:
    """MONAI gives it the image's shape; on its own it might get another."""
    off = AFFINE.copy()
    off[2, 2] += 4e-4
    case = cases(store)[0]
    label = store.layout.studies.parent / "off.nii.gz"
    write_volume(label, np.ones(SHAPE, np.uint8), off, compress=True)
    case["label"] = str(label)
    steps = usual()
    split = split_of(steps)
    assert split is not None
    made = SplitCases(split, Compose(steps), len(steps)).made(case, None)
    meant = as_written(steps, case)
    assert made.kept is made.item, "kept as a whole"
    for key in BOTH:
        torch.testing.assert_close(made.item[key], meant[key], rtol=0, atol=0)


def test_steps_that_may_look_at_both_end_the_split_and_are_never_shared(
    tmp_path: Path, store: LocalDatastore, read: Counter[str]
) -> None:
    by_label = CropForegroundd(BOTH, source_key="label")
    unknown = Lambdad("label", lambda value: value)
    for more in (by_label, unknown, RandFlipd("image", prob=0.5)):
        split = split_of(usual(more))
        assert split is not None
        assert split.end == 6
    assert split_of([LoadVolumed(BOTH), by_label, *usual()[1:]]).end == 1  # type: ignore[union-attr]  # not None
    assert split_of([Lambdad("image", lambda value: value), *usual()]) is None
    assert split_of(usual(spacing_keys=("label", "image"))).end == 2  # type: ignore[union-attr]  # not None
    infer(tmp_path, store, "i0")
    another_process()
    assert len(entries(store)) == 1
    prepare(dataset(store, usual(by_label)))
    assert read == Counter(image=3, label=3), "the one image that inference made is taken; none is given"
    assert len(entries(store)) == 4


def test_an_app_author_s_own_class_of_a_known_one_is_unknown(store: LocalDatastore) -> None:
    class Mine(ScaleIntensityRanged):  # type: ignore[misc]  # MONAI tells no types
        def __call__(self, data: Any) -> Any:
            return {**super().__call__(data), "label": data["label"] * 0}

    steps = [*usual()[:3], Mine("image", a_min=0, a_max=255, b_min=0, b_max=1, clip=True)]
    split = split_of(steps)
    assert split is not None
    assert split.end == 3
    data = prepare(dataset(store, steps))
    assert float(data[0]["label"].max()) == 0.0


def test_a_case_that_is_no_file_is_prepared_as_a_whole() -> None:
    steps = [ScaleIntensityRanged("image", a_min=0, a_max=1, b_min=0, b_max=1)]
    assert split_of(steps) is None
    data = CaseDataset([{"image": torch.ones(1, 2, 2)}], Compose(steps), budget_bytes=10**6, seed=1)
    assert float(data[0]["image"].max()) == 1.0

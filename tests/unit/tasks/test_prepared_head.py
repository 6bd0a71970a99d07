"""An image is decoded once for all clicks, never served stale, never changed by who borrows it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.apps.deepedit.transforms import (
    AddGuidanceFromPointsDeepEditd,
    AddGuidanceSignalDeepEditd,
    ResizeGuidanceMultipleLabelDeepEditd,
)
from monai.data import MetaTensor
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    EnsureTyped,
    Lambdad,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandFlipd,
    Resized,
    ScaleIntensityRanged,
    Spacingd,
)

from labelserver.tasks.fast_guidance import SeparableGuidanceSignald
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.prepared_head import planned
from labelserver.tasks.prepared_images import shared
from labelserver.tasks.transforms import CacheTransformDatad, Restored

AXES = (("L", "R"), ("P", "A"), ("I", "S"))


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    shared().clear()
    yield
    shared().clear()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(rng.integers(-200, 300, (16, 14, 12)).astype(np.int16), np.diag([-2.0, -2, 3, 1])), path)
    return path


class Scores(torch.nn.Module):
    """Background 0, class 1 the first channel plus the clicks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(x[:, :1], 0.4), x.sum(1, keepdim=True)], dim=1)


class Writes(Scores):
    """Writes into its input, as a network whose first layer works in place does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mul_(0.5))


class Clicks(BasicInferTask):
    """Transforms of DeepEdit in the order in which apps have them."""

    decoded = 0
    extra: tuple[Any, ...] = ()

    def pre_transforms(self, data: Any = None) -> Any:
        return [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=AXES),
            ScaleIntensityRanged(keys="image", a_min=-175, a_max=250, b_min=0.0, b_max=1.0, clip=True),
            AddGuidanceFromPointsDeepEditd(ref_image="image", guidance="guidance", label_names=self.labels),
            Resized(keys="image", spatial_size=(8, 8, 8), mode="area"),
            ResizeGuidanceMultipleLabelDeepEditd(guidance="guidance", ref_image="image"),
            AddGuidanceSignalDeepEditd(keys="image", guidance="guidance", number_intensity_ch=1),
            EnsureTyped(keys="image", device=data.get("device") if data else None),
            *self.extra,
        ]

    def inverse_transforms(self, data: Any = None) -> Any:
        return []

    def post_transforms(self, data: Any = None) -> Any:
        return [
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            Restored(keys="pred", ref_image="image"),
        ]


def clicks(network: torch.nn.Module | None = None) -> Clicks:
    return Clicks(network=network or Scores(), labels={"organ": 1, "background": 0})


class AsWritten(Clicks):
    """Without anything kept and nothing replaced."""

    def run_pre_transforms(self, data: Any, transforms: Any) -> Any:
        for step in transforms:
            data = step({name: value for name, value in data.items() if name != "image_path"})
        return data

    def run_post_transforms(self, data: Any, transforms: Any) -> Any:
        return super().run_post_transforms(data, transforms)


def ask(task: BasicInferTask, image: Path, **options: Any) -> np.ndarray:
    mask, _ = task({"image": str(image), "result_write_to_file": False, **options})
    return np.asarray(mask)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    loaded: list[str] = []
    load = LoadImaged.__call__

    def call(self: Any, data: Any, *more: Any) -> Any:
        loaded.append(str(data["image"]))
        return load(self, data, *more)

    monkeypatch.setattr(LoadImaged, "__call__", call)
    return loaded


def test_an_image_is_decoded_exactly_once_for_20_clicks(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = counted(monkeypatch)
    task, written = clicks(), AsWritten(network=Scores(), labels={"organ": 1, "background": 0})
    points = [[i % 16, (3 * i) % 14, i % 12] for i in range(20)]
    masks = [ask(task, image, organ=[point], background=[[1, 1, 1]]) for point in points]
    assert len(loaded) == 1
    assert (shared().counters().held) == 1
    expected = [ask(written, image, organ=[point], background=[[1, 1, 1]]) for point in points]
    assert len(loaded) == 21
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(masks, expected, strict=True))
    assert any(not np.array_equal(masks[0], other) for other in masks[1:])


def test_what_is_kept_is_the_resized_image_not_the_large_one(image: Path) -> None:
    ask(clicks(), image, organ=[[3, 3, 3]])
    assert shared().counters().held_bytes < 16 * 14 * 12 * 4


def test_a_changed_image_is_read_again(image: Path) -> None:
    task = clicks()
    before = ask(task, image, organ=[])
    stat = image.stat()
    nib.save(nib.Nifti1Image(np.full((16, 14, 12), 250, np.int16), np.diag([-2.0, -2, 3, 1])), image)
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ask(task, image, organ=[]).all()
    assert not before.all()


def test_other_settings_are_other_entries_and_equal_ones_are_shared(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = counted(monkeypatch)

    class Spaced(Clicks):
        def pre_transforms(self, data: Any = None) -> Any:
            size = float(data.get("size", 4.0))
            return [
                LoadImaged(keys="image"),
                EnsureChannelFirstd(keys="image"),
                Spacingd(keys="image", pixdim=(size,) * 3),
                NormalizeIntensityd(keys="image", nonzero=True),
            ]

    first, second = (Spaced(network=Scores(), labels=["organ"]) for _ in range(2))
    ask(first, image)
    ask(second, image)
    assert len(loaded) == 1
    ask(first, image, size=5.0)
    assert len(loaded) == 2


def test_the_network_that_writes_into_its_input_spoils_nothing(image: Path) -> None:
    class Native(Clicks):
        def pre_transforms(self, data: Any = None) -> Any:
            return super().pre_transforms(data)[:4]

    task = Native(network=Writes(), labels={"organ": 1, "background": 0})
    masks = [ask(task, image) for _ in range(3)]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[1], masks[2])
    assert masks[0].any()


def test_a_transform_of_the_app_that_writes_through_numpy_gets_its_own_copy(image: Path) -> None:
    def spoil(image: MetaTensor) -> MetaTensor:
        image.numpy()[...] *= 0.5
        return image

    class Spoils(Clicks):
        def pre_transforms(self, data: Any = None) -> Any:
            return [*super().pre_transforms(data)[:4], Lambdad(keys="image", func=spoil)]

    class SpoilsLater(Clicks):
        def pre_transforms(self, data: Any = None) -> Any:
            return super().pre_transforms(data)[:4]

        def post_transforms(self, data: Any = None) -> Any:
            return [*super().post_transforms(data), Lambdad(keys="image", func=spoil)]

    for kind in (Spoils, SpoilsLater):
        task = kind(network=Scores(), labels={"organ": 1, "background": 0})
        masks = [ask(task, image) for _ in range(3)]
        assert np.array_equal(masks[0], masks[1])
        assert np.array_equal(masks[0], masks[2])
        shared().clear()


def test_two_calls_at_once_share_what_is_kept_without_harm(image: Path) -> None:
    task = clicks(Writes())
    expected = ask(task, image, organ=[[3, 3, 3]])
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(ask(task, image, organ=[[3, 3, 3]]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert all(np.array_equal(mask, expected) for mask in found)


def test_the_head_ends_at_what_is_random_unknown_or_reads_the_request(image: Path) -> None:
    data = {"image": str(image), "image_path": str(image), "label": "x", "foreground": []}
    load = [LoadImaged(keys="image"), EnsureChannelFirstd(keys="image")]

    def rest(*steps: Any, **more: Any) -> int | None:
        plan = planned({**data, **more}, list(steps), "image")
        return None if plan is None else plan.rest

    assert rest(*load, RandFlipd(keys="image", prob=0.5), Spacingd(keys="image", pixdim=(1.0,) * 3)) == 2
    assert rest(*load, Lambdad(keys="image", func=lambda x: x), Spacingd(keys="image", pixdim=(1.0,) * 3)) == 2
    assert rest(LoadImaged(keys=("image", "label"))) is None
    assert rest(*load, lambda d: d) == 2
    assert rest(*load, Spacingd(keys="image", pixdim=(1.0,) * 3, lazy=True)) == 2
    assert rest(*load, Spacingd(keys="image", pixdim=(1.0,) * 3)) == 3
    assert planned({**data, "image": np.zeros((2, 2))}, load, "image") is None
    assert planned({**data, "image": str(image) + "x"}, load, "image") is None


def test_a_mark_behind_an_unknown_step_still_keeps_what_stands_before_it(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = counted(monkeypatch)

    class Marked(Clicks):
        def pre_transforms(self, data: Any = None) -> Any:
            return [
                *super().pre_transforms(data)[:2],
                Lambdad(keys="image", func=lambda x: x / 250),
                CacheTransformDatad(keys="image"),
            ]

    task = Marked(network=Scores(), labels=["organ"])
    first, second = ask(task, image, model="m"), ask(task, image, model="m")
    assert len(loaded) == 1
    assert np.array_equal(first, second)


@pytest.mark.parametrize("points", [{}, {"a": []}, {"a": [[2, 3, 4]], "b": [[0, 0, 0], [30, 30, 30], [-1, 2, 3]]}])
@pytest.mark.parametrize("shape", [(20, 18, 16), (40, 38, 36)])
def test_bumps_of_clicks_are_those_of_monai(points: dict[str, Any], shape: tuple[int, ...]) -> None:
    image = MetaTensor(torch.rand(2, *shape))
    original = AddGuidanceSignalDeepEditd(keys="image", guidance="g", sigma=3, number_intensity_ch=1)
    ours = SeparableGuidanceSignald(original)({"image": image.clone(), "g": points})["image"]
    theirs = original({"image": image.clone(), "g": points})["image"]
    if points:
        assert torch.allclose(torch.as_tensor(ours), torch.as_tensor(theirs), atol=2e-6)
        assert ours.shape[0] == 1 + len(points)

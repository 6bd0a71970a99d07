"""Transforms run one by one, and no key of ours confuses MONAI."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import (
    Compose,
    CropForegroundd,
    DeleteItemsd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    MapTransform,
    Orientationd,
    Spacingd,
)

from labelserver.contracts.progress import Silent, watched_by
from labelserver.domain.errors import RequestCancelled, TaskFailed
from labelserver.tasks.transform_runs import ImagePath, run_transforms, transform_latencies

AXES = (("L", "R"), ("P", "A"), ("I", "S"))


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """A small NIfTI volume, LAS, stored as int32 like the real one."""
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    voxels = np.arange(6 * 7 * 8, dtype=np.int32).reshape(6, 7, 8)
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def request_for(path: Path) -> dict[str, Any]:
    return {
        "image": str(path),
        "image_path": ImagePath(path),
        "image_size": 12,
        "image_cached": True,
        "image_name": "a text",
        "image_tags": ["a"],
    }


def test_keys_that_begin_with_image_do_not_reach_the_transforms_of_monai(ct: Path) -> None:
    steps = [
        LoadImaged(keys="image"),
        EnsureChannelFirstd(keys="image"),
        Orientationd(keys="image", axcodes="RAS", labels=AXES),
        Spacingd(keys="image", pixdim=(2.0, 2.0, 2.0)),
        CropForegroundd(keys="image", source_key="image", select_fn=lambda x: x >= 0, allow_smaller=True),
    ]
    result = run_transforms(request_for(ct), steps, log_prefix="PRE")
    result["pred"] = result["image"].clone()
    result = run_transforms(result, Invertd(keys="pred", orig_keys="image", transform=Compose(steps)))
    assert tuple(result["pred"].shape) == (1, 6, 7, 8)
    assert np.allclose(result["pred"].affine, np.diag([-2.0, 3.0, 4.0, 1.0]))
    assert result["image_path"] == str(ct)
    assert (result["image_size"], result["image_cached"], result["image_name"]) == (12, True, "a text")


class ReadsThePath(MapTransform):
    """As authors write them: a plain copy of the dict, then a look at the path."""

    def __call__(self, data: Any) -> dict[Any, Any]:
        copied = dict(data)
        copied["seen"] = copied["image_path"]
        return copied


class AuthorsSpacing(Spacingd):
    """An author's own class around one of MONAI's, which is not recognised as MONAI's."""


def test_an_authors_transform_reads_the_path_and_may_call_monai(ct: Path) -> None:
    data = {"image": str(ct), "image_path": ImagePath(ct)}
    steps = [
        LoadImaged(keys="image"),
        EnsureChannelFirstd(keys="image"),
        AuthorsSpacing(keys="image", pixdim=(2.0, 2.0, 2.0)),
        ReadsThePath(keys="image"),
    ]
    assert run_transforms(data, steps)["seen"] == str(ct)


def test_a_transform_that_names_such_a_key_gets_it(ct: Path) -> None:
    result = run_transforms(request_for(ct), [DeleteItemsd(keys="image_name")])
    assert "image_name" not in result
    assert result["image_size"] == 12


@pytest.mark.parametrize("kind", ["list", "compose", "nested", "single", "use_compose", "lazy"])
def test_every_form_of_transforms_is_accepted(ct: Path, kind: str) -> None:
    load, first = LoadImaged(keys="image"), EnsureChannelFirstd(keys="image")
    spacing = Spacingd(keys="image", pixdim=(2.0, 2.0, 2.0))
    forms: dict[str, Any] = {
        "list": [load, first, spacing],
        "compose": Compose([load, first, spacing]),
        "nested": [Compose([load, first]), spacing],
        "single": lambda data: spacing(first(load(data))),
        "use_compose": [load, first, spacing],
        "lazy": Compose([load, first, spacing], lazy=True),
    }
    data = {"image": str(ct), "image_path": ImagePath(ct)}
    result = run_transforms(data, forms[kind], use_compose=kind == "use_compose")
    assert tuple(result["image"].shape) == (1, 6, 10, 15)


def test_each_step_is_timed_under_its_stage(ct: Path) -> None:
    data = run_transforms({"image": str(ct)}, [LoadImaged(keys="image")], log_prefix="PRE")
    assert set(transform_latencies(data)["pre"]) == {"LoadImaged"}


def test_what_cannot_run_is_named() -> None:
    with pytest.raises(TaskFailed, match="PRE transforms hold 3"):
        run_transforms({}, [3], log_prefix="PRE")  # type: ignore[list-item]
    with pytest.raises(TaskFailed, match="LoadImaged among the POST transforms has no inverse"):
        run_transforms({}, [LoadImaged(keys="image")], inverse=True)


def test_a_cancelled_request_ends_between_two_transforms() -> None:
    cancelled = threading.Event()
    ran: list[str] = []

    class Watched(Silent):
        def should_stop(self) -> bool:
            return cancelled.is_set()

    def first(data: Any) -> Any:
        ran.append("first")
        cancelled.set()
        return data

    def second(data: Any) -> Any:
        ran.append("second")
        return data

    with watched_by(Watched()), pytest.raises(RequestCancelled):
        run_transforms({}, [first, second])
    assert ran == ["first"]

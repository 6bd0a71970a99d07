"""The transforms beside MONAI's: reading, tidying, measuring, and keeping what was prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirstd, LoadImaged, Orientationd
from PIL import Image

from labelserver.domain.errors import UnreadableFile
from labelserver.imaging.volumes import write_volume
from labelserver.tasks.inverting import inverted
from labelserver.tasks.transform_runs import ImagePath
from labelserver.tasks.transforms import (
    BoundingBoxd,
    CacheTransformDatad,
    DumpImagePrediction2Dd,
    ExtremePointsd,
    LargestCCd,
    LoadImageExd,
    LoadImageTensord,
    LoadVolumed,
    MergeAllPreds,
    NormalizeLabeld,
    RenameKeyd,
    caching,
)
from labelserver.tasks.transforms.caching import forget_prepared_images, run_behind_cache

AFFINE = np.array([[0.0, -2.0, 0.0, 5.0], [1.5, 0.0, 0.0, -6.0], [0.0, 0.0, 3.0, 7.0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
def test_a_volume_has_the_geometry_that_the_server_checks(tmp_path: Path, extension: str) -> None:
    voxels = np.arange(4 * 5 * 6, dtype=np.int32).reshape(4, 5, 6)
    write_volume(tmp_path / f"a{extension}", voxels, AFFINE, compress=False)
    image = LoadVolumed(keys="image")({"image": str(tmp_path / f"a{extension}")})["image"]
    assert (tuple(image.shape), image.dtype) == ((1, 4, 5, 6), torch.float32)
    assert np.array_equal(image.numpy()[0], voxels)
    assert np.allclose(image.affine, AFFINE, atol=1e-5)
    assert np.allclose(image.meta["original_affine"], AFFINE, atol=1e-5)
    if extension == ".nii.gz":
        path = {"image": str(tmp_path / "a.nii.gz")}
        theirs = EnsureChannelFirstd(keys="image")(LoadImaged(keys="image")(path))["image"]
        assert torch.equal(theirs.as_tensor(), image.as_tensor())
        assert np.allclose(theirs.affine, image.affine)


def test_a_picture_has_its_colours_first_and_two_axes(tmp_path: Path) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = LoadVolumed(keys="image")({"image": str(tmp_path / "a.png")})["image"]
    assert tuple(image.shape) == (3, 6, 4)
    assert np.array_equal(image.numpy(), pixels.transpose(2, 1, 0))
    assert list(image.meta["spatial_shape"]) == [6, 4]
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert tuple(LoadVolumed(keys="image")({"image": str(tmp_path / "grey.png")})["image"].shape) == (1, 6, 4)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"nothing")
    with pytest.raises(UnreadableFile):
        LoadVolumed(keys="image")({"image": str(tmp_path / "a.nii.gz")})


def test_arrays_pass_where_files_are_loaded(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)), tmp_path / "a.nii")
    for load in (LoadImageExd(keys="image"), LoadImageTensord(keys="image", load_image_d=LoadImaged(keys="image"))):
        assert tuple(load({"image": str(tmp_path / "a.nii")})["image"].shape) == (3, 4, 5)
        passed = load({"image": np.zeros((8, 9, 3), np.uint8)})["image"]
        assert isinstance(passed, MetaTensor)
        assert tuple(EnsureChannelFirstd(keys="image")({"image": passed})["image"].shape) == (3, 8, 9)


def test_labels_become_one_value() -> None:
    for label in (np.array([0, 3, 5]), torch.tensor([0, 3, 5])):
        assert NormalizeLabeld(keys="label", value=2)({"label": label})["label"].tolist() == [0, 2, 2]


def test_the_largest_part_of_each_channel_is_kept() -> None:
    mask = np.zeros((2, 6, 6), np.uint8)
    mask[0, 0, 0], mask[0, 2:5, 2:5] = 4, 4
    kept = LargestCCd(keys="pred")({"pred": mask})["pred"]
    assert (kept[0].sum(), kept[1].sum()) == (36, 0)
    assert LargestCCd.get_largest_cc(mask[0]).sum() == 36
    tensor = LargestCCd(keys="pred", has_channel=False)({"pred": MetaTensor(torch.as_tensor(mask[0]))})["pred"]
    assert isinstance(tensor, MetaTensor)
    assert int(tensor.sum()) == 36


def test_boxes_and_extreme_points_go_into_the_answer() -> None:
    mask = np.zeros((1, 6, 7), np.uint8)
    mask[0, 2:4, 3:6] = 1
    data: dict[Any, Any] = {"pred": mask, "result": {"kept": 1}}
    data = ExtremePointsd(keys="pred")(BoundingBoxd(keys="pred")(data))
    assert data["result"]["bbox"] == [[2, 3], [4, 6]]
    assert data["result"]["points"] == [[2, 3], [3, 3], [2, 3], [2, 5]]
    assert data["result"]["kept"] == 1
    empty = ExtremePointsd(keys="pred")(BoundingBoxd(keys="pred")({"pred": np.zeros((4, 4))}))
    assert empty["result"] == {"bbox": [], "points": []}


def test_keys_are_renamed_and_masks_merged(tmp_path: Path) -> None:
    assert RenameKeyd("a", "b")({"a": 1, "c": 2}) == {"b": 1, "c": 2}
    merged = MergeAllPreds(keys=("p", "q"))({"p": np.array([1, 0, 0]), "q": np.array([2, 2, 0])})
    assert merged.tolist() == [1, 2, 0]
    dump = DumpImagePrediction2Dd(str(tmp_path / "i.png"), str(tmp_path / "p.png"), pred_only=False)
    dump({"image": np.arange(6.0).reshape(1, 2, 3), "pred": torch.ones(1, 2, 3)})
    with Image.open(tmp_path / "i.png") as picture:
        assert picture.size == (2, 3)


@pytest.fixture
def counted(tmp_path: Path) -> tuple[Path, list[str], Any]:
    forget_prepared_images()
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.diag([-1, -1, 1, 1])), path)
    ran: list[str] = []

    def expensive(data: Any) -> Any:
        ran.append("expensive")
        return data

    def after(data: Any) -> Any:
        ran.append("after")
        return {**data, "image": data["image"] + 1}

    orient = Orientationd(keys="image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    steps = [LoadVolumed(keys="image"), orient, expensive, CacheTransformDatad(keys="image"), after]
    return path, ran, steps


def test_what_stands_before_the_mark_runs_once_a_file_and_hands_out_copies(
    counted: tuple[Path, list[str], Any],
) -> None:
    path, ran, steps = counted
    request = {"image": str(path), "image_path": ImagePath(path), "model": "m"}
    first = run_behind_cache(dict(request), steps)
    first["image"][:] = -5
    second = run_behind_cache(dict(request), steps)
    assert ran == ["expensive", "after", "after"]
    assert float(second["image"].min()) == 1.0
    run_behind_cache({**request, "model": "other"}, steps)
    nib.save(nib.Nifti1Image(np.ones((3, 4, 6), np.float32), np.eye(4)), path)
    run_behind_cache(dict(request), steps)
    assert ran.count("expensive") == 3


def test_a_kept_image_can_still_be_inverted_by_newly_built_transforms(counted: tuple[Path, list[str], Any]) -> None:
    path, _, steps = counted
    request = {"image": str(path), "image_path": ImagePath(path), "model": "m"}
    run_behind_cache(dict(request), steps)
    kept = run_behind_cache(dict(request), steps)
    fresh = Orientationd(keys="image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    back = inverted(kept["image"].clone(), kept["image"], "image", [fresh], [])
    assert np.allclose(back.affine, np.diag([-1.0, -1, 1, 1]))
    assert back.numpy()[0, 0, 0, 0] == 1.0


def test_an_entry_ends_with_its_time_and_without_a_file_nothing_is_kept(
    counted: tuple[Path, list[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ran, steps = counted
    request = {"image": str(path), "image_path": ImagePath(path), "model": "m"}
    run_behind_cache(dict(request), steps)
    now = caching.time.monotonic()
    monkeypatch.setattr(caching.time, "monotonic", lambda: now + 601)
    run_behind_cache(dict(request), steps)
    assert ran.count("expensive") == 2
    without = {"image": str(path), "model": "m"}
    run_behind_cache(dict(without), steps)
    run_behind_cache(dict(without), steps)
    assert ran.count("expensive") == 4

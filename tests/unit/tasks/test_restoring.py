"""Answers return to the image's grid: any orientation, obliqueness, crop or spacing, voxel for voxel."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd, Spacingd, SpatialCropd

from labelserver.domain.errors import TaskFailed
from labelserver.tasks import resampling
from labelserver.tasks.resampling import argmax_on_grid
from labelserver.tasks.transforms import ArgmaxOnOriginalGridd, Restored

AXES = (("L", "R"), ("P", "A"), ("I", "S"))


def oblique(spacing: tuple[float, float, float], codes: str = "LPS", degrees: float = 0.0) -> np.ndarray:
    turn = np.eye(4)
    angle = np.deg2rad(degrees)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    ornt = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(codes), nib.orientations.axcodes2ornt("RAS"))
    affine = turn @ np.diag([*spacing, 1.0]) @ nib.orientations.inv_ornt_aff(ornt, (9, 8, 7))
    affine[:3, 3] += (12.0, -30.0, 4.0)
    return affine


def image_of(shape: tuple[int, ...], affine: np.ndarray) -> MetaTensor:
    rng = np.random.default_rng(1)
    voxels = torch.as_tensor(rng.normal(size=(1, *shape)).astype(np.float32))
    meta = {"original_affine": affine, "spatial_shape": np.asarray(shape)}
    return MetaTensor(voxels, affine=torch.as_tensor(affine), meta=meta)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIL", "IRA"])
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_scores_of_the_oriented_grid_come_back_voxel_for_voxel(codes: str, degrees: float) -> None:
    image = image_of((9, 8, 7), oblique((2.0, 1.5, 3.0), codes, degrees))
    data: dict[Any, Any] = {"image": image}
    data = Orientationd(keys="image", axcodes="RAS", labels=AXES)(data)
    oriented = data["image"]
    data["pred"] = torch.cat([-oriented.as_tensor(), oriented.as_tensor()])
    result = ArgmaxOnOriginalGridd(keys="pred", ref_image="image")(data)
    assert result["pred"].dtype == torch.uint8
    assert torch.equal(result["pred"].bool(), image.as_tensor()[0] > 0)
    assert np.allclose(result["pred_meta_dict"]["affine"], oblique((2.0, 1.5, 3.0), codes, degrees))


def test_a_smooth_object_keeps_its_place_through_another_spacing() -> None:
    affine = oblique((2.0, 2.0, 4.0), "PIL", 10.0)
    shape = (30, 28, 16)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    center = np.array([14.0, 12.0, 7.0])
    distance = np.linalg.norm((index - center) * (2.0, 2.0, 4.0), axis=-1)
    image = image_of(shape, affine)
    image = MetaTensor(torch.as_tensor(20.0 - distance)[None].float(), meta=image.meta)
    data: dict[Any, Any] = {"image": image}
    for step in (
        Orientationd(keys="image", axcodes="RAS", labels=AXES),
        Spacingd(keys="image", pixdim=(3.0, 3.0, 3.0)),
    ):
        data = step(data)
    scores = data["image"].as_tensor()
    data["pred"] = torch.cat([torch.zeros_like(scores), scores])
    found = ArgmaxOnOriginalGridd(keys="pred", ref_image="image")(data)["pred"].numpy()
    truth = distance < 20.0
    assert 2 * (truth & found.astype(bool)).sum() / (truth.sum() + found.sum()) > 0.98


def test_outside_a_crop_is_background() -> None:
    image = image_of((9, 8, 7), oblique((2.0, 2.0, 2.0), "LPS"))
    data: dict[Any, Any] = SpatialCropd(keys="image", roi_start=(2, 3, 1), roi_end=(6, 7, 5))({"image": image})
    data["pred"] = torch.stack([torch.zeros(4, 4, 4), torch.ones(4, 4, 4)])
    found = ArgmaxOnOriginalGridd(keys="pred", ref_image="image")(data)["pred"]
    expected = torch.zeros(9, 8, 7, dtype=torch.uint8)
    expected[2:6, 3:7, 1:5] = 1
    assert torch.equal(found, expected)


def test_slabs_and_dense_sampling_agree_with_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    scores = torch.rand(4, 6, 7, 8)
    source, target = torch.eye(4).double(), torch.diag(torch.tensor([0.5, 0.7, 0.6, 1.0])).double()
    whole = argmax_on_grid(scores, source, (11, 9, 12), target)
    monkeypatch.setattr(resampling, "SLAB_BYTES", 1)
    assert torch.equal(argmax_on_grid(scores, source, (11, 9, 12), target), whole)
    monkeypatch.setattr(resampling, "_axes", lambda *_: ())
    dense = argmax_on_grid(scores, source, (11, 9, 12), target)
    assert float((dense == whole).float().mean()) > 0.99


def test_a_single_channel_is_a_logit() -> None:
    scores = torch.tensor([[[[-1.0, 1.0]]]])
    eye = torch.eye(4).double()
    assert argmax_on_grid(scores, eye, (1, 1, 2), eye).tolist() == [[[0, 1]]]
    with pytest.raises(TaskFailed, match="cannot be put on a grid"):
        argmax_on_grid(torch.zeros(2, 3, 3), eye, (1, 1, 2), eye)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIL", "IRA"])
def test_restored_with_orientation_undoes_permuted_axes_before_it_resizes(codes: str) -> None:
    image = image_of((9, 8, 7), oblique((2.0, 1.5, 3.0), codes))
    data: dict[Any, Any] = Orientationd(keys="image", axcodes="RAS", labels=AXES)({"image": image})
    data["pred"] = data["image"].clone()
    result = Restored(keys="pred", ref_image="image", invert_orient=True)(data)
    assert torch.equal(torch.as_tensor(result["pred"]), image.as_tensor()[0])
    assert np.allclose(result["pred_meta_dict"]["affine"], image.meta["original_affine"])


def test_restored_resizes_numpy_without_channel_and_renumbers_by_position() -> None:
    image = image_of((8, 8, 8), np.eye(4))
    pred = np.zeros((4, 4, 4))
    pred[:2], pred[2:] = 1, 2
    labels = {"background": 0, "liver": 5, "vessel": 9}
    result = Restored(keys="pred", ref_image="image", has_channel=False, config_labels=labels)(
        {"image": image, "pred": pred}
    )
    assert tuple(result["pred"].shape) == (8, 8, 8)
    assert torch.as_tensor(result["pred"]).unique().tolist() == [5.0, 9.0]
    assert bool((torch.as_tensor(result["pred"])[:4] == 5).all())


def test_restored_keeps_several_channels_and_reads_a_dict_beside_a_plain_image() -> None:
    data = {
        "image": np.zeros((1, 4, 4, 4)),
        "image_meta_dict": {"spatial_shape": [8, 8, 8], "affine": np.eye(4)},
        "pred": torch.ones(2, 4, 4, 4),
    }
    assert tuple(Restored(keys="pred", ref_image="image")(data)["pred"].shape) == (2, 8, 8, 8)
    with pytest.raises(TaskFailed, match="does not know its original shape"):
        Restored(keys="pred", ref_image="image")({"image": np.zeros(3), "pred": torch.ones(1, 2, 2, 2)})

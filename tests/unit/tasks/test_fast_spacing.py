"""Another spacing axis by axis is MONAI's, in voxels, place and trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from labelserver.tasks.fast_spacing import SeparableSpacingd, is_usual


def image(degrees: float, shape: tuple[int, int, int] = (17, 15, 11)) -> MetaTensor:
    torch.manual_seed(0)
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = affine @ np.diag([-1.3, 0.9, 2.5, 1.0])
    affine[:3, 3] = (30, -20, 7)
    return MetaTensor(torch.randn(1, *shape), affine=torch.as_tensor(affine), meta={"kept": "yes"})


@pytest.mark.parametrize("degrees", [0.0, 23.0])
@pytest.mark.parametrize("pixdim", [(2.0, 2.0, 2.0), (0.7, 1.9, 3.1), (1.3, 0.9, 2.5), (1.3, 2.0, 2.5)])
def test_voxels_place_and_trace_are_those_of_monai(degrees: float, pixdim: tuple[float, ...]) -> None:
    step = Spacingd(keys="image", pixdim=pixdim)
    assert is_usual(step)
    theirs, ours = step({"image": image(degrees)})["image"], SeparableSpacingd(step)({"image": image(degrees)})["image"]
    assert torch.allclose(ours.as_tensor(), theirs.as_tensor(), atol=2e-5)
    assert torch.allclose(ours.affine, theirs.affine)
    assert ours.meta["kept"] == "yes"
    assert len(ours.applied_operations) == len(theirs.applied_operations) == 1
    mine, other = ours.applied_operations[0], theirs.applied_operations[0]
    assert mine.keys() == other.keys()
    assert tuple(mine["orig_size"]) == tuple(other["orig_size"])
    assert mine["class"] == other["class"]
    assert str(mine["extra_info"]) == str(other["extra_info"])
    back = step.inverse({"image": ours.clone()})["image"]
    assert tuple(back.shape) == (1, 17, 15, 11)
    assert torch.allclose(back.affine, image(degrees).affine)


def test_other_options_are_left_to_monai() -> None:
    for options in ({"mode": "nearest"}, {"align_corners": True}, {"padding_mode": "zeros"}, {"dtype": np.float32}):
        assert not is_usual(Spacingd(keys="image", pixdim=(2.0,) * 3, **options))
    assert not is_usual(Spacingd(keys=("image", "label"), pixdim=(2.0,) * 3))

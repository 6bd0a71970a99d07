"""The way back at once gives the labels that the author's own steps give, for all orientations, spacings and sizes."""

from __future__ import annotations

import itertools
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureTyped,
    Flipd,
    KeepLargestConnectedComponentd,
    Lambdad,
    Orientationd,
    Resized,
    Spacingd,
    SqueezeDimd,
    ToNumpyd,
)

from labelserver.tasks.fast_post import labelled
from labelserver.tasks.inverting import inverted
from labelserver.tasks.transform_runs import run_transforms
from labelserver.tasks.transforms import Restored

AXES = (("L", "R"), ("P", "A"), ("I", "S"))
#: how far apart the two best scores must be for the label to be certain
NEAR = 1e-4
#: share of voxels that may differ, all of them near ties
MOST_NEAR = 1e-5

CODES = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)
]


def image_of(codes: str, shape: tuple[int, int, int] = (13, 11, 9), degrees: float = 0.0) -> MetaTensor:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    ornt = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(codes), nib.orientations.axcodes2ornt("RAS"))
    affine = turn @ np.diag([1.7, 1.2, 2.9, 1.0]) @ nib.orientations.inv_ornt_aff(ornt, shape)
    affine[:3, 3] += (12.0, -30.0, 4.0)
    voxels = torch.rand(1, *shape)
    meta = {"original_affine": affine, "spatial_shape": np.asarray(shape)}
    return MetaTensor(voxels, affine=torch.as_tensor(affine), meta=meta)


def prepared(image: MetaTensor, pre: list[Any]) -> MetaTensor:
    data: dict[Any, Any] = {"image": image}
    for step in pre:
        data = step(data)
    result: MetaTensor = data["image"]
    return result


def compared(image: MetaTensor, pre: list[Any], post: list[Any], channels: int = 2, names: Any = ()) -> Any:
    """Run both ways on random scores, check that they agree, and give the quick one's data."""
    network_image = prepared(image, pre)
    scores = torch.randn(channels, *network_image.shape[1:])
    found = labelled(scores, network_image, "image", pre, names, post, "pred")
    assert found is not None
    quick = run_transforms({"image": network_image, "pred": found[0]}, found[1])
    full = scores if names is None else inverted(scores.clone(), network_image, "image", pre, names)
    slow = run_transforms({"image": network_image, "pred": full}, post)
    ours, theirs = np.asarray(quick["pred"]), np.asarray(slow["pred"])
    assert ours.shape == theirs.shape
    differs = ours.astype(np.float32) != theirs.astype(np.float32)
    if differs.any():
        best = np.sort(np.asarray(full), axis=0)
        margin = best[-1] - best[-2] if channels > 1 else np.abs(best[-1])
        assert (margin.reshape(differs.shape)[differs] < NEAR).all()
    print(f"{int(differs.sum())} of {differs.size} voxels differ, all within {NEAR} of a tie")
    assert differs.sum() <= max(1, MOST_NEAR * differs.size)
    if isinstance(quick["pred"], MetaTensor) and isinstance(slow["pred"], MetaTensor):
        assert np.allclose(quick["pred"].affine, slow["pred"].affine, atol=1e-6)
    return quick


def argmax() -> list[Any]:
    return [Activationsd(keys="pred", softmax=True), AsDiscreted(keys="pred", argmax=True)]


@pytest.mark.parametrize("codes", CODES)
def test_all_48_orientations_come_back_as_the_author_would_bring_them(codes: str) -> None:
    torch.manual_seed(1)
    pre = [
        Orientationd(keys="image", axcodes="RAS", labels=AXES),
        Spacingd(keys="image", pixdim=(2.3, 1.9, 2.1)),
    ]
    compared(image_of(codes, degrees=20.0), pre, [*argmax(), Restored(keys="pred", ref_image="image")])


@pytest.mark.parametrize("mode", ["trilinear", "area", "nearest", "nearest-exact"])
@pytest.mark.parametrize("size", [(8, 8, 8), (10, 11, 7), (13, 11, 9)])
def test_a_resize_is_inverted_in_its_own_mode(mode: str, size: tuple[int, int, int]) -> None:
    torch.manual_seed(2)
    pre = [Orientationd(keys="image", axcodes="LSA", labels=AXES), Resized(keys="image", spatial_size=size, mode=mode)]
    turned = prepared(image_of("RAS"), pre[:1]).shape[1:]
    if mode == "area" and any(new < small for new, small in zip(turned, size, strict=True)):
        image = prepared(image_of("RAS"), pre)  # an area that shrinks on the way back is left to MONAI
        assert labelled(torch.randn(3, *size), image, "image", pre, (), argmax(), "pred") is None
        return
    compared(image_of("RAS"), pre, argmax(), channels=3)


def test_corners_may_be_aligned() -> None:
    pre = [Resized(keys="image", spatial_size=(8, 9, 7), mode="trilinear", align_corners=True)]
    compared(image_of("RAS"), pre, argmax())


@pytest.mark.parametrize(("channels", "post"), [
    (2, [AsDiscreted(keys="pred", argmax=True)]),
    (5, [EnsureTyped(keys="pred"), *argmax()]),
    (1, [Activationsd(keys="pred", sigmoid=True), AsDiscreted(keys="pred", threshold=0.5)]),
    (1, [Activationsd(keys="pred", sigmoid=True), AsDiscreted(keys="pred", threshold=0.7)]),
    (1, [AsDiscreted(keys="pred", threshold=0.25)]),
])  # fmt: skip
def test_each_way_to_decide_is_kept(channels: int, post: list[Any]) -> None:
    torch.manual_seed(3)
    pre = [Spacingd(keys="image", pixdim=(2.0, 2.0, 2.0))]
    quick = compared(image_of("LPS"), pre, post, channels=channels)
    if channels == 1 and len(post) == 2 and post[1].threshold[0] == 0.5:
        assert quick["pred"].dtype == torch.uint8


def test_without_inversion_labels_are_resized_as_the_author_would() -> None:
    pre = [Resized(keys="image", spatial_size=(8, 8, 8), mode="area")]
    post = [
        *argmax(),
        SqueezeDimd(keys="pred", dim=0),
        ToNumpyd(keys="pred"),
        Restored(keys="pred", ref_image="image", has_channel=False),
    ]
    compared(image_of("RAS"), pre, post, names=None)


def test_the_largest_part_is_kept_of_the_same_labels() -> None:
    post = [*argmax(), KeepLargestConnectedComponentd(keys="pred"), Restored(keys="pred", ref_image="image")]
    compared(image_of("PIR"), [Orientationd(keys="image", axcodes="RAS", labels=AXES)], post)


def test_a_step_that_nobody_knows_gets_the_authors_dtype() -> None:
    seen: list[torch.dtype] = []

    def look(pred: torch.Tensor) -> torch.Tensor:
        seen.append(pred.dtype)
        return pred / 2

    compared(image_of("RAS"), [Spacingd(keys="image", pixdim=(2.0,) * 3)], [*argmax(), Lambdad(keys="pred", func=look)])
    assert seen == [torch.float32, torch.float32]


def test_what_is_not_the_usual_way_is_left_alone() -> None:
    flip = [Flipd(keys="image", spatial_axis=0)]
    image = prepared(image_of("RAS"), flip)
    scores = torch.randn(2, *image.shape[1:])
    usual = argmax()
    assert labelled(scores, image, "image", flip, (), usual, "pred") is None
    plain = image_of("RAS")
    for post in (
        [Activationsd(keys="pred", softmax=True)],
        [Activationsd(keys="pred", softmax=True, dim=1), AsDiscreted(keys="pred", argmax=True)],
        [Activationsd(keys="pred", other=torch.tanh), AsDiscreted(keys="pred", argmax=True)],
        [AsDiscreted(keys="pred", argmax=True, to_onehot=2)],
        [AsDiscreted(keys="pred", threshold=0.5)],
        [AsDiscreted(keys=("pred", "image"), argmax=True)],
        [Lambdad(keys="pred", func=torch.abs), *usual],
    ):
        assert labelled(scores, plain, "image", [], None, post, "pred") is None
    twice = [Spacingd(keys="image", pixdim=(2.0,) * 3), Resized(keys="image", spatial_size=(9, 9, 9), mode="trilinear")]
    small = prepared(plain, twice)
    assert labelled(torch.randn(2, 9, 9, 9), small, "image", twice, (), usual, "pred") is None

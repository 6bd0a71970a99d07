"""DeepGrow: positive and negative clicks for one object, as MONAI's transforms draw them, in 2-D and 3-D.

MONAI's `AddGuidanceSignald` makes two channels of the clicks beside the intensities (Sakinis et al. 2019,
https://arxiv.org/abs/1903.08205). Windows, zoom, training and measuring are those of `click3d`; only what the network
sees is DeepGrow's: no previous mask, no contrast, no memory of which click came last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from monai.apps.deepgrow.transforms import AddGuidanceSignald
from monai.networks.nets import BasicUNet

from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.tasks.auto_zoom import PatchEngine
from labelserver.tasks.click3d import Click3d, ClickEngine, Draw
from labelserver.tasks.click_channels import Channels
from labelserver.tasks.click_train import Click3dTrain
from labelserver.tasks.hints import Hint
from labelserver.tasks.patch_task import joined, with_answer
from labelserver.tasks.prompting import ClickState, Prediction
from labelserver.tasks.vista3d import spread
from labelserver.tasks.windows import Patch

_SIGMA = 2  #: patch voxels; width of a click's bump, MONAI's default


def guidance_channels(image: Patch, previous: Patch, hints: Sequence[Hint]) -> Channels:
    """(3, A, B, C): intensities, positive and negative clicks. `previous` is not for this network."""
    clicks: dict[bool, list[list[int]]] = {True: [], False: []}
    for hint in hints:
        if hint.kind is not PromptKind.MASK:
            clicks[hint.positive] += [[0, *map(int, voxel)] for voxel in spread(hint)]
    data = {"image": np.asarray(image, dtype=np.float32)[None], "guidance": [clicks[True], clicks[False]]}
    signal = AddGuidanceSignald(image="image", guidance="guidance", sigma=_SIGMA, number_intensity_ch=1)
    found: Channels = np.asarray(signal(data)["image"], dtype=np.float32)
    return found


def deepgrow_network(spatial_dims: int = 3, features: Sequence[int] = (32, 64, 128, 256, 512, 32)) -> torch.nn.Module:
    """MONAI's BasicUNet, from three channels to one; it always starts from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: torch.nn.Module = BasicUNet(
            spatial_dims=spatial_dims, in_channels=3, out_channels=1, features=tuple(features)
        )
    return network


class DeepGrow3D(Click3d):
    """DeepGrow: positive and negative clicks for one object in a volume"""

    draw: ClassVar[Draw] = staticmethod(guidance_channels)
    prompt_kinds: ClassVar[frozenset[PromptKind]] = frozenset(
        {PromptKind.POINT, PromptKind.SCRIBBLE, PromptKind.LASSO, PromptKind.BOX}
    )
    conversions: ClassVar[Mapping[PromptKind, str]] = {
        PromptKind.SCRIBBLE: "some of its voxels as clicks",
        PromptKind.LASSO: "some of its voxels as clicks",
        PromptKind.BOX: "a click in its middle",
    }


class DeepGrow3DTrain(Click3dTrain):
    """Training of DeepGrow by a simulated user"""

    draw: ClassVar[Draw] = staticmethod(guidance_channels)


class DeepGrow2D(DeepGrow3D):
    """DeepGrow: positive and negative clicks for one object in a picture, or in one slice of a volume"""

    def engine(self, prepared: Any, params: Mapping[str, Any]) -> PatchEngine:
        found = super().engine(prepared, params)
        return replace(found, copies=0) if isinstance(found, ClickEngine) else found

    def predict(self, prepared: Any, clicks: ClickState) -> Iterator[Prediction]:
        """Each slice with new prompts is answered by itself; slices are those of the last axis."""
        new = clicks.prompts[len(clicks.prompts) - clicks.new :] if clicks.new else clicks.prompts
        slices = sorted({_slice_of(prompt) for prompt in new})
        mask, done = clicks.mask, list[Prediction]()
        for number, index in enumerate(slices):
            here = [prompt for prompt in clicks.prompts if _slice_of(prompt) == index]
            fresh = sum(1 for prompt in new if _slice_of(prompt) == index)
            affine = prepared.grid.affine.copy()
            affine[:3, 3] += affine[:3, 2] * index
            grid = Grid((prepared.grid.shape[0], prepared.grid.shape[1], 1), affine)
            plane = replace(prepared, voxels=prepared.voxels[:, :, index : index + 1], grid=grid)
            state = replace(
                clicks,
                prompts=tuple(_moved(prompt, index) for prompt in here),
                new=fresh,
                mask=clicks.mask[:, :, index : index + 1],
            )
            for found in super().predict(plane, state):
                lo = (found.lo[0], found.lo[1], found.lo[2] + index)
                told = replace(found, lo=lo, final=found.final and number == len(slices) - 1)
                if found.final and len(slices) > 1:
                    done.append(told)
                    mask = with_answer(mask, told)
                    told = joined(mask, done)
                yield told


def _slice_of(prompt: Prompt) -> int:
    """The middle one of what was drawn, along the last axis."""
    lo, hi = prompt.box
    return (lo[2] + hi[2] - 1) // 2


def _moved(prompt: Prompt, index: int) -> Prompt:
    """As it lies in the slice `index` when that is the only one."""
    if prompt.mask is not None:
        at = index - prompt.mask.lo[2]
        mask = replace(prompt.mask, lo=(*prompt.mask.lo[:2], 0), voxels=prompt.mask.voxels[:, :, at : at + 1])
        return replace(prompt, mask=mask)
    points = prompt.points.copy()
    points[:, 2] = 0
    return replace(prompt, points=points)

"""The clicks of DeepEdit as bumps in extra channels, without a convolution of the whole volume.

MONAI's AddGuidanceSignalDeepEditd sets a voxel for each click and blurs each channel with a Gaussian. A blurred voxel
is the product of three short vectors, so only the box round each click is computed here. The same numbers come out up
to rounding: the kernel is MONAI's own, and voxels beyond the border count as 0 in both.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.apps.deepedit.transforms import AddGuidanceSignalDeepEditd
from monai.data import MetaTensor
from monai.networks.layers.convutils import gaussian_1d
from monai.transforms import MapTransform

Point = tuple[int, int, int]


class SeparableGuidanceSignald(MapTransform):
    """As the transform it stands for; volumes that are not 3-D or not on the CPU are left to that one."""

    def __init__(self, original: AddGuidanceSignalDeepEditd) -> None:
        super().__init__(original.keys, original.allow_missing_keys)
        self.original = original

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image: Any = data.get("image")
        plain = isinstance(image, MetaTensor) and image.ndim == 4 and image.dtype == torch.float32
        if not plain or image.device.type != "cpu" or isinstance(self.original.sigma, Sequence):
            return dict(self.original(data))
        guidance = data[self.original.guidance]
        intensities = image.as_tensor()[: self.original.number_intensity_ch]
        channels = torch.empty((len(intensities) + len(guidance), *image.shape[1:]))
        channels[: len(intensities)] = intensities
        for number, points in enumerate(guidance.values(), start=len(intensities)):
            _write_bumps(channels[number], _inside(points, image.shape[1:]), float(self.original.sigma))
        result = MetaTensor(channels, meta=image.meta, applied_operations=image.applied_operations)
        return {**data, "image": result}


def is_usual(step: Any) -> bool:
    """Whether `step` adds the clicks of one image."""
    return type(step) is AddGuidanceSignalDeepEditd and tuple(step.keys) == ("image",)


def _inside(points: Any, shape: Sequence[int]) -> set[Point]:
    """The voxels of the clicks; beyond the border counts as at the border, and a negative index as no click."""
    listed = points.tolist() if isinstance(points, np.ndarray) else points
    listed = json.loads(listed) if isinstance(listed, str) else listed
    found = set()
    for point in listed:
        if np.any(np.asarray(point) < 0):
            continue
        i, j, k = (min(int(p), size - 1) for p, size in zip(point[-3:], shape, strict=True))
        found.add((i, j, k))
    return found


def _write_bumps(channel: torch.Tensor, points: set[Point], sigma: float) -> None:
    """Fill (I, J, K): the sum of a bump at each point, then stretched to 0..1.

    Only the box round all bumps is looked at: beyond it everything is 0, which is the lowest value then.
    """
    channel.zero_()
    if not points:
        return
    kernel = gaussian_1d(torch.tensor(sigma), truncated=4.0, approx="erf")
    half = len(kernel) // 2
    for point in sorted(points):
        box, parts = [], []
        for position, size in zip(point, channel.shape, strict=True):
            first, last = max(position - half, 0), min(position + half + 1, size)
            box.append(slice(first, last))
            parts.append(kernel[first - position + half : last - position + half])
        bump = parts[0][:, None, None] * parts[1][None, :, None] * parts[2][None, None, :]
        channel[tuple(box)] += bump
    around = channel[
        tuple(
            slice(max(min(at) - half, 0), min(max(at) + half + 1, size))
            for at, size in zip(zip(*points, strict=True), channel.shape, strict=True)
        )
    ]
    lowest = around.min() if around.numel() == channel.numel() else torch.zeros(())
    highest = around.max()
    around.sub_(lowest).div_(highest - lowest)

"""Automatic segmentation with a sliding window: the ready-made task of apps that need nothing special."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.transforms import Orientationd, ScaleIntensityRanged, Spacingd

from labelserver.domain.errors import InvalidParams
from labelserver.tasks.base import InferType, Labels, numbered_labels
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.transform_runs import Transforms
from labelserver.tasks.transforms import ArgmaxOnOriginalGridd, LoadVolumed

#: patient axes, first the end an index counts away from
AXES = (("L", "R"), ("P", "A"), ("I", "S"))


class SegmentationInfer(BasicInferTask):
    """Segmentation of a 3-D image with a sliding window"""

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        network: torch.nn.Module | None,
        labels: Labels,
        *,
        spacing_mm: Sequence[float],
        roi_size: Sequence[int],
        intensity_window: tuple[float, float] = (-175.0, 250.0),
        sw_overlap: float = 0.25,
        sw_batch_size: int = 2,
        description: str = "",
        type: str = InferType.SEGMENTATION,
        config: Mapping[str, Any] | None = None,
        orientation: str = "RAS",
        train_mode: bool = False,
        skip_writer: bool = False,
    ) -> None:
        """Describe what the network was trained on.

        Channel 0 of the network is background, channel n the n-th label. Masks hold 1..N in label order whatever the
        values of `labels` say, because that is the one numbering that all clients read alike (rule R-12).

        Args:
            path: weight file or files; the last existing one is in use.
            network: template; None for a TorchScript file.
            labels: names in order, or name -> value, of which the order counts.
            spacing_mm: voxel size that the network works on, along the axes of `orientation`.
            roi_size: voxels of one window.
            intensity_window: intensities (Hounsfield units for CT) that become 0 and 1; beyond them is clipped.
            sw_overlap: share by which windows overlap.
            sw_batch_size: windows at a time.
            description: for people.
            type: see `InferType`.
            config: options with their defaults.
            orientation: axes that the network works in.
            train_mode: keep dropout active, for scoring.
            skip_writer: answer ``(None, data)``; ``data["pred"]`` then holds the scores on the network's grid.
        """
        numbers = numbered_labels(labels)
        ordered = [name for name, value in sorted(numbers.items(), key=lambda item: item[1]) if value > 0]
        super().__init__(
            path=path,
            network=network,
            type=type,
            labels={name: value for value, name in enumerate(ordered, start=1)},
            dimension=3,
            description=description,
            config={"sw_overlap": sw_overlap, "sw_batch_size": sw_batch_size, **(config or {})},
            roi_size=tuple(int(size) for size in roi_size),
            train_mode=train_mode,
            skip_writer=skip_writer,
        )
        self.spacing_mm = tuple(float(value) for value in spacing_mm)
        self.intensity_window = intensity_window
        self.orientation = orientation

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        low, high = self.intensity_window
        return [
            LoadVolumed(keys="image"),
            Orientationd(keys="image", axcodes=self.orientation, labels=AXES),
            Spacingd(keys="image", pixdim=self.spacing_mm, mode="bilinear"),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
        ]

    def inferer(self, data: dict[str, Any] | None = None) -> Inferer:
        options = {**self._config, **(data or {})}
        roi_size: Any = options.get("roi_size") or self.roi_size
        try:
            return SlidingWindowInferer(
                roi_size=[int(size) for size in roi_size],
                sw_batch_size=int(options["sw_batch_size"]),
                overlap=float(options["sw_overlap"]),
                mode="gaussian",
                padding_mode="replicate",
            )
        except (TypeError, ValueError) as error:
            raise InvalidParams(
                "roi_size is a list of whole numbers, sw_batch_size a whole number, sw_overlap between 0 and 1."
            ) from error

    def post_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        if self.skip_writer or (data or {}).get("skip_writer"):
            return []
        return [ArgmaxOnOriginalGridd(keys="pred", ref_image="image")]

"""Segmentation of 2-D pictures (PNG, JPEG, TIFF; grey or colour): the ready-made tasks beside those for volumes.

Pictures have no millimetres and no patient axes, so a network works on pixels as they are, in windows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.inferers import Inferer, SlidingWindowInferer
from monai.transforms import AsDiscreted, EnsureTyped, MapTransform, NormalizeIntensityd

from labelserver.domain.schema import channels_of_values
from labelserver.tasks.base import InferType, Labels, numbered_labels
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.segmentation_train import OnlyKnownLabelsd, SegmentationTrain
from labelserver.tasks.train import Context
from labelserver.tasks.transform_runs import Transforms
from labelserver.tasks.transforms import CacheTransformDatad, LoadVolumed, Restored

_BOTH = ("image", "label")


class ToChannelsd(MapTransform):
    """As many channels as a network takes: grey is repeated, colour becomes grey by its mean, transparency goes.

    Args:
        keys: (channels, I, J) tensors.
        channels: 1 or 3.
    """

    def __init__(self, keys: KeysCollection, channels: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            colours = image[: 3 if image.shape[0] >= 3 else 1]
            if self.channels == 1:
                result[key] = colours.mean(0, keepdim=True) if colours.shape[0] == 3 else colours
            else:
                result[key] = colours if colours.shape[0] == 3 else colours.repeat(3, *[1] * (colours.ndim - 1))
        return result


class PictureSegmentationInfer(BasicInferTask):
    """Segmentation of a picture with a sliding window"""

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        network: torch.nn.Module | None,
        labels: Labels,
        *,
        roi_size: Sequence[int],
        channels: int = 3,
        sw_overlap: float = 0.25,
        description: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe what the network was trained on; `PictureSegmentationTrain` takes the same values.

        Args:
            path: weight file or files; the last existing one is in use.
            network: template, from (B, channels, I, J) to (B, 1 + number of labels, I, J).
            labels: names in order, or name -> value, of which the order counts.
            roi_size: pixels of one window.
            channels: of the network's input, 1 or 3.
            sw_overlap: share by which windows overlap.
            description: for people.
            config: options with their defaults.
        """
        numbers = numbered_labels(labels)
        ordered = [name for name, value in sorted(numbers.items(), key=lambda item: item[1]) if value > 0]
        super().__init__(
            path=path,
            network=network,
            type=InferType.SEGMENTATION,
            labels={name: value for value, name in enumerate(ordered, start=1)},
            dimension=2,
            description=description,
            config={"result_extension": ".png", **(config or {})},
            roi_size=tuple(int(size) for size in roi_size),
        )
        self.channels = channels
        self.sw_overlap = sw_overlap

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        return [
            LoadVolumed(keys="image"),
            ToChannelsd(keys="image", channels=self.channels),
            NormalizeIntensityd(keys="image", channel_wise=True),
            CacheTransformDatad(keys="image"),
        ]

    def inferer(self, data: dict[str, Any] | None = None) -> Inferer:
        return SlidingWindowInferer(
            roi_size=self.roi_size or (), sw_batch_size=2, overlap=self.sw_overlap, padding_mode="replicate"
        )

    def post_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        return [AsDiscreted(keys="pred", argmax=True), Restored(keys="pred", ref_image="image")]


class PictureSegmentationTrain(SegmentationTrain):
    """Training of a segmentation network on windows of pictures"""

    def __init__(
        self,
        model_dir: str | Path,
        network: torch.nn.Module,
        labels: Labels,
        *,
        roi_size: Sequence[int],
        channels: int = 3,
        **options: Any,
    ) -> None:
        """As `SegmentationTrain`, without what only a volume has.

        Args:
            model_dir: folder of the run folders, below the app.
            network: from (B, channels, I, J) to (B, 1 + number of labels, I, J); channel 0 is background.
            labels: names in order, or name -> value, of which the order counts.
            roi_size: pixels of a window.
            channels: of the network's input, 1 or 3.
            options: further arguments of `SegmentationTrain`.
        """
        super().__init__(model_dir, network, labels, spacing_mm=(1.0, 1.0), roi_size=roi_size, **options)
        self.channels = channels

    def _fixed_transforms(self, context: Context) -> list[Any]:
        return [
            LoadVolumed(keys=_BOTH),
            ToChannelsd(keys="image", channels=self.channels),
            NormalizeIntensityd(keys="image", channel_wise=True),
            OnlyKnownLabelsd(
                keys="label",
                largest=len(self._names),
                channels=channels_of_values(self._names, context.label_values),
            ),
            EnsureTyped(keys="image", dtype=torch.float32),
            EnsureTyped(keys="label", dtype=torch.uint8),
        ]

"""What was not annotated becomes a value of its own in training tensors, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from labelserver.domain.annotation import MaskFile, region_from_json
from labelserver.domain.errors import UnreadableFile
from labelserver.domain.region_masks import RegionMask, mask_of
from labelserver.domain.schema import NOT_ANNOTATED
from labelserver.imaging.packed_mask import unpacked

_Data = dict[Hashable, Any]


class LoadAnnotatedd(MapTransform):
    """Give voxels that nobody looked at the value 255, and say which channels were looked for.

    Comes after the label was loaded, channel first, (1, I, J, K) or (1, I, J), and before its axes are touched. The
    case's ``annotated`` (see `labelserver.tasks.train_labels`) is replaced by a float tensor (C,): 1 for the
    background and each channel that was annotated. Voxels of labels that were not annotated become background.
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: int,
        channels: Mapping[int, int] | None = None,
        annotated_key: str = "annotated",
    ) -> None:
        """Args:
        keys: of the label.
        classes: channels of the network, background included.
        channels: value in the label file -> channel; None: they are the same.
        annotated_key: of the document.
        """
        super().__init__(keys)
        self._classes = classes
        self._channels = channels
        self._annotated_key = annotated_key

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        found = dict(data)
        annotated = torch.ones(self._classes)
        text = str(found.get(self._annotated_key) or "")
        if text:
            document = json.loads(text)
            values = document.get("values")
            for key in self.key_iterator(found):
                label = found[key]
                if values is not None:
                    label[~torch.isin(label, torch.as_tensor(values, dtype=label.dtype))] = 0
                label[0][~torch.from_numpy(_region(document, tuple(label.shape[1:])))] = NOT_ANNOTATED
            if values is not None:
                annotated = self._looked_for(values)
        found[self._annotated_key] = annotated
        return found

    def _looked_for(self, values: list[int]) -> torch.Tensor:
        channels = {v: v for v in values} if self._channels is None else self._channels
        annotated = torch.zeros(self._classes)
        annotated[0] = 1
        for value in values:
            channel = channels.get(value)
            if channel is not None and channel < self._classes:
                annotated[channel] = 1
        return annotated


def _region(document: Mapping[str, Any], shape: tuple[int, ...]) -> RegionMask:
    """True where annotated, of the label's own shape. Raises `UnreadableFile`, `InvalidParams`."""
    region = region_from_json(document.get("region"))
    stored = None
    if isinstance(region, MaskFile):
        try:
            stored = unpacked(Path(str(document.get("mask"))).read_bytes(), region.sha256)
        except OSError as error:
            raise UnreadableFile("The mask of what was annotated is gone.") from error
    full = (shape[0], shape[1], shape[2] if len(shape) > 2 else 1)
    return mask_of(region, full, stored).reshape(shape)

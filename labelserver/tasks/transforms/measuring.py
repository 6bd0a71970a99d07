"""What can be read off or tidied in a mask: largest parts, boxes, extreme points; and small helpers for apps."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import label as connected_parts

_Data = dict[Hashable, Any]


def _as_array(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu() if torch.is_tensor(value) else value)


def _like(array: NDArray[Any], value: Any) -> Any:
    if isinstance(value, MetaTensor):
        return MetaTensor(torch.as_tensor(array), meta=value.meta, applied_operations=value.applied_operations)
    return torch.as_tensor(array) if torch.is_tensor(value) else array


class LargestCCd(MapTransform):
    """Keep the largest connected part of each channel (or of the whole, without channel)."""

    def __init__(self, keys: KeysCollection, has_channel: bool = True, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.has_channel = has_channel

    @staticmethod
    def get_largest_cc(label: NDArray[Any]) -> NDArray[Any]:
        """`label` with everything but its largest connected part set to 0; an empty one comes back as it is."""
        parts = connected_parts(label != 0)
        sizes = np.bincount(parts.ravel())
        if sizes.size < 2:
            return label
        return np.where(parts == sizes[1:].argmax() + 1, label, np.zeros((), label.dtype))

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        for key in self.key_iterator(result):
            array = _as_array(result[key])
            kept = np.stack([self.get_largest_cc(c) for c in array]) if self.has_channel else self.get_largest_cc(array)
            result[key] = _like(kept, result[key])
        return result


def _spatial(value: Any) -> NDArray[Any]:
    """A single channel dropped."""
    array = _as_array(value)
    return array[0] if array.ndim > 2 and array.shape[0] == 1 else array


class ExtremePointsd(MapTransform):
    """Write the outermost points of a mask into ``data[result][points]``: for each axis the first and the last."""

    def __init__(
        self, keys: KeysCollection, result: str = "result", points: str = "points", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.result = result
        self.points = points

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        found = dict(data)
        for key in self.key_iterator(found):
            inside = np.argwhere(_spatial(found[key]) > 0)
            axes = range(inside.shape[1]) if len(inside) else ()
            ends = [(inside[:, axis].argmin(), inside[:, axis].argmax()) for axis in axes]
            points = [inside[index].tolist() for pair in ends for index in pair]
            found[self.result] = {**(found.get(self.result) or {}), self.points: points}
        return found


class BoundingBoxd(MapTransform):
    """Write the box around a mask into ``data[result][bbox]``: [[first per axis], [last per axis + 1]]."""

    def __init__(
        self, keys: KeysCollection, result: str = "result", bbox: str = "bbox", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.result = result
        self.bbox = bbox

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        found = dict(data)
        for key in self.key_iterator(found):
            inside = np.argwhere(_spatial(found[key]) > 0)
            box = [inside.min(0).tolist(), (inside.max(0) + 1).tolist()] if len(inside) else []
            found[self.result] = {**(found.get(self.result) or {}), self.bbox: box}
        return found


class RenameKeyd(Transform):
    """Move ``data[source_key]`` to ``data[target_key]``."""

    def __init__(self, source_key: Hashable, target_key: Hashable) -> None:
        self.source_key = source_key
        self.target_key = target_key

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        if self.source_key in result:
            result[self.target_key] = result.pop(self.source_key)
        return result


class MergeAllPreds(MapTransform):
    """Merge the masks under `keys` into one array: where a later one is not 0 and nothing is set yet, it is taken."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Any:
        merged: Any = None
        for key in self.key_iterator(dict(data)):
            mask = data[key]
            if merged is None:
                merged = mask.clone() if torch.is_tensor(mask) else np.array(mask)
            else:
                free = merged == 0
                merged[free] = mask[free]
        return merged


class DumpImagePrediction2Dd(Transform):
    """Save image and answer of a 2-D task side by side as PNG, for a look while an app is written."""

    def __init__(self, image_path: str, pred_path: str, pred_only: bool = True) -> None:
        self.image_path = image_path
        self.pred_path = pred_path
        self.pred_only = pred_only

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        if not self.pred_only:
            self._save(data["image"], self.image_path)
        self._save(data["pred"], self.pred_path)
        return dict(data)

    @staticmethod
    def _save(value: Any, path: str) -> None:
        array = _spatial(value)
        plane = array[0] if array.ndim > 2 else array
        low, high = float(plane.min()), float(plane.max())
        grey = np.round(255 * (plane - low) / (high - low or 1)).astype(np.uint8)
        target = Path(path) if path else Path(tempfile.gettempdir()) / "answer.png"
        Image.fromarray(grey.T).save(target)

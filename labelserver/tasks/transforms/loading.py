"""Read images, or take arrays that a caller hands in without a file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor
from monai.transforms import LoadImaged, MapTransform
from monai.utils import MetaKeys, SpaceKeys

from labelserver.imaging.formats import is_picture, split_ext
from labelserver.imaging.volumes import read_volume

_Data = dict[Hashable, Any]


class LoadVolumed(MapTransform):
    """Read files through `imaging.volumes`, so that networks see the geometry that the server checks.

    Gives a float MetaTensor with its channel first, (1, I, J, K), or (channels, I, J) for a picture, with a RAS+ affine
    in mm; label maps can be cast by who needs whole numbers. MONAI's LoadImaged reads the same formats but not .mha.

    Raises (on call): `UnreadableFile`, `UnsupportedFormat`.
    """

    def __init__(
        self, keys: KeysCollection, dtype: torch.dtype = torch.float32, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.dtype = dtype

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = load_volume(Path(result[key]), self.dtype)
        return result


def load_volume(path: Path, dtype: torch.dtype = torch.float32) -> MetaTensor:
    """One file as `LoadVolumed` gives it."""
    volume = read_volume(path)
    flat = is_picture(split_ext(path.name)[1])
    voxels = volume.voxels[:, :, 0] if flat else volume.voxels
    channels = np.moveaxis(voxels, -1, 0) if volume.voxels.ndim == 4 else voxels[None]
    tensor = torch.from_numpy(np.ascontiguousarray(channels.astype(_NUMPY[dtype], copy=False)))
    shape = volume.grid.shape[:2] if flat else volume.grid.shape
    meta = {
        MetaKeys.ORIGINAL_AFFINE: volume.grid.affine.copy(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.asarray(shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        "filename_or_obj": str(path),
    }
    return MetaTensor(tensor, affine=torch.as_tensor(volume.grid.affine), meta=meta)


_NUMPY = {torch.float32: np.float32, torch.uint8: np.uint8, torch.int32: np.int32, torch.int16: np.int16}


def _as_image(array: Any) -> MetaTensor:
    """An array without geometry: (H, W) or channel-last (H, W, C)."""
    tensor = MetaTensor(torch.as_tensor(np.asarray(array)).float())
    last = tensor.ndim - 1
    tensor.meta[MetaKeys.SPATIAL_SHAPE] = np.asarray(tensor.shape[: last if tensor.ndim > 2 else None])
    tensor.meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = last if tensor.ndim > 2 else float("nan")
    return tensor


class LoadImageTensord(MapTransform):
    """Load paths with another transform; arrays under the same keys pass as images (channel last, no position)."""

    def __init__(self, keys: KeysCollection, load_image_d: MapTransform, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load_image_d = load_image_d

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        arrays = [key for key in self.key_iterator(result) if not isinstance(result[key], str | Path)]
        if not arrays:
            return dict(self.load_image_d(result))
        for key in arrays:
            if not isinstance(result[key], MetaTensor):
                result[key] = _as_image(result[key])
        return result


class LoadImageExd(LoadImaged):
    """MONAI's LoadImaged that lets arrays pass."""

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> _Data:
        result = dict(data)
        arrays: Sequence[Hashable] = [k for k in self.key_iterator(result) if not isinstance(result[k], str | Path)]
        if not arrays:
            return dict(super().__call__(result, reader))
        for key in arrays:
            if not isinstance(result[key], MetaTensor):
                result[key] = _as_image(result[key])
        return result


class NormalizeLabeld(MapTransform):
    """Make every voxel of a label that is not background the same `value`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, value: float = 1) -> None:
        super().__init__(keys, allow_missing_keys)
        self.value = value

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        for key in self.key_iterator(result):
            label = result[key]
            if torch.is_tensor(label):
                result[key] = torch.where(label != 0, torch.full_like(label, self.value), torch.zeros_like(label))
            else:
                array = np.asarray(label)
                result[key] = np.where(array != 0, np.asarray(self.value, array.dtype), np.asarray(0, array.dtype))
        return result

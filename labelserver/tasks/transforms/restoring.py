"""From the network's grid back to the image's: shape, orientation, position and label numbers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientation, Resize
from monai.utils import InterpolateMode, MetaKeys, ensure_tuple_rep

from labelserver.domain.errors import TaskFailed
from labelserver.tasks.resampling import argmax_on_grid

_Data = dict[Hashable, Any]


class Restored(MapTransform):
    """Resize an answer to the image's original shape and note the original affine for the writer.

    It undoes resampling and resizing; crops and pads are undone by ``inverse_transforms``. With `invert_orient` the
    answer is first turned back to the image's original axes. Order of the numbers: with `config_labels` the j-th label
    (background not counted) becomes its configured value.

    Args:
        keys: where the answers are, (C, ...) or, without channel, (...).
        ref_image: the key of the image, which knows its original shape and affine.
        has_channel: whether the first axis counts channels; a single one is dropped at the end.
        invert_orient: turn back to the original axes.
        mode: interpolation of the resize.
        config_labels: name -> value to write instead of the position.
        align_corners: see torch.nn.functional.interpolate.
        meta_key_postfix: the affine goes to ``data[f"{key}_{postfix}"]["affine"]``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        ref_image: str,
        has_channel: bool = True,
        invert_orient: bool = False,
        mode: str = InterpolateMode.NEAREST_EXACT,
        config_labels: Mapping[str, int] | None = None,
        align_corners: bool | None = None,
        meta_key_postfix: str = "meta_dict",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_image = ref_image
        self.has_channel = has_channel
        self.invert_orient = invert_orient
        self.config_labels = config_labels
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        self.align_corners = ensure_tuple_rep(align_corners, len(self.keys))
        self.meta_key_postfix = meta_key_postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        meta = reference_meta(result, self.ref_image, self.meta_key_postfix)
        for key, mode, align_corners in self.key_iterator(result, self.mode, self.align_corners):
            answer = torch.as_tensor(result[key])
            layers = answer if self.has_channel else answer[None]
            if self.invert_orient:
                layers = _turned_back(layers, result.get(self.ref_image), meta)
            layers = _resized(layers, meta, mode, align_corners)
            if self.config_labels is not None:
                layers = _renumbered(layers, self.config_labels)
            drop = not self.has_channel or layers.shape[0] == 1
            result[key] = layers[0] if drop else layers
            noted = dict(result.get(f"{key}_{self.meta_key_postfix}") or {})
            noted["affine"] = meta.get(MetaKeys.ORIGINAL_AFFINE, meta.get(MetaKeys.AFFINE))
            result[f"{key}_{self.meta_key_postfix}"] = noted
        return result


def reference_meta(data: Mapping[Hashable, Any], ref_image: str, postfix: str = "meta_dict") -> Mapping[str, Any]:
    """What is known about the image: of its MetaTensor, else of the dict beside it. Raises `TaskFailed`."""
    image = data.get(ref_image)
    meta = image.meta if isinstance(image, MetaTensor) else data.get(f"{ref_image}_{postfix}")
    if not isinstance(meta, Mapping) or MetaKeys.SPATIAL_SHAPE not in meta:
        raise TaskFailed(f"data['{ref_image}'] does not know its original shape; keep it a MetaTensor after loading.")
    return meta


def _resized(layers: torch.Tensor, meta: Mapping[str, Any], mode: str, align_corners: bool | None) -> torch.Tensor:
    current = tuple(layers.shape[1:])
    original = tuple(int(size) for size in np.asarray(meta[MetaKeys.SPATIAL_SHAPE]).reshape(-1)[: len(current)])
    if current == original or len(original) != len(current):
        return layers
    resized = Resize(spatial_size=original, mode=mode, align_corners=align_corners)(layers)
    return torch.as_tensor(resized).to(layers.dtype)


def _turned_back(layers: torch.Tensor, image: Any, meta: Mapping[str, Any]) -> torch.Tensor:
    """To the axes of the file. The answer's own affine says where its axes point, else the image's current one."""
    own = layers.meta if isinstance(layers, MetaTensor) else image.meta if isinstance(image, MetaTensor) else meta
    current, original = own.get(MetaKeys.AFFINE), meta.get(MetaKeys.ORIGINAL_AFFINE)
    if current is None or original is None:
        raise TaskFailed("The orientation cannot be undone: the image does not know its affine.")
    codes = nib.orientations.aff2axcodes(np.asarray(original, dtype=np.float64))
    plain = layers.as_tensor() if isinstance(layers, MetaTensor) else layers
    turn = Orientation(axcodes="".join(codes), labels=(("L", "R"), ("P", "A"), ("I", "S")))
    return torch.as_tensor(turn(MetaTensor(plain, affine=torch.as_tensor(np.asarray(current, dtype=np.float64)))))


def _renumbered(layers: torch.Tensor, labels: Mapping[str, int]) -> torch.Tensor:
    result = torch.zeros_like(layers)
    foreground = [value for name, value in labels.items() if name.lower() != "background"]
    for position, value in enumerate(foreground, start=1):
        result[layers == position] = value
    return result


class ArgmaxOnOriginalGridd(MapTransform):
    """Class scores on any axis-aligned part of the image's space to a label map on the image's own grid.

    Scores are interpolated linearly and compared slab by slab, so that no copy of all scores at full size ever exists:
    512x512x200 with 10 classes takes a few hundred MB instead of 4 GB. Voxels outside the network's grid are 0.

    Args:
        keys: where the scores are, (C, i, j, k) MetaTensor with the affine of the network's grid.
        ref_image: the key of the image, which knows its original shape and affine.
    """

    def __init__(self, keys: KeysCollection, ref_image: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_image = ref_image

    def __call__(self, data: Mapping[Hashable, Any]) -> _Data:
        result = dict(data)
        image = result[self.ref_image]
        meta = reference_meta(result, self.ref_image)
        affine = torch.as_tensor(np.asarray(meta[MetaKeys.ORIGINAL_AFFINE], dtype=np.float64))
        shape = tuple(int(size) for size in np.asarray(meta[MetaKeys.SPATIAL_SHAPE]).reshape(-1))
        for key in self.key_iterator(result):
            scores = torch.as_tensor(result[key])
            network_affine = torch.as_tensor(np.asarray(image.affine.cpu(), dtype=np.float64))
            plain = scores.as_tensor() if isinstance(scores, MetaTensor) else scores
            result[key] = argmax_on_grid(plain.float(), network_affine, shape, affine)
            result[f"{key}_meta_dict"] = {"affine": affine.numpy()}
        return result

"""What is known about transforms of MONAI and of ours: which ones always make the same of the same image.

Three tables, by exact class (a subclass may do anything, so it is unknown):

- `SAME_ALWAYS`: without chance, reads only the values under its `keys` and what they know about themselves.
- `LOOKS_ONLY`: reads prompts and, of the image, its shape and metadata alone; does not change the image.
- `LEAVES_INPUT`: does not write into the tensors that it is given.

A class that is in no table is unknown: it may read any key, draw random numbers, write anywhere. `fingerprint` tells
two transforms of one class with other settings apart; settings that it cannot read make a transform unknown, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.apps.deepedit.transforms import (
    AddGuidanceFromPointsDeepEditd,
    AddGuidanceSignalDeepEditd,
    ResizeGuidanceMultipleLabelDeepEditd,
)
from monai.data import ImageReader

from labelserver.tasks.clicks import AddClickGuidanced
from labelserver.tasks.fast_guidance import SeparableGuidanceSignald
from labelserver.tasks.fast_spacing import SeparableSpacingd
from labelserver.tasks.transforms import (
    ArgmaxOnOriginalGridd,
    BoundingBoxd,
    ExtremePointsd,
    LargestCCd,
    LoadImageExd,
    LoadImageTensord,
    LoadVolumed,
    NormalizeLabeld,
    RenameKeyd,
    Restored,
)

SAME_ALWAYS: frozenset[type] = frozenset(
    {
        mt.LoadImaged,
        mt.EnsureChannelFirstd,
        mt.EnsureTyped,
        mt.CastToTyped,
        mt.ToTensord,
        mt.SqueezeDimd,
        mt.RepeatChanneld,
        mt.Orientationd,
        mt.Spacingd,
        SeparableSpacingd,
        mt.SpatialResampled,
        mt.Resized,
        mt.ResizeWithPadOrCropd,
        mt.Zoomd,
        mt.Rotated,
        mt.Flipd,
        mt.Rotate90d,
        mt.Transposed,
        mt.SpatialPadd,
        mt.BorderPadd,
        mt.DivisiblePadd,
        mt.SpatialCropd,
        mt.CenterSpatialCropd,
        mt.CenterScaleCropd,
        mt.CropForegroundd,
        mt.ScaleIntensityd,
        mt.ScaleIntensityRanged,
        mt.ScaleIntensityRangePercentilesd,
        mt.NormalizeIntensityd,
        mt.ShiftIntensityd,
        mt.ThresholdIntensityd,
        mt.ClipIntensityPercentilesd,
        mt.AdjustContrastd,
        mt.HistogramNormalized,
        mt.GaussianSmoothd,
        mt.GaussianSharpend,
        mt.MedianSmoothd,
        LoadVolumed,
        LoadImageExd,
        LoadImageTensord,
        NormalizeLabeld,
    }
)

LOOKS_ONLY: frozenset[type] = frozenset(
    {AddGuidanceFromPointsDeepEditd, ResizeGuidanceMultipleLabelDeepEditd, AddClickGuidanced}
)

LEAVES_INPUT: frozenset[type] = frozenset(
    {
        *LOOKS_ONLY,
        AddGuidanceSignalDeepEditd,
        SeparableGuidanceSignald,
        mt.EnsureTyped,
        mt.CastToTyped,
        mt.ToTensord,
        mt.ToNumpyd,
        mt.SqueezeDimd,
        mt.Resized,
        mt.Orientationd,
        mt.Spacingd,
        SeparableSpacingd,
        mt.ScaleIntensityRanged,
        mt.Activationsd,
        mt.AsDiscreted,
        mt.KeepLargestConnectedComponentd,
        ArgmaxOnOriginalGridd,
        BoundingBoxd,
        ExtremePointsd,
        LargestCCd,
        RenameKeyd,
        Restored,
    }
)

#: attributes that transforms of MONAI set while they run
_STATE = frozenset({"_tracing", "R"})
#: whose functions and classes mean the same in every call
_TRUSTED = ("monai", "numpy", "torch", "builtins", "labelserver")
_PLAIN = (str, int, float, bool, bytes, complex, type(None), torch.dtype, np.dtype, torch.device, slice, np.generic)
_COMMON = frozenset({str, int, float, bool, type(None)})
_DEPTH = 8


class _UnknownSetting(Exception):
    """A setting that cannot be told from another."""


def fingerprint(step: object) -> str | None:
    """Text that differs for transforms of another class or other settings; None if that cannot be told."""
    try:
        return hashlib.sha256("\0".join(_words(step, _DEPTH)).encode()).hexdigest()
    except _UnknownSetting:
        return None


def names_in(step: object) -> frozenset[str]:
    """Every text among the settings of `step`: all keys of ``data`` that it may read are among them."""
    return frozenset(_texts(list(vars(step).values()), _DEPTH))


def _words(value: Any, depth: int) -> Iterator[str]:
    """The parts of `value` in order. Raises `_UnknownSetting`."""
    if depth < 0:
        raise _UnknownSetting
    if type(value) in _COMMON:
        yield f"{type(value).__name__}:{value!r}"
    elif isinstance(value, Enum):
        yield f"{type(value).__qualname__}.{value.name}"
    elif isinstance(value, _PLAIN):
        yield f"{type(value).__name__}:{value!r}"
    elif isinstance(value, np.ndarray) or torch.is_tensor(value):
        array = np.asarray(value.detach().cpu() if torch.is_tensor(value) else value)
        if array.dtype.hasobject:
            raise _UnknownSetting
        yield f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
    elif isinstance(value, Mapping):
        yield "{"
        for name, part in value.items():
            yield repr(name)
            yield from _words(part, depth - 1)
        yield "}"
    elif isinstance(value, list | tuple):
        yield type(value).__name__
        for part in value:
            yield from _words(part, depth - 1)
        yield ")"
    elif isinstance(value, set | frozenset):
        yield repr(sorted(map(repr, value)))
    elif isinstance(value, FunctionType | BuiltinFunctionType | type):
        if not _trusted(value.__module__) or getattr(value, "__closure__", None):
            raise _UnknownSetting
        yield f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, mt.Transform | ImageReader) and _trusted(type(value).__module__):
        yield f"{type(value).__module__}.{type(value).__qualname__}("
        yield from _words({n: part for n, part in vars(value).items() if n not in _STATE}, depth - 1)
    else:
        raise _UnknownSetting


def _trusted(module: str | None) -> bool:
    return (module or "").split(".")[0] in _TRUSTED


def _texts(value: Any, depth: int) -> Iterator[str]:
    if depth < 0:
        return
    if isinstance(value, str):
        yield str(value)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(name, depth - 1)
            yield from _texts(part, depth - 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _texts(part, depth - 1)
    elif isinstance(value, mt.Transform):
        yield from _texts(list(vars(value).values()), depth - 1)

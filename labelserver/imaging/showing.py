"""Images as a viewer takes them: 8 or 16 bit numbers with a slope and an intercept, and windows to look through.

Whole numbers are kept as they are where 16 bit hold them, else moved by an intercept; only what spans more is scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.imaging import nifti, pictures
from labelserver.imaging.formats import is_picture, split_ext
from labelserver.imaging.volumes import read_volume

#: The most and the least that a stored number can be.
_LOWEST, _HIGHEST = -32768, 32767

#: voxels from which percentiles are taken
_SAMPLE = 1 << 20

#: Name, centre and width in HU. Source: the presets that radiology viewers share.
CT_WINDOWS = (
    ("abdomen", 40.0, 400.0),
    ("liver", 60.0, 160.0),
    ("mediastinum", 50.0, 350.0),
    ("lung", -600.0, 1500.0),
    ("bone", 400.0, 1800.0),
    ("brain", 40.0, 80.0),
)


@dataclass(frozen=True, slots=True)
class Window:
    """What is black (`center` - `width` / 2) and white, in real values."""

    name: str
    center: float
    width: float


@dataclass(frozen=True, slots=True, eq=False)
class Showable:
    """One frame of an image, as it lies in the file; `stored` makes its numbers fit for a viewer."""

    voxels: NDArray[Any]  #: (I, J, K), or (I, J, K, 3) for RGB
    grid: Grid
    frames: int  #: of the file
    dtype: np.dtype[Any]  #: of `stored`: uint8 or int16
    slope: float  #: real value = slope * stored + intercept
    intercept: float
    file_slope: float  #: real value = file_slope * voxel + file_intercept
    file_intercept: float
    low: float  #: real values
    high: float
    not_finite: int
    windows: tuple[Window, ...]

    @property
    def components(self) -> int:
        return 3 if self.voxels.ndim == 4 else 1

    def stored(self, part: NDArray[Any]) -> NDArray[Any]:
        """A part of `voxels` as numbers of `dtype`."""
        as_it_is = self.slope == self.file_slope and self.intercept == self.file_intercept
        if as_it_is and not self.not_finite:
            return part.astype(self.dtype, copy=False)
        real = part.astype(np.float64) * self.file_slope + self.file_intercept
        if self.not_finite:
            real = np.nan_to_num(real, nan=self.low, posinf=self.low, neginf=self.low)
        numbers = np.rint((real - self.intercept) / self.slope)
        return np.clip(numbers, _LOWEST, _HIGHEST).astype(self.dtype)


def read_showable(path: Path, frame: int = 0) -> Showable:
    """One frame of the image in `path`. Raises as `volumes.read_volume`; `IndexError` for a frame that is not there."""
    ext = split_ext(path.name)[1].lower()
    slope, intercept = 1.0, 0.0
    if is_picture(ext) and ext != ".svs":
        volume = pictures.read_shown(path)
    elif ext in (".nii", ".nii.gz"):
        volume, slope, intercept = nifti.read_stored(path)
    else:
        volume = read_volume(path)
    voxels = _numbers(path, volume.voxels)
    frames = 1
    if voxels.ndim == 4 and not _is_colour(voxels, picture=is_picture(ext)):
        frames = voxels.shape[3]
        if not 0 <= frame < frames:
            raise IndexError(frame)
        voxels = voxels[..., frame]
    elif frame:
        raise IndexError(frame)
    if voxels.ndim == 4:
        voxels = voxels[..., :3]
        full = (Window("full", 127.5, 255.0),)
        eight = np.dtype(np.uint8)
        return Showable(voxels, volume.grid, 1, eight, 1.0, 0.0, 1.0, 0.0, 0.0, 255.0, 0, full)
    return _grey(voxels, volume.grid, frames, slope, intercept)


def _numbers(path: Path, voxels: NDArray[Any]) -> NDArray[Any]:
    """NIfTI's RGB voxels are records of three bytes."""
    if voxels.dtype.names is not None:
        voxels = np.stack([voxels[name] for name in voxels.dtype.names], axis=-1)
    if voxels.dtype.kind not in "iubf" or voxels.ndim not in (3, 4):
        raise UnsupportedFormat(f"{path.name} holds voxels of type {voxels.dtype}, which cannot be shown.")
    return voxels


def _is_colour(voxels: NDArray[Any], *, picture: bool) -> bool:
    return voxels.dtype == np.uint8 and voxels.shape[3] in ((3, 4) if picture else (3,))


def _grey(voxels: NDArray[Any], grid: Grid, frames: int, slope: float, intercept: float) -> Showable:
    low, high, not_finite = _range(voxels)
    whole = voxels.dtype.kind in "iub" or (not not_finite and _is_whole(voxels))
    dtype: np.dtype[Any] = np.dtype(np.int16)
    if voxels.dtype.kind in "ub" and voxels.dtype.itemsize == 1:
        dtype, numbers = np.dtype(np.uint8), (slope, intercept)
    elif whole and low >= _LOWEST and high <= _HIGHEST:
        numbers = (slope, intercept)
    elif whole and high - low <= _HIGHEST - _LOWEST:
        numbers = (slope, intercept + slope * (low - _LOWEST))
    else:
        step = (high - low) / (_HIGHEST - _LOWEST) or 1.0
        numbers = (slope * step, intercept + slope * (low - step * _LOWEST))
    low, high = sorted((low * slope + intercept, high * slope + intercept))
    windows = _windows(voxels, slope, intercept, low, high)
    return Showable(voxels, grid, frames, dtype, *numbers, slope, intercept, low, high, not_finite, windows)


def _range(voxels: NDArray[Any]) -> tuple[float, float, int]:
    """The least and the most finite value, and how many values are not finite."""
    if not voxels.size:
        return 0.0, 0.0, 0
    low, high = float(voxels.min()), float(voxels.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high, 0
    finite = np.isfinite(voxels)
    count = int(voxels.size - np.count_nonzero(finite))
    if count == voxels.size:
        return 0.0, 0.0, count
    low = float(np.min(voxels, initial=np.inf, where=finite))
    return low, float(np.max(voxels, initial=-np.inf, where=finite)), count


def _is_whole(voxels: NDArray[Any]) -> bool:
    """Slice by slice, so that a volume of fractions is told at once and nothing large is allocated."""
    return all(bool(np.array_equal(part, np.rint(part))) for part in np.moveaxis(voxels, -1, 0))


def _windows(voxels: NDArray[Any], slope: float, intercept: float, low: float, high: float) -> tuple[Window, ...]:
    """CT presets where the values look like HU; percentiles of what is not background first elsewhere."""
    if voxels.dtype.itemsize == 1:
        return (Window("full", 127.5, 255.0), *_percentiles(voxels, slope, intercept))
    auto = _percentiles(voxels, slope, intercept)
    full = Window("full", (low + high) / 2, max(high - low, 1e-6))
    if is_ct(low, high, slope):
        return (*(Window(*preset) for preset in CT_WINDOWS), *auto, full)
    return (*auto, full)


def is_ct(low: float, high: float, slope: float = 1.0) -> bool:
    """Do values look like HU: air about -1000 (scanners pad down to -3024 and below), and something denser?"""
    return -10_000 <= low <= -300 and 0 <= high <= 70_000 and slope == round(slope)


def _percentiles(voxels: NDArray[Any], slope: float, intercept: float) -> tuple[Window, ...]:
    step = max(1, round((voxels.size / _SAMPLE) ** (1 / 3)))
    sample = voxels[::step, ::step, ::step].astype(np.float64).ravel()
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return ()
    seen = sample[sample > sample.min()]
    ends = np.percentile(seen if seen.size else sample, (0.5, 99.5)) * slope + intercept
    low, high = sorted(float(n) for n in ends)
    return (Window("auto", (low + high) / 2, max(high - low, 1e-6)),)

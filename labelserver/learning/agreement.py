"""How far several people agree about one image, and one label made from theirs. numpy and scipy alone.

All masks are boolean, of one shape, on one grid. Sources: Dice 1945; Cohen 1960 (kappa); Warfield, Zou and Wells 2004
(STAPLE, expectation maximization for one label, prior the mean share of foreground, as in ITK's filter).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.late import LateModule

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = LateModule("scipy.ndimage")

Mask = NDArray[np.bool_]  #: (I, J, K)
Values = NDArray[np.uint16]  #: (I, J, K), label values, 0: background

#: Where ITK begins: every reader nearly perfect.
_START = 0.99999
_MAX_STEPS = 1000
_ENOUGH = 1e-10

_CORNERS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two readers about one label. Distances in mm; None where one of them drew nothing, or kappa has no meaning."""

    first: str
    second: str
    dice: float  #: 1.0 if both drew nothing
    surface_mm: float | None  #: mean distance between the surfaces, both ways
    surface95_mm: float | None  #: 95 % of the surface points are nearer (Hausdorff, both ways)
    kappa: float | None


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """All pairs of readers about one label."""

    value: int
    pairs: tuple[PairAgreement, ...]

    @property
    def mean_dice(self) -> float:
        return float(np.mean([pair.dice for pair in self.pairs]))


@dataclass(frozen=True, slots=True)
class Spot:
    """Connected voxels that the readers do not agree about."""

    voxels: int
    center_ijk: tuple[int, int, int]  #: one of them, the innermost
    low_ijk: tuple[int, int, int]
    high_ijk: tuple[int, int, int]  #: the first voxel outside


@dataclass(frozen=True, slots=True)
class Staple:
    """What STAPLE found out about one label."""

    probability: NDArray[np.float64]  #: (I, J, K), of the label being there
    sensitivity: tuple[float, ...]  #: of each reader
    specificity: tuple[float, ...]


def dice(first: Mask, second: Mask) -> float:
    """2 |A and B| / (|A| + |B|); 1.0 if both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 1.0 if total == 0 else 2.0 * int((first & second).sum()) / total


def kappa(first: Mask, second: Mask, voxels: int | None = None) -> float | None:
    """Cohen's kappa of two masks, voxel by voxel.

    Args:
        first: a part of the image that holds everything drawn.
        second: of the same shape.
        voxels: of the whole image; what is not in the masks is background to both. Default: the masks are all.

    Returns:
        None where chance alone agrees about everything (both empty or both full).
    """
    count = voxels or first.size
    a, b, both = int(first.sum()), int(second.sum()), int((first & second).sum())
    agreed = (count - a - b + 2 * both) / count
    chance = (a * b + (count - a) * (count - b)) / count**2
    return None if chance == 1.0 else (agreed - chance) / (1.0 - chance)


def surface_distances(first: Mask, second: Mask, spacing_mm: Sequence[float]) -> tuple[float, float] | None:
    """Mean and 95th percentile of the distances between two surfaces, in mm; None if one mask is empty.

    Surface voxels are those with a neighbour, through a face, outside of the mask. The mean is over all surface voxels
    of both; the percentile is the larger one of the two directions.
    """
    if not first.any() or not second.any():
        return None
    surfaces = [mask & ~ndimage.binary_erosion(np.pad(mask, 1))[1:-1, 1:-1, 1:-1] for mask in (first, second)]
    to_second = ndimage.distance_transform_edt(~surfaces[1], sampling=spacing_mm)[surfaces[0]]
    to_first = ndimage.distance_transform_edt(~surfaces[0], sampling=spacing_mm)[surfaces[1]]
    mean = (to_second.sum() + to_first.sum()) / (to_second.size + to_first.size)
    return float(mean), float(max(np.percentile(to_second, 95), np.percentile(to_first, 95)))


def agreement(
    readings: Mapping[str, Mapping[int, Mask]], spacing_mm: Sequence[float], voxels: int | None = None
) -> list[LabelAgreement]:
    """Every pair of readers about every label that one of them drew.

    Args:
        readings: name of a reader -> value of a label -> where he drew it.
        spacing_mm: of the grid.
        voxels: of the whole image, if the masks are a part of it that holds everything drawn.
    """
    names = sorted(readings)
    found = []
    for value in sorted({value for masks in readings.values() for value in masks}):
        pairs = []
        for number, first in enumerate(names):
            for second in names[number + 1 :]:
                a, b = _mask(readings, first, value), _mask(readings, second, value)
                distances = surface_distances(a, b, spacing_mm)
                mean, most = distances if distances is not None else (None, None)
                pairs.append(PairAgreement(first, second, dice(a, b), mean, most, kappa(a, b, voxels)))
        found.append(LabelAgreement(value, tuple(pairs)))
    return found


def _mask(readings: Mapping[str, Mapping[int, Mask]], reader: str, value: int) -> Mask:
    masks = readings[reader]
    if value in masks:
        return masks[value]
    shape = next(mask.shape for others in readings.values() for mask in others.values())
    return np.zeros(shape, bool)


def majority(maps: Sequence[Values]) -> Values:
    """The value that most readers gave each voxel; of values given equally often the smallest, so background first."""
    values = sorted({0, *(int(v) for labels in maps for v in np.unique(labels))})
    best = np.zeros(maps[0].shape, np.uint16)
    most = np.zeros(maps[0].shape, np.uint8)
    for value in values:
        votes = np.zeros(maps[0].shape, np.uint8)
        for labels in maps:
            votes += labels == value
        better = votes > most
        best[better] = value
        most[better] = votes[better]
    return best


def staple(masks: Sequence[Mask]) -> Staple:
    """STAPLE for one label.

    Voxels with the same readings are one case, so that the work does not grow with the image: 2^readers cases.
    """
    readers = len(masks)
    pattern = np.zeros(masks[0].shape, np.uint16)
    for number, mask in enumerate(masks):
        pattern |= mask.astype(np.uint16) << number
    counts = np.bincount(pattern.ravel(), minlength=2**readers).astype(np.float64)
    drawn = (np.arange(2**readers)[:, None] >> np.arange(readers)) & 1 == 1  # (cases, readers)
    prior = float((counts @ drawn).sum() / (counts.sum() * readers))
    sensitivity, specificity = np.full(readers, _START), np.full(readers, _START)
    weight = np.zeros(2**readers)
    for _ in range(_MAX_STEPS):
        there = prior * np.where(drawn, sensitivity, 1 - sensitivity).prod(axis=1)
        absent = (1 - prior) * np.where(drawn, 1 - specificity, specificity).prod(axis=1)
        total = there + absent
        weight = np.divide(there, total, out=np.zeros_like(there), where=total > 0)
        inside, outside = counts * weight, counts * (1 - weight)
        before = np.concatenate([sensitivity, specificity])
        sensitivity = _share(inside @ drawn, inside.sum())
        specificity = _share(outside @ ~drawn, outside.sum())
        if np.abs(np.concatenate([sensitivity, specificity]) - before).max() < _ENOUGH:
            break
    return Staple(weight[pattern], tuple(map(float, sensitivity)), tuple(map(float, specificity)))


def _share(part: NDArray[np.float64], whole: float) -> NDArray[np.float64]:
    return part / whole if whole > 0 else np.zeros_like(part)


def staple_map(maps: Sequence[Values]) -> tuple[Values, dict[int, Staple]]:
    """One map by STAPLE, label by label: the likeliest label of at least one half, else background."""
    values = sorted({int(v) for labels in maps for v in np.unique(labels)} - {0})
    found = {value: staple([labels == value for labels in maps]) for value in values}
    best = np.zeros(maps[0].shape, np.uint16)
    surest = np.full(maps[0].shape, 0.5)
    for value, result in found.items():
        better = result.probability > surest if value != values[0] else result.probability >= surest
        best[better] = value
        surest[better] = result.probability[better]
    return best, found


def disagreement(maps: Sequence[Values]) -> NDArray[np.uint8]:
    """(I, J, K) in percent: how many readers differ from the majority."""
    chosen = majority(maps)
    differ = np.zeros(chosen.shape, np.float32)
    for labels in maps:
        differ += labels != chosen
    return np.asarray(np.rint(100.0 * differ / len(maps)), np.uint8)


def spots(percent: NDArray[np.uint8], count: int = 20) -> list[Spot]:
    """The largest regions of disagreement."""
    numbered, total = ndimage.label(percent > 0, structure=_CORNERS)
    if total == 0:
        return []
    sizes = np.bincount(numbered.ravel())[1:]
    boxes = ndimage.find_objects(numbered)
    found = []
    for index in np.argsort(-sizes, kind="stable")[:count]:
        box = boxes[index]
        part = np.pad(numbered[box] == index + 1, 1)
        inner = np.unravel_index(int(ndimage.distance_transform_edt(part).argmax()), part.shape)
        low = tuple(int(axis.start) for axis in box)
        center = tuple(int(low[a] + inner[a] - 1) for a in range(3))
        high = tuple(int(axis.stop) for axis in box)
        found.append(Spot(int(sizes[index]), center, low, high))  # type: ignore[arg-type]
    return found

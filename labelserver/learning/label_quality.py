"""Which labels deserve a second look: rules about their shape, their size among all, and what a model thinks of them.

numpy and scipy only. A finding says what is odd, not that it is wrong: some organs do have two parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.domain.oddities import Finding, Oddity
from labelserver.domain.schema import NOT_ANNOTATED

LabelMap = NDArray[np.integer]  #: (I, J, K)
Mask = NDArray[np.bool_]  #: (I, J, K)

#: a part is an island if it is smaller than this share of the label's largest part
_ISLAND_SHARE = 0.05
#: voxels of which a hole consists, at least
_HOLE_VOXELS = 2
#: robust z-score from which a volume is an outlier (Iglewicz and Hoaglin 1993)
_OUTLIER_Z = 3.5
#: times the usual volume that an outlier is at least off: where all are alike, a few voxels are no reason
_OUTLIER_TIMES = 1.25
#: slices that somebody may forget in one place; where more are missing, the parts are meant to be apart
_GAP_SLICES = 3
#: labels of one name from which volumes can be compared
_ENOUGH_VOLUMES = 5
#: confidence below which a label is told of, and Dice of two readers likewise
UNSURE, DISAGREE = 0.5, 0.8
#: of the soft minimum over voxels, as cleanlab has it
_TEMPERATURE = 0.1

_CORNERS = np.ones((3, 3, 3), dtype=bool)


def shape_findings(label_map: LabelMap, names: Mapping[int, str]) -> list[Finding]:
    """Islands, holes and slice gaps of every label.

    Args:
        label_map: 0 background, 255 not annotated where the schema says so.
        names: value -> name; values without one are called by their number.
    """
    found: list[Finding] = []
    for value in np.unique(label_map):
        if value in (0, NOT_ANNOTATED):
            continue
        mask = np.asarray(label_map == value)
        name = names.get(int(value), str(int(value)))
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        start = tuple(part.start for part in box)
        inside = mask[box]
        for finder in (_islands, _holes, _gaps):
            found += [_moved(one, name, start) for one in finder(inside)]
    return found


def volume_findings(volumes_mm3: Mapping[str, float], label: str) -> dict[str, Finding]:
    """Image id -> finding, for images in which the label is much larger or smaller than in the others.

    By the robust z-score of the logarithm, 0.6745 (x - median) / MAD, beyond 3.5; and at least 1.25 times off.
    """
    names = [name for name, volume in volumes_mm3.items() if volume > 0]
    if len(names) < _ENOUGH_VOLUMES:
        return {}
    logs = np.log([volumes_mm3[name] for name in names])
    middle = float(np.median(logs))
    spread = float(np.median(np.abs(logs - middle)))
    if spread < 1e-9:
        return {}
    found = {}
    for name, value in zip(names, logs, strict=True):
        z = 0.6745 * (float(value) - middle) / spread
        times = float(np.exp(abs(float(value) - middle)))
        if abs(z) > _OUTLIER_Z and times > _OUTLIER_TIMES:
            how = "larger" if z > 0 else "smaller"
            detail = (
                f"{volumes_mm3[name] / 1000:.1f} ml: {times:.1f} times {how} than the usual {label} here (z {z:+.1f})."
            )
            found[name] = Finding(Oddity.VOLUME, label, min(1.0, abs(z) / 10), 0, (0, 0, 0), detail)
    return found


def confidence_findings(
    label_map: LabelMap, probabilities: NDArray[np.float32], channels: Mapping[int, str], below: float = UNSURE
) -> list[Finding]:
    """Labels in which a model believes too little.

    Args:
        label_map: values are channels of the model; others do not count.
        probabilities: (C, I, J, K) of the model, on the label's grid.
        channels: channel -> name.
        below: confidence from which on nothing is told.

    Returns:
        For each label whose `self_confidence` is below: where its least believed part lies.
    """
    found = []
    for channel, name in channels.items():
        drawn = np.asarray(label_map == channel)
        expected = np.asarray(probabilities.argmax(axis=0) == channel) & (label_map != NOT_ANNOTATED)
        if not drawn.any() and not expected.any():
            continue
        score = self_confidence(drawn, probabilities[channel])
        if score >= below:
            continue
        doubt = np.where(drawn, 1.0 - probabilities[channel], 0.0) + np.where(expected & ~drawn, 1.0, 0.0)
        center = _worst(doubt)
        what = "is not drawn, but expected" if not drawn.any() else f"is believed in with {score:.2f} only"
        found.append(
            Finding(
                Oddity.CONFIDENCE, name, 1.0 - score, center[2], center, f"A model that has not seen it: {name} {what}."
            )
        )
    return found


def self_confidence(drawn: Mask, probability: NDArray[np.float32]) -> float:
    """Soft minimum over the connected parts of their mean probability, weighted by size; 0 to 1.

    A part that the model does not believe in pulls the label down even if it is small beside the others; a part that
    the model expects and nobody drew counts as one of probability 0. Source of the soft minimum: Lad and Mueller 2023,
    https://arxiv.org/abs/2307.05080, over parts instead of voxels, so that borders do not decide.
    """
    expected = probability > 0.5
    missed = expected & ~drawn
    parts: list[tuple[float, int]] = []
    numbered, count = ndimage.label(drawn, _CORNERS)
    if count:
        index = np.arange(1, count + 1)
        means = np.atleast_1d(ndimage.mean(probability, numbered, index))
        sizes = np.atleast_1d(ndimage.sum_labels(drawn, numbered, index)).astype(int)
        parts += [(float(mean), int(size)) for mean, size in zip(means, sizes, strict=True)]
    others, count = ndimage.label(missed, _CORNERS)
    if count:
        index = np.arange(1, count + 1)
        touching = set(np.unique(others[ndimage.binary_dilation(drawn, _CORNERS)])) - {0}
        sizes = np.atleast_1d(ndimage.sum_labels(missed, others, index)).astype(int)
        parts += [(0.0, int(size)) for n, size in zip(index, sizes, strict=True) if int(n) not in touching]
    if not parts:
        return 1.0
    means_of = np.asarray([mean for mean, _ in parts])
    weights = np.asarray([size for _, size in parts], dtype=np.float64)
    weights = np.sqrt(weights / weights.sum()) * np.exp(-means_of / _TEMPERATURE)
    return float((means_of * weights).sum() / weights.sum())


def disagreement_findings(
    first: LabelMap, second: LabelMap, names: Mapping[int, str], below: float = DISAGREE
) -> list[Finding]:
    """Labels about which two readers agree less than `below` (Dice)."""
    found = []
    for value in sorted({int(v) for v in (*np.unique(first), *np.unique(second))} - {0, NOT_ANNOTATED}):
        ours, theirs = np.asarray(first == value), np.asarray(second == value)
        dice = 2.0 * int((ours & theirs).sum()) / max(int(ours.sum()) + int(theirs.sum()), 1)
        if dice < below:
            name = names.get(value, str(value))
            center = _worst((ours ^ theirs).astype(np.float32))
            detail = f"Dice of the two readers about {name} is {dice:.2f}."
            found.append(Finding(Oddity.DISAGREEMENT, name, 1.0 - dice, center[2], center, detail))
    return found


def _islands(mask: Mask) -> list[Finding]:
    numbered, count = ndimage.label(mask, _CORNERS)
    if count < 2:
        return []
    sizes = np.bincount(numbered.ravel())[1:]
    small = [n + 1 for n in range(count) if sizes[n] < _ISLAND_SHARE * sizes.max()]
    if not small:
        return []
    largest = max(small, key=lambda n: sizes[n - 1])
    center = _middle(np.argwhere(numbered == largest))
    voxels = int(sum(sizes[n - 1] for n in small))
    detail = f"{len(small)} small part{'s' if len(small) > 1 else ''} of {voxels} voxels apart from the largest one."
    return [Finding(Oddity.ISLAND, "", min(1.0, 0.2 + 0.1 * len(small)), center[2], center, detail)]


def _holes(mask: Mask) -> list[Finding]:
    holes = ndimage.binary_fill_holes(mask) & ~mask
    voxels = int(holes.sum())
    if voxels < _HOLE_VOXELS:
        return []
    center = _middle(np.argwhere(holes))
    detail = f"{voxels} voxels inside of it do not belong to it."
    return [Finding(Oddity.HOLE, "", min(1.0, 0.2 + voxels / mask.sum()), center[2], center, detail)]


def _gaps(mask: Mask) -> list[Finding]:
    """Up to three slices in a row that lack it, along any axis; islands apart from it make no gap."""
    numbered, count = ndimage.label(mask, _CORNERS)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    large = np.isin(numbered, np.flatnonzero(sizes >= _ISLAND_SHARE * sizes.max()) + 1)
    found = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        has = np.asarray(large.any(axis=others), dtype=np.bool_)
        missing = _short_runs(has)
        if not len(missing):
            continue
        index = int(missing[len(missing) // 2])
        center = [size // 2 for size in mask.shape]
        center[axis] = index
        how_many = f"{len(missing)} slice{'s' if len(missing) > 1 else ''}"
        detail = f"{how_many} without it between slices with it, along axis {axis}."
        place = (center[0], center[1], center[2])
        found.append(Finding(Oddity.SLICE_GAP, "", min(1.0, 0.5 + 0.1 * len(missing)), place[2], place, detail))
    return found


def _short_runs(has: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Indices of the runs of up to three False between two True."""
    there = np.flatnonzero(has)
    runs = [np.arange(a + 1, b) for a, b in itertools.pairwise(there) if 1 < b - a <= _GAP_SLICES + 1]
    return np.concatenate(runs) if runs else np.empty(0, dtype=np.intp)


def _moved(one: Finding, name: str, start: Sequence[int]) -> Finding:
    """From the label's box to the image."""
    center = (one.center_ijk[0] + start[0], one.center_ijk[1] + start[1], one.center_ijk[2] + start[2])
    return Finding(one.kind, name, one.severity, center[2], center, f"{name}: {one.detail}")


def _middle(voxels: NDArray[np.intp]) -> tuple[int, int, int]:
    """The voxel nearest to the mean of all."""
    nearest = voxels[int(np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1)))]
    return int(nearest[0]), int(nearest[1]), int(nearest[2])


def _worst(weights: NDArray[np.floating]) -> tuple[int, int, int]:
    """A voxel of the slice with the largest sum, where most of it is."""
    k = int(np.argmax(weights.sum(axis=(0, 1))))
    i, j = np.unravel_index(
        int(np.argmax(ndimage.uniform_filter(weights[:, :, k].astype(np.float64), 5))), weights.shape[:2]
    )
    return int(i), int(j), k

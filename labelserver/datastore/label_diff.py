"""Compare two revisions of a label, voxel by voxel and label by label.

Flat maps are compared slab by slab, so that memory stays small. Segmentation files are compared segment by segment,
because their layers may overlap; a segment is known by the schema value that its revision recorded. What one of the
revisions did not annotate, in space or of the labels, is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.diffs import Ijk, LabelDiff, ValueDiff
from labelserver.domain.errors import GridsDiffer, UnsupportedFormat
from labelserver.domain.labels import Revision
from labelserver.domain.region_masks import RegionMask
from labelserver.domain.schema import LabelSchema, generic_name
from labelserver.imaging.formats import has_voxels
from labelserver.imaging.seg_nrrd import read_seg_nrrd
from labelserver.imaging.volumes import read_volume

_VALUES = 1 << 16
_SLAB_VOXELS = 1 << 20

Masks = dict[int, NDArray[np.bool_]]  #: stored value -> (I, J, K)


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """What two revisions can be compared in. None: everything."""

    region: RegionMask | None = None
    left_out: frozenset[int] = frozenset()  #: stored values


def comparable(
    before: Revision, after: Revision, regions: tuple[RegionMask | None, ...], schema: LabelSchema
) -> Compared:
    """What both annotated. `regions`: of each, None for the whole image."""
    sets = [set(r.annotation.labels) for r in (before, after) if r.annotation.labels is not None]
    left_out = {e.value for e in schema.entries if any(e.id not in labels for labels in sets)}
    masks = [region for region in regions if region is not None]
    if len({mask.shape for mask in masks}) > 1:
        raise GridsDiffer("The image was replaced between the revisions, so they cannot be compared.")
    return Compared(np.logical_and.reduce(masks) if masks else None, frozenset(left_out))


def diff_files(
    before: tuple[Revision, Path], after: tuple[Revision, Path], schema: LabelSchema, within: Compared
) -> LabelDiff:
    """What changed from one stored revision to another of the same image and tag.

    Raises:
        UnsupportedFormat: a label without voxels.
        GridsDiffer: the image was replaced in between.
    """
    for revision, _ in (before, after):
        if not has_voxels(revision.ext):
            raise UnsupportedFormat(f"Revision {revision.number} is a {revision.ext} file without voxels to compare.")
    numbers = before[0].number, after[0].number
    if any(is_layered(*side) for side in (before, after)):
        masks = [_within(masks_of(*side), within) for side in (before, after)]
        found = _diff_masks(*numbers, masks[0], masks[1], schema)
    else:
        found = _diff_maps(*numbers, _flat(*before), _flat(*after), schema, within)
    names = tuple(entry.name for entry in schema.entries if entry.value in within.left_out)
    voxels = None if within.region is None else int(within.region.sum())
    return replace(found, compared_voxels=voxels, not_compared=names)


def changed_voxels(before: tuple[Revision, Path], after: tuple[Revision, Path]) -> tuple[RegionMask, frozenset[int]]:
    """(I, J, K): True where two labels with voxels differ; and the schema values that came or went there.

    Raises:
        GridsDiffer: the image was replaced in between.
    """
    if any(is_layered(*side) for side in (before, after)):
        masks = [masks_of(*side) for side in (before, after)]
        anything = next(iter((*masks[0].values(), *masks[1].values())), None)
        if anything is None:
            return np.zeros(read_seg_nrrd(after[1]).layers.shape[1:], np.bool_), frozenset()
        nothing = np.zeros(anything.shape, np.bool_)
        differs, values = nothing.copy(), set()
        for value in {*masks[0], *masks[1]}:
            old, new = masks[0].get(value, nothing), masks[1].get(value, nothing)
            _check_shapes(old, new)
            moved = old ^ new
            differs |= moved
            if moved.any():
                values.add(value)
        return differs, frozenset(values)
    old, new = _flat(*before), _flat(*after)
    _check_shapes(old, new)
    differs = old != new
    found = {*np.unique(old[differs]).tolist(), *np.unique(new[differs]).tolist()}
    return differs, frozenset(int(value) for value in found if value)


def _within(masks: Masks, within: Compared) -> Masks:
    kept = {value: mask for value, mask in masks.items() if value not in within.left_out}
    if within.region is None:
        return kept
    for mask in kept.values():
        _check_shapes(mask, within.region)
    return {value: mask & within.region for value, mask in kept.items()}


def masks_of(revision: Revision, file: Path) -> Masks:
    """One mask per stored value; of overlapping segments each is whole."""
    if not is_layered(revision, file):
        voxels = _flat(revision, file)
        return {int(value): voxels == value for value in np.unique(voxels) if value}
    segments = read_seg_nrrd(file)
    values = layer_values(revision)
    masks: Masks = {}
    for index, segment in enumerate(segments.segments):
        value = values.get((segment.layer, segment.value), segment.value)
        mask = segments.mask(index)
        masks[value] = masks[value] | mask if value in masks else mask
    return masks


def layer_values(revision: Revision) -> dict[tuple[int, int], int]:
    """(layer, value in the layer) -> schema value, as recorded when the revision was accepted."""
    listed = revision.info.get("segments")
    return {
        (int(told["layer"]), int(told["layer_value"])): int(told["value"])
        for told in (listed if isinstance(listed, list) else ())
        if isinstance(told, Mapping) and "layer" in told
    }


def is_layered(revision: Revision, file: Path) -> bool:
    """Has the file several layers, so that segments may overlap?"""
    return revision.ext.lower() == ".seg.nrrd" and len(read_seg_nrrd(file).layers) > 1


def _flat(revision: Revision, file: Path) -> NDArray[Any]:
    if revision.ext.lower() == ".seg.nrrd":
        layer: NDArray[Any] = read_seg_nrrd(file).layers[0]
        return layer
    return read_volume(file).voxels


def _diff_maps(
    first: int, second: int, before: NDArray[Any], after: NDArray[Any], schema: LabelSchema, within: Compared
) -> LabelDiff:
    _check_shapes(before, after)
    if within.region is not None:
        _check_shapes(before, within.region)
    shown = np.arange(_VALUES)
    shown[list(within.left_out)] = 0
    sizes = np.zeros((4, _VALUES), np.int64)  # before, after, added, removed
    low, high = [_VALUES] * 3, [-1] * 3
    changed = 0
    slab = max(1, _SLAB_VOXELS // (before.shape[0] * before.shape[1]))
    for begin in range(0, before.shape[2], slab):
        old = shown[before[..., begin : begin + slab].astype(np.int64)]
        new = shown[after[..., begin : begin + slab].astype(np.int64)]
        if within.region is not None:
            inside = within.region[..., begin : begin + slab]
            old, new = old * inside, new * inside
        sizes[0] += np.bincount(old.ravel(), minlength=_VALUES)
        sizes[1] += np.bincount(new.ravel(), minlength=_VALUES)
        differs = old != new
        if differs.any():
            sizes[2] += np.bincount(new[differs], minlength=_VALUES)
            sizes[3] += np.bincount(old[differs], minlength=_VALUES)
            changed += int(differs.sum())
            _widen(low, high, differs, begin)
    values = np.flatnonzero(sizes[:2].any(axis=0))
    labels = [_value_diff(int(v), schema, *(int(n) for n in sizes[:, v])) for v in values if v]
    return _diff(first, second, labels, changed, low, high)


def _diff_masks(first: int, second: int, before: Masks, after: Masks, schema: LabelSchema) -> LabelDiff:
    anything = next(iter((*before.values(), *after.values())), None)
    if anything is None:
        return LabelDiff(first, second, (), 0, None, None)
    nothing = np.zeros(anything.shape, np.bool_)
    touched = nothing.copy()
    labels = []
    for value in sorted({*before, *after}):
        old, new = before.get(value, nothing), after.get(value, nothing)
        _check_shapes(old, new)
        added, removed = new & ~old, old & ~new
        touched |= added | removed
        counts = (int(part.sum()) for part in (old, new, added, removed))
        labels.append(_value_diff(value, schema, *counts))
    low, high = [_VALUES] * 3, [-1] * 3
    _widen(low, high, touched, 0)
    return _diff(first, second, labels, int(touched.sum()), low, high)


def _value_diff(value: int, schema: LabelSchema, *counts: int) -> ValueDiff:
    entry = schema.of_value(value)
    before, after, added, removed = counts
    return ValueDiff(value, entry.name if entry else generic_name(value), before, after, added, removed)


def _widen(low: list[int], high: list[int], differs: NDArray[np.bool_], offset_k: int) -> None:
    """Let the box [low, high] hold the voxels that differ in a slab that begins at `offset_k`."""
    for axis in range(3):
        inside = np.flatnonzero(differs.any(axis=tuple(a for a in range(3) if a != axis)))
        if inside.size:
            offset = offset_k if axis == 2 else 0
            low[axis] = min(low[axis], int(inside[0]) + offset)
            high[axis] = max(high[axis], int(inside[-1]) + offset)


def _diff(first: int, second: int, labels: list[ValueDiff], changed: int, low: list[int], high: list[int]) -> LabelDiff:
    box: tuple[Ijk | None, Ijk | None] = (None, None)
    if changed:
        box = ((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    return LabelDiff(first, second, tuple(labels), changed, *box)


def _check_shapes(before: NDArray[Any], after: NDArray[Any]) -> None:
    if before.shape != after.shape:
        raise GridsDiffer(
            f"The revisions have the shapes {before.shape} and {after.shape}: the image was replaced in between, so "
            "they cannot be compared."
        )

"""Annotated regions as masks, and masks as regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.annotation import Boxes, MaskFile, Region, Slices, WholeImage
from labelserver.domain.errors import InvalidParams

RegionMask: TypeAlias = NDArray[np.bool_]  #: (I, J, K), True where annotated


def mask_of(region: Region, shape: Sequence[int], stored: RegionMask | None = None) -> RegionMask:
    """(I, J, K): True where annotated. `stored`: the voxels of a `MaskFile`.

    Raises:
        InvalidParams: a mask of another shape, or without its voxels.
    """
    match region:
        case WholeImage():
            return np.ones(tuple(shape), np.bool_)
        case MaskFile():
            if stored is None or stored.shape != tuple(shape):
                raise InvalidParams("The mask of what was annotated is missing or belongs to another grid.")
            return stored
    mask = np.zeros(tuple(shape), np.bool_)
    if isinstance(region, Slices):
        np.moveaxis(mask, region.axis, 0)[list(region.slices)] = True
        return mask
    for low, high in region.boxes:
        mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
    return mask


def region_of(mask: RegionMask) -> Region | None:
    """The region that says the same as `mask` without a file: all, whole slices or one box; None if none does."""
    if mask.all():
        return WholeImage()
    touched = [mask.any(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    for axis in (2, 1, 0):
        full = mask.all(axis=tuple(a for a in range(3) if a != axis))
        if full.any() and np.array_equal(full, touched[axis]):
            return Slices(axis, tuple(int(number) for number in np.flatnonzero(touched[axis])))
    inside = [np.flatnonzero(part) for part in touched]
    if not inside[0].size:
        return None
    i, j, k = ((int(part[0]), int(part[-1]) + 1) for part in inside)
    if mask[i[0] : i[1], j[0] : j[1], k[0] : k[1]].all():
        return Boxes((((i[0], j[0], k[0]), (i[1], j[1], k[1])),))
    return None

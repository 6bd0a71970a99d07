"""Patches to train a click network on: windows of random zoom round random targets, changed in appearance.

The windows are those of use (`windows`), so that a network never meets a sampling in use that it did not train on.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.domain.errors import TaskFailed
from labelserver.domain.geometry import Grid
from labelserver.domain.schema import NOT_ANNOTATED
from labelserver.tasks.auto_zoom import sampled_label
from labelserver.tasks.click_channels import scaled
from labelserver.tasks.windows import Patch, inside_image, sampled, to_ras, window_at

_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)
#: voxels of a target that windows are laid round; more would only cost memory
_PLACES = 2000
#: connected parts of a label that become targets of their own: the largest
_PARTS = 20
_SMALLEST_PART = 8  #: voxels
_ZOOMS = (1.0, 1.0, 1.0, 1.0, 1.5, 2.25)
#: patch voxels that a target must span to be looked at from farther away
_SMALLEST_EXTENT = 8
#: how far from the middle of the patch a target's voxel may lie, as share of the patch
_OFF_CENTER = 0.2
_FLAT_COPIES = 8
_MIRRORED = 0.1  #: share of patches, for each axis


class FindTargetsd(MapTransform):
    """Note the targets of a label map under ``targets``: one (value, n, 3) array a connected part of each label.

    A case without any label gives an empty list.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        for key in self.key_iterator(found):
            label = found[key]
            found["targets"] = [
                {"value": int(value), "places": places}
                for value in np.unique(label)
                if value not in (0, NOT_ANNOTATED)
                for places in _parts(label == value)
            ]
        return found


def _parts(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Voxels of the largest connected parts, each thinned out evenly."""
    parts, count = ndimage.label(mask, structure=_NEIGHBOURS)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    chosen = [int(n) for n in np.argsort(-sizes, kind="stable")[:_PARTS] if sizes[n] >= _SMALLEST_PART]
    found = []
    for number in chosen or [int(sizes.argmax())]:
        places = np.argwhere(parts == number).astype(np.int32)
        found.append(places[:: max(1, len(places) // _PLACES)])
    return found


class TargetPatchesd(RandomizableTransform):
    """`count` patches of one case: ``image`` (1, R, R, R) in -1 to 1, ``label`` 1 in the target and 255 where unknown.

    Images without any target give background patches, whose truth is empty.
    """

    #: It reads small windows of what it gets, so a data set need not copy the volume first.
    hands_out_views = True

    def __init__(self, roi: int, count: int, *, spacing_mm: float | None = None) -> None:
        super().__init__(prob=1.0)
        self._roi, self._count, self._spacing_mm = roi, count, spacing_mm

    def __call__(self, data: Mapping[str, Any]) -> list[dict[str, NDArray[Any]]]:
        if not data["targets"]:
            raise TaskFailed("This case has no label to click at; leave it out or label it.")
        return [self._patch(data) for _ in range(self._count)]

    def _patch(self, data: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        image, label = data["image"], data["label"]
        grid = Grid(image.shape, data["affine"])
        values = sorted({target["value"] for target in data["targets"]})
        value = values[self.R.randint(len(values))]
        parts = [target["places"] for target in data["targets"] if target["value"] == value]
        places = parts[self.R.randint(len(parts))]
        place = places[self.R.randint(len(places))].astype(np.float64)
        window = window_at(place, grid, self._roi, self._zoom(places, grid), spacing_mm=self._spacing_mm)
        away = self.R.uniform(-_OFF_CENTER, _OFF_CENTER, 3) * self._roi * np.asarray(window.step)
        window = window_at(place + away, grid, self._roi, window.zoom, spacing_mm=self._spacing_mm)
        share = sampled_label(label, value, window)
        truth = share > min(0.5, 0.5 * float(share.max()))
        if len(parts) > 1 and self.R.random_sample() < 0.5:
            truth = _connected(truth, window.to_patch(place[None])[0])
        unknown = (sampled_label(label, NOT_ANNOTATED, window) > 0.25) | ~inside_image(image.shape, window)
        low, high = data["range"]
        patch = self._appearance(scaled(sampled(image, window), float(low), float(high)))
        target = np.where(unknown, np.uint8(NOT_ANNOTATED), truth.astype(np.uint8))
        if 1 in patch.shape:
            axis = patch.shape.index(1)
            patch, target = np.repeat(patch, _FLAT_COPIES, axis), np.repeat(target, _FLAT_COPIES, axis)
        patch, target = self._turned(patch, target, *to_ras(grid.affine))
        return {"image": patch[None], "label": target[None]}

    def _zoom(self, places: NDArray[np.int32], grid: Grid) -> float:
        zoom = _ZOOMS[self.R.randint(len(_ZOOMS))]
        step = np.asarray(window_at(np.zeros(3), grid, self._roi, zoom, spacing_mm=self._spacing_mm).step)
        return zoom if (np.ptp(places, axis=0) / step).max() >= _SMALLEST_EXTENT else 1.0

    def _appearance(self, patch: Patch) -> Patch:
        """Another scanner's picture of the same: gain, offset, contrast, shading, noise, sharpness."""
        chance = self.R.random_sample(6)
        found = patch * np.float32(np.exp(self.R.normal(0, 0.15))) + np.float32(self.R.normal(0, 0.1))
        if chance[0] < 0.3:
            exponent = float(np.exp(self.R.normal(0, 0.3)))
            found = 2 * np.clip((found + 1) / 2, 0, 1) ** exponent - 1
        if chance[1] < 0.2:
            axis = int(self.R.randint(3))
            shape = [1, 1, 1]
            shape[axis] = patch.shape[axis]
            found = found + np.linspace(-1, 1, patch.shape[axis]).reshape(shape) * self.R.normal(0, 0.15)
        if chance[2] < 0.15:
            found = ndimage.gaussian_filter(found, float(self.R.uniform(0.3, 1.0)))
        if chance[3] < 0.3:
            found = found + self.R.normal(0, self.R.uniform(0.01, 0.08), patch.shape)
        if chance[4] < 0.1:
            found = -found
        clipped: Patch = np.clip(found, -1, 1).astype(np.float32)
        return clipped

    def _turned(
        self, patch: Patch, target: NDArray[np.uint8], order: tuple[int, ...], flips: tuple[int, ...]
    ) -> tuple[Patch, NDArray[np.uint8]]:
        """On RAS+ axes, now and then mirrored: anatomy helps, and a click means the same in any pose."""
        patch, target = patch.transpose(order), target.transpose(order)
        mirrored = tuple(axis for axis in range(3) if (self.R.random_sample() < _MIRRORED) != (axis in flips))
        patch, target = np.flip(patch, mirrored), np.flip(target, mirrored)
        return np.ascontiguousarray(patch), np.ascontiguousarray(target)


def _connected(truth: NDArray[np.bool_], place: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The part of `truth` at the patch voxel `place`; all of it if nothing is there."""
    parts, _ = ndimage.label(truth, structure=_NEIGHBOURS)
    at = np.clip(np.rint(place).astype(int), 0, np.asarray(truth.shape) - 1)
    number = parts[tuple(at)]
    return np.asarray(parts == number) if number else truth

"""Outlines of masks as polygons, for slides and other pictures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from skimage.measure import find_contours, points_in_poly

from labelserver.tasks.base import Labels, numbered_labels
from labelserver.tasks.colors import get_color

Polygon = NDArray[np.float64]  #: (n, 2): x, y in pixels


class FindContoursd(MapTransform):
    """Write the outlines of each label of a 2-D mask into ``data[result][result_output_key]``.

    The entry is ``{"location", "size", "elements": [{"label", "contours"}], "labels": {name: rgb}}``; contours are
    lists of [x, y] in slide pixels, that is shifted by ``data["location"]``.

    Args:
        keys: where the masks are, (x, y) or (1, x, y), whole numbers.
        min_positive: pixels of a label below which it is ignored.
        min_poly_area: square pixels; smaller outlines are dropped.
        max_poly_area: square pixels; larger ones are dropped; 0 is no limit.
        result: key of the JSON answer.
        result_output_key: key inside it.
        key_label_colors: key of ``data`` with name -> colour.
        key_foreground_points: key of ``data`` with clicks [x, y]; if given, only outlines around a click are kept.
        labels: names in order or name -> value.
        colormap: name -> colour, if ``data`` has none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        min_positive: int = 10,
        min_poly_area: float = 80,
        max_poly_area: float = 0,
        result: str = "result",
        result_output_key: str = "annotation",
        key_label_colors: str = "label_colors",
        key_foreground_points: str | None = None,
        labels: Labels | str | None = None,
        colormap: Mapping[str, Any] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.min_positive = min_positive
        self.min_poly_area = min_poly_area
        self.max_poly_area = max_poly_area
        self.result = result
        self.result_output_key = result_output_key
        self.key_label_colors = key_label_colors
        self.key_foreground_points = key_foreground_points
        self.names = {value: name for name, value in numbered_labels(labels).items()}
        self.colormap = colormap

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        colors = found.get(self.key_label_colors) or self.colormap
        location = [int(v) for v in found.get("location") or (0, 0)][:2]
        points = found.get(self.key_foreground_points) if self.key_foreground_points else None
        limits = (
            float(found.get("min_poly_area") or self.min_poly_area),
            float(found.get("max_poly_area") or self.max_poly_area),
        )
        for key in self.key_iterator(found):
            mask = _plane(found[key])
            elements, used = [], {}
            for value in (int(v) for v in np.unique(mask) if v > 0):
                region = mask == value
                if int(region.sum()) < self.min_positive:
                    continue
                name = self.names.get(value, f"label_{value}")
                outlines = [p + location for p in outlines_of(region) if _fits(p, limits) and _clicked(p, points)]
                if outlines:
                    elements.append({"label": name, "contours": [np.round(p).astype(int).tolist() for p in outlines]})
                    used[name] = list(get_color(name, colors))
            entry = {"location": location, "size": [int(v) for v in found.get("size") or mask.shape][:2]}
            document = {**entry, "elements": elements, "labels": used}
            found[self.result] = {**(found.get(self.result) or {}), self.result_output_key: document}
        return found


def _plane(value: Any) -> NDArray[Any]:
    array = np.asarray(value.detach().cpu() if torch.is_tensor(value) else value)
    return array[0] if array.ndim == 3 and array.shape[0] == 1 else array


def outlines_of(region: NDArray[np.bool_]) -> list[Polygon]:
    """Outer outlines of the connected parts of a (x, y) mask, closed at the picture's edge."""
    framed = np.pad(region, 1)
    return [contour - 1 for contour in find_contours(framed.astype(np.float64), 0.5) if _signed_area(contour) > 0]


def _signed_area(polygon: Polygon) -> float:
    """Positive for outer outlines as skimage winds them here, negative around holes."""
    x, y = polygon[:, 0], polygon[:, 1]
    return -0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _fits(polygon: Polygon, limits: tuple[float, float]) -> bool:
    area = abs(_signed_area(polygon))
    return area >= limits[0] and (limits[1] <= 0 or area <= limits[1])


def _clicked(polygon: Polygon, points: Sequence[Sequence[float]] | None) -> bool:
    if not points:
        return True
    return bool(points_in_poly(np.asarray(points, dtype=np.float64)[:, :2], polygon).any())

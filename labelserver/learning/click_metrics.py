"""How good an interactive model is, in the numbers that people compare: numpy and scipy only.

A *curve* is a quality (0 to 1) after each prompt. All summaries are means over curves, so that an object counts the
same whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.domain.json_types import JsonObject

Mask = NDArray[np.bool_]  #: (I, J, K)

#: after how many prompts Dice and surface Dice are told
STEPS = (1, 2, 3, 5, 10)
#: the qualities that prompts are counted to
ENOUGH = (0.80, 0.85, 0.90)
#: mm; how far a surface may be off and still count as right
TOLERANCE_MM = 2.0
#: how much Dice may fall after a prompt without counting as a step back
_NOISE = 0.01
#: prompts of the area under the curve
_AREA_STEPS = 5


def dice(prediction: Mask, truth: Mask) -> float:
    """2 |A and B| / (|A| + |B|); 1 if both are empty."""
    sizes = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(prediction & truth)) / sizes if sizes else 1.0


def surface_dice(
    prediction: Mask, truth: Mask, spacing_mm: Sequence[float], tolerance_mm: float = TOLERANCE_MM
) -> float:
    """Normalised surface distance: share of both surfaces within `tolerance_mm` of the other.

    A surface is the voxels of a mask with a face on its outside. 1 if both masks are empty, 0 if one is. Source:
    Nikolov et al., https://arxiv.org/abs/1809.04430; the voxel form, as MONAI's ``compute_surface_dice``.
    """
    if not prediction.any() or not truth.any():
        return float(prediction.any() == truth.any())
    part = ndimage.find_objects((prediction | truth).astype(np.uint8))[0]
    first, second = (_surface(np.pad(mask[part], 1)) for mask in (prediction, truth))
    near_second = ndimage.distance_transform_edt(~second, sampling=spacing_mm)[first] <= tolerance_mm
    near_first = ndimage.distance_transform_edt(~first, sampling=spacing_mm)[second] <= tolerance_mm
    return float((near_second.sum() + near_first.sum()) / (near_second.size + near_first.size))


def clicks_to(curve: Sequence[float], quality: float, limit: int) -> int:
    """Number of prompts until `quality` is reached (NoC); `limit` if never."""
    return next((number for number, value in enumerate(curve[:limit], start=1) if value >= quality), limit)


def never(curve: Sequence[float], quality: float) -> bool:
    """Whether `quality` was not reached: such a curve counts as a failure beside its `clicks_to`."""
    return not any(value >= quality for value in curve)


def area(curve: Sequence[float], steps: int = _AREA_STEPS) -> float:
    """Mean of the trapezoids between the first `steps` prompts, 0 to 1 (nAUC); a short curve keeps its last value."""
    values = np.asarray([at(curve, step) for step in range(1, steps + 1)])
    return float(((values[1:] + values[:-1]) / 2).mean())


def at(curve: Sequence[float], step: int) -> float:
    """The quality after `step` prompts; a session that ended earlier (perfect) keeps its last."""
    return float(curve[min(step, len(curve)) - 1]) if curve else 0.0


def steps_back(curve: Sequence[float]) -> float:
    """Share of prompts after the first that lowered the quality by more than 0.01."""
    changes = np.diff(np.asarray(curve, dtype=float))
    return float((changes < -_NOISE).mean()) if changes.size else 0.0


def far_changes(before: Mask, after: Mask, center_ijk: Sequence[float], reach: float) -> int:
    """Voxels that changed although they lie more than `reach` voxels along some axis from the prompt."""
    changed = before != after
    if not changed.any():
        return 0
    voxels = np.argwhere(changed)
    return int((np.abs(voxels - np.asarray(center_ijk)).max(axis=1) > reach).sum())


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one prompt. `wire_s` is what client and network add to the server's own time."""

    engine_s: float
    server_s: float
    wire_s: float = 0.0


def summary(
    dices: Sequence[Sequence[float]], surfaces: Sequence[Sequence[float]], times: Sequence[Times], limit: int
) -> JsonObject:
    """One table of numbers over all curves.

    Args:
        dices: Dice after each prompt, a curve an object.
        surfaces: surface Dice likewise.
        times: of every prompt.
        limit: prompts that an object could get.
    """
    if not dices:
        return {"objects": 0}
    found: JsonObject = {"objects": len(dices)}
    for step in (step for step in STEPS if step <= limit):
        found[f"dice@{step}"] = _mean([at(curve, step) for curve in dices])
        found[f"nsd@{step}"] = _mean([at(curve, step) for curve in surfaces])
    for quality in ENOUGH:
        percent = round(100 * quality)
        found[f"noc@{percent}"] = _mean([clicks_to(curve, quality, limit) for curve in dices])
        found[f"never@{percent}"] = sum(never(curve, quality) for curve in dices)
    found["nauc@5"] = _mean([area(curve) for curve in dices])
    found["steps_back"] = _mean([steps_back(curve) for curve in dices])
    for name in ("engine", "server", "wire"):
        values = [getattr(time, f"{name}_s") for time in times]
        if values:
            p50, p95 = np.percentile(values, [50, 95])
            found[f"{name}_ms"] = {"p50": round(1000 * float(p50), 1), "p95": round(1000 * float(p95), 1)}
    return found


def by_label(
    labels: Sequence[str], curves: Sequence[Sequence[float]], steps: Sequence[int]
) -> Mapping[str, JsonObject]:
    """Mean quality of each label's curves after `steps` prompts."""
    found: dict[str, JsonObject] = {}
    for name in dict.fromkeys(labels):
        own = [curve for label, curve in zip(labels, curves, strict=True) if label == name]
        found[name] = {"objects": len(own), **{f"dice@{step}": _mean([at(c, step) for c in own]) for step in steps}}
    return found


def _mean(values: Sequence[float]) -> float:
    mean = float(np.mean(values))
    return round(mean, 4) if math.isfinite(mean) else 0.0


def _surface(mask: Mask) -> Mask:
    inner: Mask = ndimage.binary_erosion(mask)
    return mask ^ inner

"""What may be wrong with a label, as rules, models and second readers find it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Oddity(StrEnum):
    """What may be wrong."""

    ISLAND = "island"  #: small parts apart from the largest one
    HOLE = "hole"  #: enclosed voxels that do not belong to it
    SLICE_GAP = "slice_gap"  #: a slice without the label between two with it
    VOLUME = "volume"  #: much larger or smaller than in the other images
    CONFIDENCE = "confidence"  #: a model that has not seen this label would have drawn it otherwise
    DISAGREEMENT = "disagreement"  #: two readers differ


@dataclass(frozen=True, slots=True)
class Finding:
    """One oddity of one label of one image.

    Args:
        severity: 0 to 1; for the order of a list.
        slice_k: index of the slice that shows it best.
        center_ijk: a voxel of it.
        detail: a sentence for people.
    """

    kind: Oddity
    label: str
    severity: float
    slice_k: int
    center_ijk: tuple[int, int, int]
    detail: str

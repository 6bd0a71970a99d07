"""What changed between two label maps on one grid."""

from __future__ import annotations

from dataclasses import dataclass

Ijk = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ValueDiff:
    """The change of one label. Counts are voxels; `dice` is 1 where both are empty."""

    value: int
    name: str
    before: int
    after: int
    added: int
    removed: int

    @property
    def dice(self) -> float:
        """Overlap of before and after: 2 |A and B| / (|A| + |B|)."""
        total = self.before + self.after
        return 2 * (self.before - self.removed) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class LabelDiff:
    """The labels that either map holds, by value, and the smallest box that holds every changed voxel."""

    before: int  #: revision number
    after: int
    labels: tuple[ValueDiff, ...]
    changed_voxels: int
    first_ijk: Ijk | None  #: corner of the changed box, inclusive; None if nothing changed
    last_ijk: Ijk | None
    compared_voxels: int | None = None  #: those that both revisions annotated; None: all
    not_compared: tuple[str, ...] = ()  #: names of labels that one of them did not annotate

"""What a store offers beyond `RevisionStore` to look back on labels and to say what their values mean.

`LocalDatastore` offers both. Kept apart, so that a store may keep revisions without a schema, or neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from labelserver.domain.annotation import Region, WholeImage
from labelserver.domain.diffs import LabelDiff
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.labels import Expected, Provenance, Revision
from labelserver.domain.region_masks import RegionMask
from labelserver.domain.schema import LabelSchema


@runtime_checkable
class RevisionHistory(Protocol):
    """Any revision can be had, compared and made current again."""

    def label_file(self, image_id: ImageId, tag: Tag) -> tuple[Revision, Path]:
        """The current revision and its bytes, which never change. Raises `LabelNotFound`."""

    def revision_file(self, image_id: ImageId, tag: Tag, number: int) -> Path:
        """The bytes of any revision. Raises `LabelNotFound`."""

    def restore_revision(
        self, image_id: ImageId, tag: Tag, number: int, provenance: Provenance, *, expected: Expected = None
    ) -> Revision:
        """Make a new revision with the content of an older one. Raises `LabelNotFound`, `LabelChanged`."""

    def diff_revisions(self, image_id: ImageId, tag: Tag, before: int, after: int) -> LabelDiff:
        """What changed between two revisions, in what both annotated.

        Raises `LabelNotFound`; `UnsupportedFormat` for labels without voxels.
        """

    def annotated_mask(self, image_id: ImageId, tag: Tag, number: int) -> tuple[RegionMask, Grid]:
        """(I, J, K), True where a revision was annotated, and the grid. Errors as `diff_revisions`."""


@runtime_checkable
class SchemaStore(Protocol):
    """The project's label schema."""

    def schema(self) -> LabelSchema: ...

    def set_schema(self, wanted: LabelSchema, *, based_on: int | None = None, person: str = "") -> LabelSchema:
        """Make `wanted` the next version. Raises `Conflict` if stored labels need what it leaves out."""

    def learn_labels(self, names: Sequence[str]) -> None:
        """Let an open schema know these names, in this order; a strict one stays as it is."""

    def label_values(self) -> dict[str, int]:
        """Name -> voxel value in label files, in the order of the values."""


@dataclass(frozen=True, slots=True)
class TrainingLabel:
    """The current label of an image, as a training reads it."""

    file: Path | None  #: a copy with other values or without layers; None: the label's own file is right
    revision: int
    annotated: frozenset[int] | None  #: values, in the numbering asked for, that were looked for; None: all
    region: Region  #: on the file's grid
    mask: Path | None  #: of a region that is a mask
    notes: tuple[str, ...] = ()  #: sentences for people

    @property
    def is_complete(self) -> bool:
        """True if everything was looked at."""
        return self.annotated is None and isinstance(self.region, WholeImage)


@runtime_checkable
class TrainingLabelStore(Protocol):
    """Labels in the values that a network counts in."""

    def training_label(self, image_id: ImageId, tag: Tag, numbering: Mapping[int, int] | None = None) -> TrainingLabel:
        """The current label. Overlapping layers are laid into one map.

        Args:
            image_id: of an image with a label.
            tag: of the label.
            numbering: stored value -> value in the file; values that are left out become background. None: as stored.

        Raises: `LabelNotFound`; `StoredDataInvalid` if it is not known any more what was annotated; `DiskFull`.
        """

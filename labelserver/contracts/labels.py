"""What a store offers beyond `RevisionStore` to look back on labels and to say what their values mean.

`LocalDatastore` offers both. Kept apart, so that a store may keep revisions without a schema, or neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from labelserver.domain.diffs import LabelDiff
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.labels import Expected, Provenance, Revision
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
        """What changed between two revisions. Raises `LabelNotFound`; `UnsupportedFormat` for labels without voxels."""


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

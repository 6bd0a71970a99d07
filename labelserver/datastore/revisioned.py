"""The part of the local store that looks back on labels: see `contracts.labels.RevisionHistory`."""

from __future__ import annotations

from pathlib import Path

from labelserver.datastore.annotating import annotated_mask
from labelserver.datastore.audit import AuditFile
from labelserver.datastore.index import Index
from labelserver.datastore.label_diff import comparable, diff_files
from labelserver.datastore.label_rows import revision_of, revisions_of
from labelserver.datastore.label_scan import LabelScan
from labelserver.datastore.labels import Labels
from labelserver.datastore.layout import Layout
from labelserver.datastore.project import Project
from labelserver.domain.annotation import WholeImage
from labelserver.domain.diffs import LabelDiff
from labelserver.domain.errors import LabelNotFound, UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.labels import Expected, Provenance, Revision
from labelserver.domain.region_masks import RegionMask
from labelserver.imaging.formats import has_voxels
from labelserver.imaging.volumes import read_grid


class Revisioned:
    """Revisions. A class of its own, so that the store stays readable; `LocalDatastore` is one."""

    _layout: Layout
    _index: Index
    _audit: AuditFile
    _project: Project
    _labels: Labels
    _label_scan: LabelScan

    def current_revision(self, image_id: ImageId, tag: Tag) -> Revision:
        return self._labels.current(image_id, tag)

    def revisions(self, image_id: ImageId, tag: Tag) -> list[Revision]:
        """Oldest first; also of labels that were removed."""
        with self._index.reading() as connection:
            return revisions_of(connection, image_id, tag)

    def label_file(self, image_id: ImageId, tag: Tag) -> tuple[Revision, Path]:
        """See `contracts.labels.RevisionHistory`."""
        self._notice(image_id, tag)
        revision = self._labels.current(image_id, tag)
        return revision, self._layout.file_of(revision)

    def revision_file(self, image_id: ImageId, tag: Tag, number: int) -> Path:
        """The stored bytes of any revision. Raises `LabelNotFound`."""
        return self._layout.file_of(self._revision(image_id, tag, number))

    def restore_revision(
        self, image_id: ImageId, tag: Tag, number: int, provenance: Provenance, *, expected: Expected = None
    ) -> Revision:
        """See `contracts.labels.RevisionHistory`."""
        self._notice(image_id, tag)
        revision = self._labels.restore(image_id, tag, number, provenance, expected)
        self._audit.keep()
        return revision

    def diff_revisions(self, image_id: ImageId, tag: Tag, before: int, after: int) -> LabelDiff:
        """See `contracts.labels.RevisionHistory`."""
        files = [(self._revision(image_id, tag, n), self.revision_file(image_id, tag, n)) for n in (before, after)]
        schema, regions = self._project.schema(), tuple(self._region(*side) for side in files)
        within = comparable(files[0][0], files[1][0], regions, schema)
        return diff_files(files[0], files[1], schema, within)

    def annotated_mask(self, image_id: ImageId, tag: Tag, number: int) -> tuple[RegionMask, Grid]:
        """See `contracts.labels.RevisionHistory`."""
        revision = self._revision(image_id, tag, number)
        if not has_voxels(revision.ext):
            raise UnsupportedFormat(f"Revision {number} is a {revision.ext} file without voxels.")
        grid = read_grid(self._layout.file_of(revision))
        return annotated_mask(self._layout, revision, grid.shape), grid

    def _region(self, revision: Revision, file: Path) -> RegionMask | None:
        """The annotated voxels; None if that is the whole image."""
        if isinstance(revision.annotation.region, WholeImage):
            return None
        return annotated_mask(self._layout, revision, read_grid(file).shape)

    def _revision(self, image_id: ImageId, tag: Tag, number: int) -> Revision:
        with self._index.reading() as connection:
            revision = revision_of(connection, image_id, tag, number)
        if revision is None:
            raise LabelNotFound(f"The label {tag!r} of {image_id!r} has no revision {number}.")
        return revision

    def _notice(self, image_id: ImageId, tag: Tag) -> None:
        """Take up what another program has just written in the label's place, before it is answered or replaced."""
        edited = self._labels.copies.edited_file(image_id, tag)
        if edited is not None:
            self._take_up(edited)

    def _take_up(self, edited: Path) -> None:
        self._label_scan.files([edited])

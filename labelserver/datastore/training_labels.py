"""Labels as a training reads them: with the values that a network counts in, and one value for each voxel.

A label that is so already is read where it lies. Else a copy is made in the cache, named by the checksum of the label
and by the numbering, so that it is made once and never changes.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.contracts.labels import TrainingLabel
from labelserver.datastore.annotating import region_file, stored_mask
from labelserver.datastore.label_diff import Masks, masks_of
from labelserver.datastore.label_values import present_values, stored_dtype, with_changes
from labelserver.datastore.labels import Labels
from labelserver.datastore.layout import Layout
from labelserver.datastore.project import Project
from labelserver.domain.annotation import MaskFile
from labelserver.domain.ids import ImageId, Tag, folder_key
from labelserver.domain.labels import Revision
from labelserver.imaging.formats import has_voxels, is_picture
from labelserver.imaging.seg_nrrd import read_seg_nrrd
from labelserver.imaging.volumes import read_grid, read_volume, write_volume
from labelserver.storage import atomic
from labelserver.storage.atomic import storage_errors

#: Below ``cache/``; each image has a folder in it, which erasing finds.
CACHE = "training"


class TrainingLabels:
    """Makes them for one store."""

    def __init__(self, layout: Layout, labels: Labels, project: Project) -> None:
        self._layout = layout
        self._labels = labels
        self._project = project

    def label(self, image_id: ImageId, tag: Tag, numbering: Mapping[int, int] | None) -> TrainingLabel:
        """See `contracts.labels.TrainingLabelStore`."""
        revision = self._labels.current(image_id, tag)
        stored = self._layout.file_of(revision)
        changes = {} if numbering is None else {v: to for v, to in numbering.items() if v != to}
        notes: tuple[str, ...] = ()
        file = None
        if has_voxels(revision.ext):
            layered = revision.ext.lower() == ".seg.nrrd" and len(read_seg_nrrd(stored).layers) > 1
            if layered or changes:
                file, notes = self._derived(revision, stored, numbering if changes else None, layered=layered)
        annotation = revision.annotation
        stored_mask(self._layout, revision)
        values = None
        if annotation.labels is not None:
            kept = {e.value for e in self._project.schema().entries if e.id in annotation.labels}
            renumbered = kept if numbering is None else {numbering[v] for v in kept if v in numbering}
            values = frozenset(renumbered)
        mask = None
        if isinstance(annotation.region, MaskFile):
            mask = region_file(self._layout, image_id, tag, revision.number)
        return TrainingLabel(file, revision.number, values, annotation.region, mask, notes)

    def _derived(
        self, revision: Revision, stored: Path, numbering: Mapping[int, int] | None, *, layered: bool
    ) -> tuple[Path, tuple[str, ...]]:
        """The copy in the cache and what must be said about it."""
        told = json.dumps([sorted(numbering.items()) if numbering is not None else None])
        name = f"{revision.sha256[:20]}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        ext = ".png" if is_picture(revision.ext) else ".nii.gz"
        target = self._layout.state / "cache" / CACHE / folder_key(revision.image_id) / f"{name}{ext}"
        notes = target.with_name(f"{name}.json")
        if target.is_file():
            return target, tuple(json.loads(notes.read_bytes()))
        said: list[str] = []
        if layered:
            voxels, overlap = flattened(masks_of(revision, stored), read_grid(stored).shape)
            said.append(
                f"Its segments lie in layers; they were laid into one map, and of {overlap} voxels that belong to "
                "several the larger value counts."
            )
            affine = read_grid(stored).affine
        else:
            volume = read_volume(stored)
            voxels, affine = volume.voxels, volume.grid.affine
        if numbering is not None:
            present = present_values(voxels)
            voxels = with_changes(voxels, {v: numbering.get(v, 0) for v in present}, present)
        with storage_errors(target.name):
            target.parent.mkdir(parents=True, exist_ok=True)
            half = target.with_name(f".tmp-{uuid.uuid4().hex}{ext}")
            try:
                write_volume(half, voxels, affine, compress=True)
                atomic.write_json(notes, list(said))
                half.replace(target)
            finally:
                half.unlink(missing_ok=True)
        return target, tuple(said)


def flattened(masks: Masks, shape: tuple[int, int, int]) -> tuple[NDArray[Any], int]:
    """One value for each voxel, the largest of its segments', and how many voxels belong to several."""
    flat = np.zeros(shape, stored_dtype(max(masks, default=0)))
    count = np.zeros(shape, np.uint16)
    for value in sorted(masks):
        flat[masks[value]] = value
        count += masks[value]
    return flat, int((count > 1).sum())

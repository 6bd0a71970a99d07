"""Is this file a label of this image, and what is stored of it? Asked before anything is stored.

A label with voxels must be readable to its end, hold whole numbers from 0 up, and lie on the image's grid. If its axes
are only permuted or flipped, it is re-ordered without changing a value, and that is recorded. Anything else is refused
with a sentence that says how the grids differ. Pictures have no position, so only width and height count for them.
Values that the project's schema numbers otherwise are changed, and that is recorded (`label_values.py`). A label that
is on its grid, on the schema and in 8 or 16 bit is stored byte for byte.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.datastore.label_values import Assigner, Assignment, present_values, with_changes
from labelserver.domain.errors import GridsDiffer, UnreadableFile, UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ImageKind
from labelserver.domain.schema import NamedSegment
from labelserver.imaging.formats import LABEL_EXTENSIONS, has_voxels, is_picture
from labelserver.imaging.reordering import AxisChange, axis_change, orientation_code
from labelserver.imaging.seg_nrrd import SegNrrd, read_seg_nrrd, rewrite_on
from labelserver.imaging.volumes import open_volume, write_volume
from labelserver.storage.atomic import storage_errors

#: What a check adds to a label's info: how its axes were re-ordered, how its values were changed, what they mean.
CHECK_NOTES = ("reordered", "mapping", "segments")

#: Formats that change values when they are written.
_LOSSY = (".jpg", ".jpeg")

#: Largest label value; 16 bit hold it, and no schema needs more.
MAX_LABEL_VALUE = 65535


@dataclass(frozen=True, slots=True)
class CheckedLabel:
    """A file fit to be stored. `temporary` if it was made here and the caller deletes it; `note` goes into the info."""

    file: Path
    temporary: bool
    note: JsonObject
    schema_version: int

    def discard(self) -> None:
        if self.temporary:
            self.file.unlink(missing_ok=True)


def check_label(
    file: Path,
    ext: str,
    kind: ImageKind,
    image_grid: Grid | None,
    spool: Path,
    assigner: Assigner,
    *,
    floats: bool = True,
) -> CheckedLabel:
    """Check the label in `file` against its image and the schema.

    Args:
        file: its name need not carry `ext`.
        ext: decides how it is read.
        kind: of the image; for a picture only width and height are compared.
        image_grid: None if the image has no grid we can read; then a label with voxels is refused.
        spool: folder for a changed copy and for a name with the right extension.
        assigner: asked for the stored values, after everything else was found right.
        floats: whether whole numbers may come as floating point; they are stored as integers.

    Raises:
        UnsupportedFormat: no label type.
        UnreadableFile: empty, damaged, declaring what cannot be, NaN, fractions, negative values.
        GridsDiffer: shape or position differ from the image's.
        UnknownLabelName: the schema is strict and does not know a name or value.
    """
    if ext.lower() not in LABEL_EXTENSIONS:
        raise UnsupportedFormat(
            f"Labels of type {ext or '(none)'} are not stored; use one of {', '.join(LABEL_EXTENSIONS)}."
        )
    if file.stat().st_size == 0:
        raise UnreadableFile("The label file is empty. Send it again.")
    if not has_voxels(ext):
        return CheckedLabel(file, False, {}, assigner.without_voxels().schema_version)
    if image_grid is None:
        raise UnsupportedFormat(f"This image has no grid that labels of type {ext} could be compared with.")
    if file.name.lower().endswith(ext.lower()):
        return _check_voxels(file, ext, kind, image_grid, spool, assigner, floats=floats)
    with storage_errors("the label"):
        spool.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=spool))
        named = folder / f"label{ext}"
        named.symlink_to(file.absolute())
    try:
        checked = _check_voxels(named, ext, kind, image_grid, spool, assigner, floats=floats)
        return checked if checked.temporary else CheckedLabel(file, False, checked.note, checked.schema_version)
    finally:
        named.unlink()
        folder.rmdir()


def _check_voxels(
    file: Path, ext: str, kind: ImageKind, image_grid: Grid, spool: Path, assigner: Assigner, *, floats: bool
) -> CheckedLabel:
    label_grid, read_voxels = open_volume(file)
    change = _change(label_grid, ext, kind, image_grid)
    moved = {} if change.is_identity else _note(label_grid, image_grid, change)
    segments = read_seg_nrrd(file) if ext.lower() == ".seg.nrrd" else None
    if segments is not None:
        _check_values(segments.layers, floats=floats)
        return _placed_segments(file, ext, segments, change, image_grid, spool, assigner, moved)
    volume = read_voxels()
    if volume.voxels.ndim != 3:
        raise UnreadableFile(
            f"The label has {volume.voxels.shape[-1]} channels per voxel; send one number per voxel, "
            "or overlapping segments as .seg.nrrd."
        )
    _check_values(volume.voxels, floats=floats)
    present = present_values(volume.voxels)
    assigned = assigner.for_values(present)
    plain = volume.voxels.dtype.kind in "b" or volume.voxels.dtype.itemsize <= 2
    if change.is_identity and not assigned.changes and plain:
        return CheckedLabel(file, False, assigned.note, assigned.schema_version)
    if ext.lower() in _LOSSY:
        raise UnsupportedFormat(f"A label of type {ext} cannot be stored exactly. Send it as .png or .nii.gz.")
    voxels = volume.voxels if plain and not assigned.changes else with_changes(volume.voxels, assigned.changes, present)
    target = _temporary(spool, ext)
    with storage_errors("the label"):
        write_volume(target, np.ascontiguousarray(change.apply(voxels)), image_grid.affine, compress=True)
    return CheckedLabel(target, True, {**assigned.note, **moved}, assigned.schema_version)


def _placed_segments(
    file: Path,
    ext: str,
    found: SegNrrd,
    change: AxisChange,
    image_grid: Grid,
    spool: Path,
    assigner: Assigner,
    moved: JsonObject,
) -> CheckedLabel:
    """A segmentation file: its one layer gets the schema's values, several layers stay as they are."""
    assigned = _assigned(found, assigner)
    if change.is_identity and not assigned.changes:
        return CheckedLabel(file, False, assigned.note, assigned.schema_version)
    present = present_values(found.layers)
    layers = with_changes(found.layers, assigned.changes, present) if assigned.changes else found.layers
    target = _temporary(spool, ext)
    with storage_errors("the label"):
        rewrite_on(target, file, np.stack([change.apply(layer) for layer in layers]), image_grid, assigned.changes)
    return CheckedLabel(target, True, {**assigned.note, **moved}, assigned.schema_version)


def _assigned(found: SegNrrd, assigner: Assigner) -> Assignment:
    if not found.segments:
        return assigner.for_values(present_values(found.layers))
    named = [(NamedSegment(s.name, s.segment_id, s.value), s.layer) for s in found.segments]
    if len(found.layers) > 1:
        return assigner.for_layers(named)
    return assigner.for_segments([segment for segment, _ in named], present_values(found.layers))


def _change(label_grid: Grid, ext: str, kind: ImageKind, image_grid: Grid) -> AxisChange:
    """The axis change that brings the label onto the image. Raises `GridsDiffer`."""
    same = AxisChange((0, 1, 2), (False, False, False))
    if kind is ImageKind.PICTURE or is_picture(ext):
        if label_grid.shape == image_grid.shape:
            return same
        raise GridsDiffer(
            f"The label has {label_grid.shape[0]} x {label_grid.shape[1]} x {label_grid.shape[2]} pixels, its image "
            f"{image_grid.shape[0]} x {image_grid.shape[1]} x {image_grid.shape[2]}. Draw it on this image and send it."
        )
    if image_grid.same_place(label_grid):
        return same
    change = axis_change(label_grid, image_grid)
    if change is None:
        raise GridsDiffer(
            f"The label does not lie on its image's grid: {image_grid.difference(label_grid)}. Resample it onto the "
            "image (same shape and position) and send it again."
        )
    return change


def _check_values(voxels: NDArray[Any], *, floats: bool) -> None:
    """Whole numbers from 0 to `MAX_LABEL_VALUE`. Raises `UnreadableFile`."""
    if voxels.dtype.kind not in "iubf":
        raise UnreadableFile(f"The label holds values of type {voxels.dtype}; send whole numbers.")
    if voxels.dtype.kind == "f":
        if not np.isfinite(voxels).all():
            raise UnreadableFile("The label holds values that are not numbers (NaN or infinite).")
        if not np.array_equal(voxels, np.round(voxels)):
            raise UnreadableFile("The label holds fractions; send whole numbers, 0 for background.")
        if not floats:
            raise UnreadableFile(
                f"The label's voxels are of the floating-point type {voxels.dtype}; send an integer type such as uint8."
            )
    if voxels.size and voxels.dtype.kind != "b":
        low, high = float(voxels.min()), float(voxels.max())
        if low < 0 or high > MAX_LABEL_VALUE:
            raise UnreadableFile(f"The label holds values from {low:g} to {high:g}; 0 to {MAX_LABEL_VALUE} are stored.")


def _note(label_grid: Grid, image_grid: Grid, change: AxisChange) -> JsonObject:
    return {
        "reordered": {
            "from": orientation_code(label_grid),
            "to": orientation_code(image_grid),
            "axes": list(change.order),
            "reversed": list(change.reversed_axes),
        }
    }


def _temporary(spool: Path, ext: str) -> Path:
    with storage_errors("the label"):
        spool.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="label-", suffix=ext, dir=spool)
        open(descriptor, "rb").close()
    return Path(name)

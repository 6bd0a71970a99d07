"""Is this file a label of this image, and what is stored of it? Asked before anything is stored.

A label with voxels must be readable to its end, hold whole numbers from 0 up, and lie on the image's grid. If its axes
are only permuted or flipped, it is re-ordered without changing a value, and that is recorded. Anything else is refused
with a sentence that says how the grids differ. Pictures have no position, so only width and height count for them.
Values that the project's schema numbers otherwise are changed, and that is recorded (`label_values.py`). A label that
is on its grid, on the schema and in 8 or 16 bit is stored byte for byte.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.datastore.annotating import kept_region
from labelserver.datastore.label_values import Assigner, Assignment, present_values, with_changes
from labelserver.datastore.layout import REGION_EXTENSION
from labelserver.domain.annotation import INFO_KEY, AnnotatedPart, Annotation
from labelserver.domain.errors import GridsDiffer, InvalidParams, UnreadableFile, UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ImageKind
from labelserver.domain.schema import NOT_ANNOTATED, NamedSegment
from labelserver.imaging.formats import LABEL_EXTENSIONS, has_voxels, is_picture
from labelserver.imaging.packed_mask import unpacked
from labelserver.imaging.reordering import AxisChange, axis_change, orientation_code
from labelserver.imaging.seg_nrrd import SegNrrd, read_seg_nrrd, rewrite_on
from labelserver.imaging.volumes import open_volume, read_volume, write_volume
from labelserver.storage.atomic import storage_errors

#: What a check adds to a label's info: how its axes were re-ordered, how its values were changed, what they mean, and
#: which part of the image was annotated.
CHECK_NOTES = ("reordered", "mapping", "segments", INFO_KEY)

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
    mask: bytes | None = None  #: file of the annotated region, where it is no simple one

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
    annotated: AnnotatedPart | None = None,
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
        annotated: which part of the image the saver looked at; None: all of it.

    Raises:
        UnsupportedFormat: no label type.
        UnreadableFile: empty, damaged, declaring what cannot be, NaN, fractions, negative values.
        GridsDiffer: shape or position differ from the image's.
        UnknownLabelName: the schema is strict and does not know a name or value.
        InvalidParams: the annotated part is none of this image's.
    """
    if ext.lower() not in LABEL_EXTENSIONS:
        raise UnsupportedFormat(
            f"Labels of type {ext or '(none)'} are not stored; use one of {', '.join(LABEL_EXTENSIONS)}."
        )
    if file.stat().st_size == 0:
        raise UnreadableFile("The label file is empty. Send it again.")
    if not has_voxels(ext):
        if annotated is not None and annotated != AnnotatedPart(voxels_255=annotated.voxels_255):
            raise InvalidParams(f"A label of type {ext} has no voxels, so it has no annotated part either.")
        return CheckedLabel(file, False, {}, assigner.without_voxels().schema_version)
    if image_grid is None:
        raise UnsupportedFormat(f"This image has no grid that labels of type {ext} could be compared with.")
    if file.name.lower().endswith(ext.lower()):
        return _check_voxels(file, ext, kind, image_grid, spool, assigner, annotated, floats=floats)
    with storage_errors("the label"):
        spool.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=spool))
        named = folder / f"label{ext}"
        named.symlink_to(file.absolute())
    try:
        checked = _check_voxels(named, ext, kind, image_grid, spool, assigner, annotated, floats=floats)
        return checked if checked.temporary else replace(checked, file=file)
    finally:
        named.unlink()
        folder.rmdir()


def _check_voxels(
    file: Path,
    ext: str,
    kind: ImageKind,
    image_grid: Grid,
    spool: Path,
    assigner: Assigner,
    annotated: AnnotatedPart | None,
    *,
    floats: bool,
) -> CheckedLabel:
    label_grid, read_voxels = open_volume(file)
    change = _change(label_grid, ext, kind, image_grid)
    moved = {} if change.is_identity else _note(label_grid, image_grid, change)
    segments = read_seg_nrrd(file) if ext.lower() == ".seg.nrrd" else None
    if segments is not None:
        _check_values(segments.layers, floats=floats)
        return _placed_segments(file, ext, segments, change, image_grid, spool, assigner, annotated, moved)
    volume = read_voxels()
    _check_one_number(volume.voxels)
    _check_values(volume.voxels, floats=floats)
    present = present_values(volume.voxels)
    assigned = assigner.for_values(present)
    plain = volume.voxels.dtype.kind in "b" or volume.voxels.dtype.itemsize <= 2
    part = _Part({}, assigned.schema_version, None)
    if annotated is not None:
        part = _part(annotated, assigned, assigner, label_grid, kind, image_grid, change, volume.voxels)
    if change.is_identity and not assigned.changes and plain:
        return CheckedLabel(file, False, {**assigned.note, **part.note}, part.schema_version, part.mask)
    if ext.lower() in _LOSSY:
        raise UnsupportedFormat(f"A label of type {ext} cannot be stored exactly. Send it as .png or .nii.gz.")
    voxels = volume.voxels if plain and not assigned.changes else with_changes(volume.voxels, assigned.changes, present)
    target = _temporary(spool, ext)
    with storage_errors("the label"):
        write_volume(target, np.ascontiguousarray(change.apply(voxels)), image_grid.affine, compress=True)
    return CheckedLabel(target, True, {**assigned.note, **moved, **part.note}, part.schema_version, part.mask)


def _placed_segments(
    file: Path,
    ext: str,
    found: SegNrrd,
    change: AxisChange,
    image_grid: Grid,
    spool: Path,
    assigner: Assigner,
    annotated: AnnotatedPart | None,
    moved: JsonObject,
) -> CheckedLabel:
    """A segmentation file: its one layer gets the schema's values, several layers stay as they are."""
    assigned = _assigned(found, assigner)
    part = _Part({}, assigned.schema_version, None)
    if annotated is not None:
        kind = ImageKind.VOLUME
        part = _part(annotated, assigned, assigner, found.grid, kind, image_grid, change, found.layers[0])
    if change.is_identity and not assigned.changes:
        return CheckedLabel(file, False, {**assigned.note, **part.note}, part.schema_version, part.mask)
    present = present_values(found.layers)
    layers = with_changes(found.layers, assigned.changes, present) if assigned.changes else found.layers
    target = _temporary(spool, ext)
    with storage_errors("the label"):
        rewrite_on(target, file, np.stack([change.apply(layer) for layer in layers]), image_grid, assigned.changes)
    return CheckedLabel(target, True, {**assigned.note, **moved, **part.note}, part.schema_version, part.mask)


@dataclass(frozen=True, slots=True)
class _Part:
    """What is kept of an annotated part; its labels may have made the schema grow."""

    note: JsonObject
    schema_version: int
    mask: bytes | None


def _part(
    annotated: AnnotatedPart,
    assigned: Assignment,
    assigner: Assigner,
    label_grid: Grid,
    kind: ImageKind,
    image_grid: Grid,
    change: AxisChange,
    voxels: NDArray[Any],
) -> _Part:
    """`voxels` as they were uploaded. Raises `InvalidParams`, `GridsDiffer`, `UnknownLabelName`."""
    drawn = None
    if annotated.mask is not None:
        drawn = _drawn_mask(annotated.mask, kind, image_grid)
    blank = change.apply(voxels == NOT_ANNOTATED) if assigned.blank else None
    region, mask = kept_region(annotated, label_grid, change, drawn, blank)
    labels, version = None, assigned.schema_version
    if annotated.labels is not None:
        labels, version = assigner.ids_of(annotated.labels)
    annotation = Annotation(labels, region)
    note: JsonObject = {} if annotation.is_complete else {INFO_KEY: annotation.to_json()}
    return _Part(note, version, mask)


def _drawn_mask(file: Path, kind: ImageKind, image_grid: Grid) -> NDArray[np.bool_]:
    """A volume that is not 0 where annotated, or a mask that was exported, on the image's grid."""
    if file.suffix == REGION_EXTENSION:
        mask = unpacked(file.read_bytes())
        if mask.shape != image_grid.shape:
            raise GridsDiffer(f"The mask of what was annotated has the shape {mask.shape} of another image.")
        return mask
    grid, read = open_volume(file)
    change = _change(grid, file.suffix, kind, image_grid)
    given = read().voxels
    if given.ndim != 3:
        raise InvalidParams("The mask of what was annotated must have one number per voxel.")
    return change.apply(given != 0)


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


def check_values_of(file: Path, *, floats: bool) -> None:
    """Read a label's voxels and look at them alone. Raises `UnreadableFile`."""
    if file.name.lower().endswith(".seg.nrrd"):
        _check_values(read_seg_nrrd(file).layers, floats=floats)
        return
    voxels = read_volume(file).voxels
    _check_one_number(voxels)
    _check_values(voxels, floats=floats)


def _check_one_number(voxels: NDArray[Any]) -> None:
    """Raises `UnreadableFile`."""
    if voxels.ndim != 3:
        raise UnreadableFile(
            f"The label has {voxels.shape[-1]} channels per voxel; send one number per voxel, "
            "or overlapping segments as .seg.nrrd."
        )


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

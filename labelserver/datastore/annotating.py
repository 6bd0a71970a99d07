"""From what a saver says about the annotated part of an upload to what its revision keeps.

A region that is the whole image, whole slices or one box is kept as such; any other is a mask beside the revision,
``<n>.annotated``. Everything is in the axes of the stored grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from labelserver.datastore.layout import Layout, region_name
from labelserver.domain.annotation import (
    AnnotatedPart,
    MaskFile,
    Region,
    WholeImage,
    annotation_of,
    checked_region,
    moved_region,
)
from labelserver.domain.errors import InvalidParams, StoredDataInvalid, UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.domain.json_types import JsonValue
from labelserver.domain.labels import Revision
from labelserver.domain.region_masks import RegionMask, mask_of, region_of
from labelserver.imaging.packed_mask import packed, unpacked
from labelserver.imaging.reordering import AxisChange


def kept_region(
    part: AnnotatedPart, label_grid: Grid, change: AxisChange, drawn: RegionMask | None, blank: RegionMask | None
) -> tuple[Region, bytes | None]:
    """The region to keep, and the file of its mask if it is one.

    Args:
        part: as the saver said it, in the axes of the upload.
        label_grid: of the upload.
        change: brings the upload's axes onto the stored grid.
        drawn: the mask that came with the upload, on the stored grid.
        blank: voxels of the stored grid that the upload itself called not annotated.

    Raises:
        InvalidParams: the region leaves the grid, or nothing is annotated.
    """
    region = checked_region(part.region, label_grid.shape)
    shape = change.apply_to_grid(label_grid).shape
    region = moved_region(region, change.order, change.reversed_axes, shape)
    masks = [drawn] if drawn is not None else []
    masks += [~blank] if blank is not None else []
    if not masks:
        return region, None
    masks += [] if isinstance(region, WholeImage) else [mask_of(region, shape)]
    mask: RegionMask = np.logical_and.reduce(masks)
    if not mask.any():
        raise InvalidParams("Nothing of this label is annotated, so there is nothing to store.")
    return compacted(mask)


def compacted(mask: RegionMask) -> tuple[Region, bytes | None]:
    """The region of a mask that is not empty, and its file if it needs one."""
    compact = region_of(mask)
    if compact is not None:
        return compact, None
    data, sha256 = packed(mask)
    return MaskFile(sha256, int(mask.sum())), data


def recorded_part(info: Mapping[str, JsonValue], mask: Path) -> AnnotatedPart | None:
    """What a store recorded beside a label that was exported; None if that is nothing.

    Args:
        info: of the label.
        mask: where its mask was exported to, if it has one.

    Raises:
        InvalidParams: the record is damaged.
        UnreadableFile: the mask is.
    """
    annotation = annotation_of(info)
    if annotation.is_complete:
        return None
    region = annotation.region
    if not isinstance(region, MaskFile):
        return AnnotatedPart(annotation.labels, region)
    try:
        unpacked(mask.read_bytes(), region.sha256)
    except OSError as error:
        raise UnreadableFile(f"The mask of what was annotated, {mask.name}, is missing.") from error
    return AnnotatedPart(annotation.labels, mask=mask)


def region_file(layout: Layout, image_id: str, tag: str, number: int) -> Path:
    """Where the mask of a revision lies, if it has one."""
    return layout.revisions_of(image_id, tag) / region_name(number)


def stored_mask(layout: Layout, revision: Revision) -> bytes | None:
    """The file of the revision's mask; None if its region is none.

    Raises:
        StoredDataInvalid: it is damaged or gone.
    """
    region = _region_of(revision)
    if not isinstance(region, MaskFile):
        return None
    try:
        data = region_file(layout, revision.image_id, revision.tag, revision.number).read_bytes()
        unpacked(data, region.sha256)
    except (OSError, UnreadableFile) as error:
        raise StoredDataInvalid(
            f"The file that says what was annotated in revision {revision.number} of {revision.image_id!r} is damaged "
            "or gone."
        ) from error
    return data


def annotated_mask(layout: Layout, revision: Revision, shape: tuple[int, int, int]) -> RegionMask:
    """(I, J, K): True where the revision was annotated. Raises `StoredDataInvalid`."""
    region = _region_of(revision)
    data = stored_mask(layout, revision)
    try:
        return mask_of(region, shape, None if data is None else unpacked(data))
    except InvalidParams as error:
        raise StoredDataInvalid(error.message) from error


def _region_of(revision: Revision) -> Region:
    try:
        return revision.annotation.region
    except InvalidParams as error:
        raise StoredDataInvalid(f"What was annotated in revision {revision.number} cannot be read.") from error

"""A correction keeps what the label it was made from says about its annotated part, and adds to it.

Somebody who mends a label of ten slices has not looked at the other slices. So a save that names the revision it was
made from (``If-Match``) and says nothing about what was looked at is annotated where that revision was, and where it
was changed. A save that says something can say it in addition: two people who draw the liver and the spleen of one
image then make one label of both. What cannot be said as one set of labels in one region is not guessed: the newer
statement stands alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from labelserver.datastore.annotating import annotated_mask, compacted, stored_mask
from labelserver.datastore.label_check import CheckedLabel
from labelserver.datastore.label_diff import changed_voxels
from labelserver.datastore.layout import Layout
from labelserver.domain.annotation import INFO_KEY, AnnotatedPart, Annotation, MaskFile, WholeImage, annotation_of
from labelserver.domain.errors import GridsDiffer, LabelServerError, StoredDataInvalid
from labelserver.domain.labels import Revision
from labelserver.domain.region_masks import RegionMask, mask_of
from labelserver.domain.schema import LabelSchema
from labelserver.imaging.formats import has_voxels
from labelserver.imaging.packed_mask import unpacked

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Looked:
    """What was looked at. None: every label; everywhere."""

    labels: tuple[str, ...] | None
    region: RegionMask | None


def added_to(
    before: Revision, checked: CheckedLabel, ext: str, part: AnnotatedPart, layout: Layout, schema: LabelSchema
) -> CheckedLabel:
    """`checked` with the annotation of both.

    Args:
        before: the stored label that `checked` was made from.
        checked: as it will be stored; its note tells what the saver said.
        ext: of `checked`.
        part: the saver's words, with `adds`.
        layout: where `before` lies.
        schema: of the project.
    """
    says_nothing = part.says_nothing
    if says_nothing and INFO_KEY in checked.note:
        return checked  # its own voxels of 255 said it
    if before.annotation.is_complete or not (has_voxels(before.ext) and has_voxels(ext)):
        return checked if says_nothing else _noted(checked, Annotation(), None)
    after = replace(before, ext=ext, info=dict(checked.note))
    try:
        differs, values = changed_voxels((before, layout.file_of(before)), (after, checked.file))
        earlier = _Looked(before.annotation.labels, _region(before, layout, differs.shape))
    except GridsDiffer:
        return checked  # the image was replaced: nothing that was said holds for its new voxels
    except (LabelServerError, OSError) as error:  # the earlier label is damaged: that must not cost this one
        extra = {"image_id": before.image_id, "number": before.number, "reason": str(error)}
        logger.warning("an earlier revision cannot be compared with its correction", extra=extra)
        return _noted(checked, before.annotation, _mask_left(layout, before)) if says_nothing else checked
    if says_nothing:
        drawn = (entry.id for entry in schema.entries if entry.value in values)
        both = _Looked(_joined_labels(earlier.labels, drawn), _joined(earlier.region, differs))
    else:
        both = _both(earlier, _said(checked, differs.shape), differs)
    region, mask = (WholeImage(), None) if both.region is None else compacted(both.region)
    return _noted(checked, Annotation(both.labels, region), mask)


def _both(earlier: _Looked, said: _Looked, differs: RegionMask) -> _Looked:
    """Same labels: the regions together; same region: the labels together; else what was said last."""
    if _set(earlier.labels) == _set(said.labels):
        return _Looked(said.labels, _joined(_joined(earlier.region, said.region), differs))
    if _same(earlier.region, said.region):
        return _Looked(_joined_labels(earlier.labels, said.labels), _joined(said.region, differs))
    return said


def _set(labels: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if labels is None else frozenset(labels)


def _joined_labels(first: tuple[str, ...] | None, second: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if first is None or second is None else tuple(dict.fromkeys((*first, *second)))


def _joined(first: RegionMask | None, second: RegionMask | None) -> RegionMask | None:
    return None if first is None or second is None else first | second


def _same(first: RegionMask | None, second: RegionMask | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _region(before: Revision, layout: Layout, shape: tuple[int, ...]) -> RegionMask | None:
    if isinstance(before.annotation.region, WholeImage):
        return None
    return annotated_mask(layout, before, (shape[0], shape[1], shape[2]))


def _mask_left(layout: Layout, before: Revision) -> bytes | None:
    """None if there is none, or it is damaged; then the case stays out of trainings."""
    try:
        return stored_mask(layout, before)
    except StoredDataInvalid:
        return None


def _said(checked: CheckedLabel, shape: tuple[int, ...]) -> _Looked:
    annotation = annotation_of(checked.note)
    if isinstance(annotation.region, WholeImage):
        return _Looked(annotation.labels, None)
    stored = unpacked(checked.mask) if isinstance(annotation.region, MaskFile) and checked.mask is not None else None
    return _Looked(annotation.labels, mask_of(annotation.region, shape, stored))


def _noted(checked: CheckedLabel, annotation: Annotation, mask: bytes | None) -> CheckedLabel:
    note = {key: value for key, value in checked.note.items() if key != INFO_KEY}
    if not annotation.is_complete:
        note[INFO_KEY] = annotation.to_json()
    return replace(checked, note=note, mask=mask)

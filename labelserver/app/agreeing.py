"""Several readings of one image compared, and one label made from them.

The readings are stored labels of a local store; what is computed stands in `learning/agreement.py`. Only voxels that
all readers annotated are compared, and only the box round everything that somebody drew is looked at.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelserver.datastore.label_diff import Masks, masks_of
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.training_labels import flattened
from labelserver.domain.errors import Conflict, InvalidParams, LabelNotFound, NotYourRole
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import FINAL, ImageId, Tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import LabelSource, Provenance, Revision
from labelserver.domain.work import reader_number
from labelserver.imaging.formats import has_voxels, is_picture
from labelserver.imaging.volumes import read_grid, write_volume
from labelserver.learning.agreement import (
    LabelAgreement,
    Spot,
    agreement,
    disagreement,
    majority,
    spots,
    staple_map,
)

Values = NDArray[np.uint16]  #: (I, J, K)


class Method(StrEnum):
    """How one label is made from several."""

    MAJORITY = "majority"
    STAPLE = "staple"
    READER = "reader"  #: one of the readings, as it is


@dataclass(frozen=True, slots=True)
class Reading:
    """One reader's label."""

    revision: Revision
    person: str  #: who read first
    masks: Masks


@dataclass(frozen=True, slots=True)
class Readings:
    """All readings of an image that can be compared."""

    image_id: ImageId
    grid: Grid
    wanted: int  #: how many people read it
    readings: Mapping[Tag, Reading]
    compared: NDArray[np.bool_] | None  #: None: the whole image

    def maps(self) -> list[Values]:
        """One value a voxel, of each reader."""
        shape = self.grid.shape
        return [np.asarray(flattened(r.masks, shape)[0], np.uint16) for r in self.readings.values()]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the readers of an image agree."""

    readings: Readings
    labels: tuple[LabelAgreement, ...]
    spots: tuple[Spot, ...]
    share: float  #: of the voxels that somebody drew, those about which somebody differs


def readings_of(store: LocalDatastore, image_id: ImageId) -> Readings:
    """The readings of an image.

    Raises:
        ImageNotFound: there is no such image.
        LabelNotFound: fewer than two readings.
    """
    store.image(image_id)
    found: dict[Tag, Reading] = {}
    compared: NDArray[np.bool_] | None = None
    grid: Grid | None = None
    for name in sorted(store.get_labels_by_image_id(image_id), key=lambda t: reader_number(t) or 0):
        if reader_number(name) is None:
            continue
        tag = Tag(name)
        revision, file = store.label_file(image_id, tag)
        if not has_voxels(revision.ext):
            continue
        grid = grid or read_grid(file)
        if not revision.annotation.is_complete:
            mask, _ = store.annotated_mask(image_id, tag, revision.number)
            compared = mask if compared is None else compared & mask
        first = store.revisions(image_id, tag)[0].provenance.person
        found[tag] = Reading(revision, first, masks_of(revision, file))
    if len(found) < 2 or grid is None:
        raise LabelNotFound(
            f"The image {image_id!r} has {len(found)} readings; agreement and consensus need two. Images are given to "
            "several people as the rules 'overlap_share' and 'overlap_readers' say."
        )
    if compared is not None:
        for reading in found.values():
            for mask in reading.masks.values():
                mask &= compared
    wanted = store.work.works([image_id])[image_id].readers
    return Readings(image_id, grid, wanted, found, compared)


def agree(readings: Readings) -> Agreement:
    """Compare every pair of readers."""
    box = _box(readings)
    voxels = int(np.prod(readings.grid.shape)) if readings.compared is None else int(readings.compared.sum())
    cropped = {
        str(tag): {value: mask[box] for value, mask in reading.masks.items()}
        for tag, reading in readings.readings.items()
    }
    spacing = readings.grid.spacing_mm
    labels = agreement(cropped, spacing, voxels)
    maps = [labels_map[box] for labels_map in readings.maps()]
    percent = disagreement(maps)
    drawn = int(np.logical_or.reduce([m > 0 for m in maps]).sum())
    differs = int((percent > 0).sum())
    offset = tuple(axis.start for axis in box)
    moved = tuple(_moved(spot, offset) for spot in spots(percent))
    return Agreement(readings, tuple(labels), moved, differs / drawn if drawn else 0.0)


def disagreement_map(readings: Readings) -> NDArray[np.uint8]:
    """(I, J, K) of the whole image, in percent: how many readers differ from the majority."""
    return disagreement(readings.maps())


def make_consensus(
    store: LocalDatastore,
    image_id: ImageId,
    method: Method,
    person: str,
    spool: Path,
    *,
    client: str = "",
    tag: Tag | None = None,
) -> Revision:
    """Write ``final`` from the readings of an image.

    Args:
        store: that has them.
        image_id: whose readings.
        method: how.
        person: who decides so; may review.
        spool: folder for the file on its way.
        client: the program that asked.
        tag: of the reading that is right, for `Method.READER`.

    Raises:
        NotYourRole: the project names other people as reviewers.
        Conflict: not all readers have submitted.
        LabelNotFound: fewer than two readings, or not the one that is named.
        InvalidParams: `Method.READER` without a tag.
    """
    if not store.work.rules.reviews(person):
        raise NotYourRole("In this project only people with the role 'reviewer' decide. Ask one of them.")
    readings = readings_of(store, image_id)
    work = store.work.works([image_id])[image_id]
    if work.read < readings.wanted:
        raise Conflict(
            f"{work.read} of {readings.wanted} readers have submitted. Wait for the others, or save your own label "
            "as final."
        )
    info: JsonObject = {
        "consensus": method.value,
        "readings": {str(t): r.revision.number for t, r in readings.readings.items()},
    }
    values = _values(readings, method, tag, info)
    picture = is_picture(next(iter(readings.readings.values())).revision.ext)
    ext = ".png" if picture else ".nii.gz"
    file = spool / f"consensus-{uuid.uuid4().hex}{ext}"
    try:
        write_volume(file, values, readings.grid.affine, compress=True)
        made = Provenance(person, client, LabelSource.CONSENSUS)
        return store.accept_label(image_id, file, ext, FINAL, made, info, take=True)
    finally:
        file.unlink(missing_ok=True)


def _values(readings: Readings, method: Method, tag: Tag | None, info: JsonObject) -> NDArray[np.unsignedinteger]:
    maps = readings.maps()
    match method:
        case Method.MAJORITY:
            values = majority(maps)
        case Method.STAPLE:
            values, found = staple_map(maps)
            info["performance"] = {
                str(value): {
                    str(reader): {"sensitivity": round(p, 6), "specificity": round(q, 6)}
                    for reader, p, q in zip(readings.readings, result.sensitivity, result.specificity, strict=True)
                }
                for value, result in found.items()
            }
        case Method.READER:
            if tag is None:
                raise InvalidParams("Name the reading that is right in 'tag', for example reader_1.")
            if tag not in readings.readings:
                raise LabelNotFound(f"The image {readings.image_id!r} has no reading {tag!r}.")
            info["reading"] = tag
            values = maps[list(readings.readings).index(tag)]
    return values.astype(np.uint8) if values.max(initial=0) < 256 else values


def _box(readings: Readings) -> tuple[slice, slice, slice]:
    """Round everything that somebody drew, with one voxel more on each side, so that surfaces stay surfaces."""
    drawn = np.zeros(readings.grid.shape, bool)
    for reading in readings.readings.values():
        for mask in reading.masks.values():
            drawn |= mask
    box = []
    for axis in range(3):
        where = np.flatnonzero(drawn.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (int(where[0]), int(where[-1]) + 1) if where.size else (0, 1)
        box.append(slice(max(0, low - 1), min(drawn.shape[axis], high + 1)))
    return box[0], box[1], box[2]


def _moved(spot: Spot, offset: tuple[int, ...]) -> Spot:
    def at(ijk: tuple[int, int, int]) -> tuple[int, int, int]:
        return ijk[0] + offset[0], ijk[1] + offset[1], ijk[2] + offset[2]

    return Spot(spot.voxels, at(spot.center_ijk), at(spot.low_ijk), at(spot.high_ijk))

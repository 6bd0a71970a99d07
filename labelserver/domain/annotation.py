"""What of a label was really looked at: which kinds of object, and where in the image.

A label that shows the liver in ten slices says nothing about the other slices, nor about the spleen. Both facts belong
to the revision. Stored voxels stay the schema's values, background where nothing is known; only training tensors show
`schema.NOT_ANNOTATED` there. A region counts voxels of the stored grid; boxes are half open, [low, high).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from labelserver.domain.errors import InvalidParams
from labelserver.domain.json_types import JsonObject, JsonValue

Ijk: TypeAlias = tuple[int, int, int]

#: Key of a revision's info under which its annotation stands; whoever reads it asks `annotation_of`.
INFO_KEY = "annotated"

#: More boxes or slices than this are refused; a mask says the same in less space.
MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class WholeImage:
    """Everything was looked at."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """The voxels of any of these boxes."""

    boxes: tuple[tuple[Ijk, Ijk], ...]  #: (low, high), high excluded


@dataclass(frozen=True, slots=True)
class Slices:
    """Whole slices across one axis."""

    axis: int  #: 0, 1 or 2
    slices: tuple[int, ...]  #: rising


@dataclass(frozen=True, slots=True)
class MaskFile:
    """Any voxels: a bit-packed file beside the revision, known by the checksum of its bits."""

    sha256: str
    voxels: int  #: how many are annotated


Region: TypeAlias = WholeImage | Boxes | Slices | MaskFile


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a revision says about itself. `labels` are schema ids; None: every label of the schema."""

    labels: tuple[str, ...] | None = None
    region: Region = WholeImage()

    @property
    def is_complete(self) -> bool:
        """True if every label was looked for everywhere, as in most revisions."""
        return self.labels is None and isinstance(self.region, WholeImage)

    def to_json(self) -> JsonObject:
        return {"labels": None if self.labels is None else list(self.labels), "region": region_to_json(self.region)}


#: Of a revision that says nothing else.
COMPLETE = Annotation()


@dataclass(frozen=True, slots=True)
class AnnotatedPart:
    """What a saver says about an upload, in the upload's own axes; it becomes an `Annotation` when it is accepted.

    With `adds` it is said in addition to what the label that it was made from says of itself: parts that complete each
    other become one, and what was changed was looked at. That label is the one of ``If-Match``.
    """

    labels: tuple[str, ...] | None = None  #: names or ids; with `adds`, () says nothing beyond the earlier label
    region: Region = WholeImage()  #: no `MaskFile`
    mask: Path | None = None  #: a volume file on the image's grid, not 0 where annotated
    voxels_255: bool = False  #: voxels of the value 255 that nobody named mean "not annotated"
    adds: bool = False

    @property
    def says_nothing(self) -> bool:
        """True for a correction that leaves it to the label it was made from."""
        return self.adds and self.labels == ()


def annotation_of(info: Mapping[str, JsonValue]) -> Annotation:
    """The annotation that a revision's info holds. Raises `InvalidParams` for a damaged one."""
    told = info.get(INFO_KEY)
    if told is None:
        return COMPLETE
    if not isinstance(told, Mapping):
        raise InvalidParams("What was annotated must be an object with 'labels' and 'region'.")
    return annotation_from_json(told)


def annotation_from_json(document: Mapping[str, JsonValue]) -> Annotation:
    """Inverse of `Annotation.to_json`. Raises `InvalidParams`."""
    unknown = sorted(set(document) - {"labels", "region"})
    if unknown:
        raise InvalidParams(f"What was annotated has 'labels' and 'region', not {unknown[0][:80]!r}.")
    labels = document.get("labels")
    if labels is not None and (
        not isinstance(labels, list | tuple)
        or not labels
        or len(labels) > MAX_PARTS
        or not all(isinstance(label, str) and label.strip() for label in labels)
    ):
        raise InvalidParams("The annotated labels must be a list of names or ids, or null for all.")
    names = None if labels is None else tuple(dict.fromkeys(str(label).strip() for label in labels))
    return Annotation(names, region_from_json(document.get("region")))


def region_to_json(region: Region) -> JsonObject:
    match region:
        case Boxes(boxes):
            return {"kind": "boxes", "boxes": [[list(low), list(high)] for low, high in boxes]}
        case Slices(axis, slices):
            return {"kind": "slices", "axis": axis, "slices": list(slices)}
        case MaskFile(sha256, voxels):
            return {"kind": "mask", "sha256": sha256, "voxels": voxels}
    return {"kind": "whole"}


def region_from_json(document: JsonValue) -> Region:
    """Inverse of `region_to_json`; nothing is the whole image. Raises `InvalidParams`."""
    if document is None:
        return WholeImage()
    if not isinstance(document, Mapping):
        raise InvalidParams("A region must be an object with a 'kind'.")
    readers = {"whole": _whole, "boxes": _boxes, "slices": _slices, "mask": _mask_file}
    reader = readers.get(str(document.get("kind")))
    if reader is None:
        raise InvalidParams(f"A region's kind must be one of {', '.join(readers)}.")
    return reader(document)


def _whole(document: Mapping[str, JsonValue]) -> Region:
    return WholeImage()


def _boxes(document: Mapping[str, JsonValue]) -> Region:
    told = document.get("boxes")
    try:
        if not isinstance(told, list | tuple) or not 0 < len(told) <= MAX_PARTS:
            raise TypeError
        boxes = tuple((_ijk(low), _ijk(high)) for low, high in told)
    except (TypeError, ValueError) as error:
        raise InvalidParams(
            "A region of boxes has a list 'boxes' of [[i, j, k], [i, j, k]]: first voxel, and the one behind the last."
        ) from error
    return Boxes(boxes)


def _slices(document: Mapping[str, JsonValue]) -> Region:
    axis, told = document.get("axis"), document.get("slices")
    try:
        if not isinstance(told, list | tuple) or not 0 < len(told) <= MAX_PARTS or _index(axis) > 2:
            raise TypeError
        return Slices(_index(axis), tuple(sorted({_index(number) for number in told})))
    except (TypeError, ValueError) as error:
        raise InvalidParams(
            "A region of slices has an 'axis' (0, 1 or 2) and a list 'slices' of slice numbers."
        ) from error


def _mask_file(document: Mapping[str, JsonValue]) -> Region:
    sha256, voxels = document.get("sha256"), document.get("voxels")
    if not isinstance(sha256, str) or len(sha256) != 64 or not isinstance(voxels, int):
        raise InvalidParams("A region of the kind 'mask' names the 'sha256' and the number of 'voxels' of its mask.")
    return MaskFile(sha256, voxels)


def _ijk(told: JsonValue) -> Ijk:
    if not isinstance(told, list | tuple):
        raise TypeError
    i, j, k = (_index(number) for number in told)
    return (i, j, k)


def _index(told: JsonValue) -> int:
    if isinstance(told, bool) or not isinstance(told, int) or told < 0:
        raise TypeError
    return told


def checked_region(region: Region, shape: Sequence[int]) -> Region:
    """`region`, if it lies inside a grid of `shape` and is not empty; one that is all of it becomes `WholeImage`.

    Raises:
        InvalidParams: it does not, or it is a mask, which only a file can be.
    """
    match region:
        case WholeImage():
            return region
        case MaskFile():
            raise InvalidParams("Send a region of the kind 'mask' as a file, in the part 'annotated_mask'.")
        case Boxes(boxes):
            for low, high in boxes:
                if any(a >= b or b > size for a, b, size in zip(low, high, shape, strict=True)):
                    raise InvalidParams(
                        f"The box {list(low)} to {list(high)} is empty or leaves the grid of {list(shape)} voxels."
                    )
        case Slices(axis, slices):
            if slices[-1] >= shape[axis]:
                raise InvalidParams(f"There is no slice {slices[-1]} on axis {axis}, which has {shape[axis]}.")
    return WholeImage() if _is_whole(region, shape) else region


def _is_whole(region: Boxes | Slices, shape: Sequence[int]) -> bool:
    if isinstance(region, Slices):
        return len(region.slices) == shape[region.axis]
    return any(low == (0, 0, 0) and high == tuple(shape) for low, high in region.boxes)


def moved_region(region: Region, order: Sequence[int], reversed_axes: Sequence[bool], shape: Sequence[int]) -> Region:
    """The region after its image's axes were permuted and flipped, without a loss.

    Args:
        region: no mask; a mask's voxels are moved like a label's.
        order: axis a of the result is axis `order[a]` of the source.
        reversed_axes: of the result.
        shape: of the result.
    """
    match region:
        case Slices(axis, slices):
            to = tuple(order).index(axis)
            last = shape[to] - 1
            numbers = tuple(last - s for s in reversed(slices)) if reversed_axes[to] else slices
            return Slices(to, numbers)
        case Boxes(boxes):
            return Boxes(tuple(_moved_box(low, high, order, reversed_axes, shape) for low, high in boxes))
    return region


def _moved_box(
    low: Ijk, high: Ijk, order: Sequence[int], reversed_axes: Sequence[bool], shape: Sequence[int]
) -> tuple[Ijk, Ijk]:
    begins, ends = [], []
    for axis, source in enumerate(order):
        begin, end = low[source], high[source]
        if reversed_axes[axis]:
            begin, end = shape[axis] - end, shape[axis] - begin
        begins.append(begin)
        ends.append(end)
    return (begins[0], begins[1], begins[2]), (ends[0], ends[1], ends[2])

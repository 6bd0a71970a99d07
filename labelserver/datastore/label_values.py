"""From the voxel values of an upload to the values that the project's schema stores.

Clients number their segments as they like. What a voxel value means is decided here, in this order:

1. a segmentation file (``.seg.nrrd``) names its own values, and so does the record of a label that was exported;
2. names in the info (``label_info``, or a model's ``label_names``): their ``idx`` where the values in the file prove
   it, else the order of the entries, because some viewers number the voxels 1..N in that order and tell other ``idx``
   (R-37);
3. without names, the values are the schema's own, or the contiguous ids that old clients are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.datastore.project import Project
from labelserver.domain.errors import UnknownLabelName
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.labels import Numbering
from labelserver.domain.schema import (
    BACKGROUND,
    MAX_VALUE,
    MAX_VALUE_8_BIT,
    NOT_ANNOTATED,
    LabelSchema,
    NamedSegment,
    SchemaEntry,
    SchemaMode,
    generic_name,
)

#: More values without a name than this number objects (cells, instances) and are no segments.
MAX_NAMELESS = MAX_VALUE_8_BIT

#: Dropped segments before a kept one move Slicer's ``idx``: its background and two scribbles.
_DROPPED_BY_SLICER = 3

#: Keys of a ``label_info`` entry that may hold the voxel value, as the peer's clients use them.
_VALUE_KEYS = ("idx", "labelID", "label", "segmentIndex", "id")

_CHUNK_VOXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Assignment:
    """Stored value of each value in the upload that changes; what is recorded about it; the schema it follows."""

    changes: dict[int, int]
    note: JsonObject
    schema_version: int
    blank: bool = False  #: the value 255 of the upload means "not annotated"


class Assigner:
    """Assigns the values of one upload by the project's schema."""

    def __init__(
        self, project: Project, info: Mapping[str, JsonValue], numbering: Numbering, *, voxels_255: bool = False
    ) -> None:
        """`voxels_255`: the value 255, unless it has a name, means "not annotated"."""
        self._project = project
        self._info = info
        self._numbering = numbering
        self._voxels_255 = voxels_255

    def without_voxels(self) -> Assignment:
        """For labels that are no voxels."""
        return Assignment({}, {}, self._project.schema().version)

    def for_values(self, present: frozenset[int]) -> Assignment:
        """For a label map. `present`: its values other than 0.

        Raises:
            UnknownLabelName: the schema is strict and does not know a name or value.
        """
        if self._voxels_255 and NOT_ANNOTATED in present:
            named = recorded_segments(self._info) or named_segments(self._info) or []
            if all(segment.value != NOT_ANNOTATED for segment in named):
                return _with_blank(self._for_drawn(present - {NOT_ANNOTATED}), present)
        return self._for_drawn(present)

    def _for_drawn(self, present: frozenset[int]) -> Assignment:
        recorded = recorded_segments(self._info)
        if recorded is not None:
            return self._by_name(present, recorded, trusted=True)
        named = named_segments(self._info)
        if named is not None:
            return self._by_name(present, named)
        schema = self._project.schema()
        if self._numbering is Numbering.CONTIGUOUS and present and max(present) <= len(schema.entries):
            of_number = {number: value for value, number in schema.contiguous().items()}
            return self._recorded({v: of_number[v] for v in present}, None, schema)
        return self._nameless(present)

    def for_segments(self, segments: Sequence[NamedSegment], present: frozenset[int]) -> Assignment:
        """For a segmentation file with one layer; `segments` name their voxel value."""
        if self._voxels_255 and NOT_ANNOTATED in present and all(s.value != NOT_ANNOTATED for s in segments):
            drawn = self._by_name(present - {NOT_ANNOTATED}, list(segments), trusted=True)
            return _with_blank(drawn, present)
        return self._by_name(present, list(segments), trusted=True)

    def for_layers(self, segments: Sequence[tuple[NamedSegment, int]]) -> Assignment:
        """For a segmentation file with several layers: kept as it is, each segment's (layer) meaning is recorded."""
        schema, entries = self._project.resolve([NamedSegment(s.name, s.segment_id) for s, _ in segments])
        told: list[JsonValue] = [
            {**_told(entry), "layer": layer, "layer_value": segment.value}
            for (segment, layer), entry in zip(segments, entries, strict=True)
        ]
        return Assignment({}, {"segments": told}, schema.version)

    def ids_of(self, labels: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """The schema's ids of these names or ids, and its version. Raises `UnknownLabelName`."""
        schema, entries = self._project.resolve([NamedSegment(label, label) for label in labels])
        return tuple(dict.fromkeys(entry.id for entry in entries)), schema.version

    def _by_name(self, present: frozenset[int], named: list[NamedSegment], *, trusted: bool = False) -> Assignment:
        segments = _numbered(present, named, trusted=trusted)
        foreground = [s for s in segments if s.name.casefold() != BACKGROUND]
        covered = {s.value for s in segments}
        nameless = sorted(present - covered)
        extra = self._nameless_segments(nameless)
        schema, entries = self._project.resolve([*foreground, *extra])
        stored = {s.value: e.value for s, e in zip([*foreground, *extra], entries, strict=True) if s.value is not None}
        for segment in segments:
            if segment.name.casefold() == BACKGROUND and segment.value is not None:
                stored[segment.value] = 0
        return self._recorded({v: stored[v] for v in present}, entries, schema)

    def _nameless(self, present: frozenset[int]) -> Assignment:
        if len(present) > MAX_NAMELESS:
            return self.without_voxels()
        segments = self._nameless_segments(sorted(present))
        schema, entries = self._project.resolve(segments)
        stored = {v: e.value for v, e in zip(sorted(present), entries, strict=True)}
        return self._recorded(stored, None, schema)

    def _nameless_segments(self, values: Sequence[int]) -> list[NamedSegment]:
        """As if they had been sent under the name that the schema has for the value."""
        schema = self._project.schema()
        segments = []
        for value in values:
            entry = schema.of_value(value)
            if entry is None and schema.mode is SchemaMode.STRICT:
                known = ", ".join(f"{e.value} ({e.name})" for e in schema.entries)
                raise UnknownLabelName(
                    f"The label holds the value {value}, which this project's schema does not know. Allowed: {known}."
                )
            segments.append(NamedSegment(entry.name if entry else generic_name(value), value=value))
        return segments

    def _recorded(self, stored: dict[int, int], entries: list[SchemaEntry] | None, schema: LabelSchema) -> Assignment:
        changes = {value: to for value, to in sorted(stored.items()) if value != to}
        note: JsonObject = {}
        if changes:
            note["mapping"] = {str(value): to for value, to in sorted(stored.items())}
        if entries is not None:
            note["segments"] = [_told(entry) for entry in {entry.id: entry for entry in entries}.values()]
        return Assignment(changes, note, schema.version)


def _with_blank(drawn: Assignment, present: Iterable[int]) -> Assignment:
    """The assignment of what was drawn, with the voxels that nobody looked at as background."""
    mapping = {str(v): drawn.changes.get(v, v) for v in sorted(present)} | {str(NOT_ANNOTATED): 0}
    changes = {**drawn.changes, NOT_ANNOTATED: 0}
    return replace(drawn, changes=changes, note={**drawn.note, "mapping": dict(mapping)}, blank=True)


def _told(entry: SchemaEntry) -> JsonObject:
    return {"id": entry.id, "name": entry.name, "value": entry.value}


def recorded_segments(info: Mapping[str, JsonValue]) -> list[NamedSegment] | None:
    """The segments of a stored label, as one of our stores recorded them beside it; None if it did not."""
    listed = info.get("segments")
    if not isinstance(listed, list | tuple):
        return None
    told = [
        s for s in listed if isinstance(s, Mapping) and s.get("name") and _whole(s.get("value")) and "layer" not in s
    ]
    return [NamedSegment(str(s["name"]), _text_id(s), _whole(s["value"])) for s in told] or None


def stored_as_told(project: Project, info: Mapping[str, JsonValue]) -> bool:
    """Whether a label with this info surely holds the schema's values, so that its voxels need no look.

    An open schema learns the names.
    """
    segments = recorded_segments(info)
    if segments is None:
        segments = named_segments(info)
        if segments is None:
            return True
        if [s.value for s in segments] != list(range(1, len(segments) + 1)):
            return False
    try:
        _, entries = project.resolve(segments)
    except UnknownLabelName:
        return False
    return all(entry.value == segment.value for entry, segment in zip(entries, segments, strict=True))


def named_segments(info: Mapping[str, JsonValue]) -> list[NamedSegment] | None:
    """The segments that an info names, in its order; None if it names none."""
    listed = info.get("label_info")
    if isinstance(listed, list | tuple):
        entries = [e for e in listed if isinstance(e, Mapping) and str(e.get("name") or "").strip()]
        if entries:
            return [NamedSegment(str(e["name"]).strip(), _text_id(e), _told_value(e)) for e in entries]
    params = info.get("params")
    names = params.get("label_names") if isinstance(params, Mapping) else info.get("label_names")
    if isinstance(names, Mapping):
        numbered = [(str(name).strip(), _whole(value)) for name, value in names.items()]
        return [NamedSegment(name, value=value) for name, value in numbered if name and value is not None] or None
    if isinstance(names, list | tuple):
        texts = [str(n).strip() for n in names if isinstance(n, str) and n.strip() and n.casefold() != BACKGROUND]
        return [NamedSegment(n, value=i) for i, n in enumerate(dict.fromkeys(texts), start=1)] or None
    return None


def _numbered(present: frozenset[int], named: list[NamedSegment], *, trusted: bool) -> list[NamedSegment]:
    """The segments with the voxel value that each surely has in the file; None for one without voxels there."""
    told = [segment.value for segment in named]
    if trusted or _proven(present, told):
        return named
    kept = [segment for segment in named if segment.name.casefold() != BACKGROUND]
    if present <= set(range(1, len(kept) + 1)):
        numbers = list(range(1, len(kept) + 1))
    elif all(value is None for value in told) and len(present) == len(kept):
        numbers = sorted(present)
    elif None not in told and len(set(told)) == len(told):
        return named
    else:
        numbers = list(range(1, len(kept) + 1))
    return [NamedSegment(s.name, s.segment_id, n) for s, n in zip(kept, numbers, strict=True)]


def _proven(present: frozenset[int], told: Sequence[int | None]) -> bool:
    """Do the values in the file show that the ``idx`` told are the voxel values?

    They do if they are all there, or are no numbering that Slicer could have made: not rising, or with wide gaps.
    """
    values = [value for value in told if value is not None]
    foreground = [value for value in values if value > 0]
    if len(values) < len(told) or len(set(values)) < len(values) or not present <= set(values):
        return False
    if present == set(foreground) or foreground == list(range(1, len(foreground) + 1)):
        return True
    return foreground != sorted(foreground) or max(foreground) > len(foreground) + _DROPPED_BY_SLICER


def _told_value(entry: Mapping[str, JsonValue]) -> int | None:
    for key in _VALUE_KEYS:
        value = _whole(entry.get(key))
        if value is not None:
            return value
    return None


def _text_id(entry: Mapping[str, JsonValue]) -> str:
    value = entry.get("id")
    return value if isinstance(value, str) else ""


def _whole(value: JsonValue) -> int | None:
    """A voxel value, or None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_VALUE else None


def present_values(voxels: NDArray[Any]) -> frozenset[int]:
    """The values other than 0 of whole-numbered voxels from 0 to 65535."""
    seen = np.zeros(MAX_VALUE + 1, np.bool_)
    for chunk in _chunks(voxels):
        seen[chunk] = True
    return frozenset(int(v) for v in np.flatnonzero(seen[1:]) + 1)


def stored_dtype(largest: int) -> type[np.uint8] | type[np.uint16]:
    """8 bit hold the values up to 254, because 255 means "not annotated"; else 16."""
    return np.uint8 if largest <= MAX_VALUE_8_BIT else np.uint16


def with_changes(voxels: NDArray[Any], changes: Mapping[int, int], present: Iterable[int]) -> NDArray[Any]:
    """A copy of the voxels, any shape, in the smallest stored dtype, with the values changed."""
    table = np.arange(MAX_VALUE + 1, dtype=np.uint16)
    for value, to in changes.items():
        table[value] = to
    largest = max((int(table[value]) for value in present), default=0)
    table = table.astype(stored_dtype(largest))
    result = np.empty(voxels.shape, table.dtype, order="F")
    flat = result.reshape(-1, order="F")
    done = 0
    for chunk in _chunks(voxels):
        flat[done : done + chunk.size] = table[chunk]
        done += chunk.size
    return result


def _chunks(voxels: NDArray[Any]) -> Iterable[NDArray[np.intp]]:
    """The voxels in column order, some at a time as indices, so that a large volume is never widened as a whole."""
    slab = max(1, _CHUNK_VOXELS // max(1, int(np.prod(voxels.shape[:-1]))))
    for begin in range(0, voxels.shape[-1], slab):
        yield voxels[..., begin : begin + slab].reshape(-1, order="F").astype(np.intp)

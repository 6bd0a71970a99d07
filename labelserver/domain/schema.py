"""What the voxel values of labels mean, for a whole project and for ever.

A schema binds an immutable id to a voxel value, a name, a colour and perhaps a coded term. Clients name their segments;
the value that is stored follows from the name, never from the order in which a client happened to send it. An open
schema grows with every new name, a strict one refuses what it does not know.
"""

from __future__ import annotations

import colorsys
import unicodedata
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import attrgetter

from labelserver.domain.errors import Conflict, InvalidParams, UnknownLabelName
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.schema_names import PLAIN_ID, SchemaNames

#: A name that means "no object": value 0, never an entry (R-12).
BACKGROUND = "background"

#: "Not annotated": appears in training tensors alone, so no entry may have it.
NOT_ANNOTATED = 255

#: Entries up to here are stored in 8 bit, others in 16 bit.
MAX_VALUE_8_BIT = 254
MAX_VALUE = 65535

MAX_NAME_LENGTH = 200

Color = tuple[int, int, int]  #: 0 to 255


class SchemaMode(StrEnum):
    """What happens to a name that the schema does not know."""

    OPEN = "open"  #: it becomes an entry
    STRICT = "strict"  #: the label is refused


@dataclass(frozen=True, slots=True)
class CodedTerm:
    """A concept of a terminology, for example SNOMED CT: ``SCT``, ``10200004``, ``Liver``."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class SchemaEntry:
    """One kind of object. `id` and, once a label uses it, `value` never change; `former_names` are still understood."""

    id: str
    value: int
    name: str
    color: Color
    term: CodedTerm | None = None
    former_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedSegment:
    """A segment as somebody submits it: its name, the id a viewer gave it, the voxel value it would like."""

    name: str
    segment_id: str = ""
    value: int | None = None


@dataclass(frozen=True, slots=True)
class LabelSchema:
    """The entries by voxel value. Version 0 is the empty, open schema of a project that has none."""

    version: int = 0
    mode: SchemaMode = SchemaMode.OPEN
    entries: tuple[SchemaEntry, ...] = field(default=())
    _known_names: SchemaNames | None = field(default=None, init=False, repr=False, compare=False)

    def find(self, segment: NamedSegment) -> SchemaEntry | None:
        """By name, by a former name, by either without regard to case, by a viewer's id that is one of ours."""
        return self._names().find(plain_label_name(segment.name), segment.segment_id)

    def of_value(self, value: int) -> SchemaEntry | None:
        return self._names().by_value.get(value)

    def has(self, entry: SchemaEntry) -> bool:
        """Whether it knows the entry, as it is."""
        return self._names().by_id.get(entry.id) == entry

    def values(self) -> dict[str, int]:
        """Name -> stored voxel value, in the order of the values."""
        return {entry.name: entry.value for entry in self.entries}

    def contiguous(self) -> dict[int, int]:
        """Stored voxel value -> id 1..N in the same order: what old clients are shown (R-12)."""
        return {entry.value: number for number, entry in enumerate(self.entries, start=1)}

    @property
    def is_contiguous(self) -> bool:
        """Whether stored values and the ids that old clients see are the same."""
        return all(value == number for value, number in self.contiguous().items())

    def resolved(self, segments: Sequence[NamedSegment]) -> tuple[LabelSchema, list[SchemaEntry]]:
        """The schema that knows all these segments, and the entry of each.

        Raises:
            UnknownLabelName: the schema is strict and does not know a name.
        """
        schema = self
        found = []
        for segment in segments:
            entry = schema.find(segment)
            if entry is None:
                if schema.mode is SchemaMode.STRICT:
                    raise UnknownLabelName(
                        f"The label name {segment.name[:100]!r} is not in this project's schema. "
                        f"Allowed: {', '.join(e.name for e in self.entries) or 'none'}."
                    )
                schema, entry = schema._with(segment, grown=schema is not self)
            found.append(entry)
        return schema, found

    def _with(self, segment: NamedSegment, *, grown: bool) -> tuple[LabelSchema, SchemaEntry]:
        """Add a name, in the next version or, if `grown`, in this one, which nobody else knows yet.

        A value that so far had only a generic name gets this one.
        """
        name = plain_label_name(segment.name)
        version = self.version + (not grown)
        names = self._names()
        nameless = names.by_value.get(segment.value) if segment.value is not None else None
        if nameless is not None and nameless.name == generic_name(nameless.value):
            named = replace(nameless, name=name, former_names=(*nameless.former_names, nameless.name))
            return replace(
                self, version=version, entries=tuple(named if e is nameless else e for e in self.entries)
            ), named
        value = segment.value
        if value is None or value in names.by_value or not 0 < value <= MAX_VALUE or value == NOT_ANNOTATED:
            value = names.lowest_free(NOT_ANNOTATED)
        if value > MAX_VALUE:
            raise InvalidParams(f"A schema holds at most {MAX_VALUE - 1} names; this project has them all.")
        entry = SchemaEntry(names.free_id(name), value, name, color_of(value))
        return self.with_entries([entry], version, grown=grown), entry

    def with_entries(self, changed: Sequence[SchemaEntry], version: int, *, grown: bool = False) -> LabelSchema:
        """With these entries more, or in the place of those with their ids. `grown`: nobody else knows this schema."""
        names = self._names()
        if any(entry.id in names.by_id for entry in changed):
            entries = {**names.by_id, **{entry.id: entry for entry in changed}}
            return replace(self, version=version, entries=_in_order(entries.values()))
        if not grown:
            names = names.copy()
        listed = list(self.entries)
        for entry in changed:
            names.add(entry)
            insort(listed, entry, key=attrgetter("value"))
        larger = replace(self, version=version, entries=tuple(listed))
        object.__setattr__(larger, "_known_names", names)
        return larger

    def _names(self) -> SchemaNames:
        if self._known_names is None:
            object.__setattr__(self, "_known_names", SchemaNames(self.entries))
        assert self._known_names is not None
        return self._known_names

    def succeeded_by(self, wanted: LabelSchema, used: frozenset[str]) -> LabelSchema:
        """The next version of this schema as somebody wants it.

        Args:
            wanted: mode and entries; its version does not count.
            used: ids of entries that accepted labels hold; they keep their value and cannot be left out.

        Raises:
            Conflict: an entry in use would lose its value or vanish.
        """
        before = {entry.id: entry for entry in self.entries}
        after = {entry.id: entry for entry in wanted.entries}
        for entry_id in sorted(used & set(before)):
            old, new = before[entry_id], after.get(entry_id)
            if new is None or new.value != old.value:
                done = "left out" if new is None else f"moved from value {old.value} to {new.value}"
                raise Conflict(
                    f"The label {old.name!r} (id {entry_id}) was {done}, but stored labels use it. Keep its id and "
                    f"value {old.value}; its name, colour and term may change."
                )
        entries = []
        for entry in wanted.entries:
            earlier = before.get(entry.id)
            former = [*entry.former_names]
            if earlier is not None:
                former += [*earlier.former_names, *([earlier.name] if earlier.name != entry.name else [])]
            names = {e.name for e in wanted.entries}
            kept = tuple(name for name in dict.fromkeys(former) if name not in names)
            entries.append(replace(entry, former_names=kept))
        return LabelSchema(self.version + 1, wanted.mode, _in_order(entries))

    def to_json(self) -> JsonObject:
        return {
            "version": self.version,
            "mode": self.mode.value,
            "labels": [entry_to_json(entry) for entry in self.entries],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, JsonValue]) -> LabelSchema:
        """Read what `to_json` wrote, or what a person wrote by hand: ids, values and colours may be missing.

        Raises:
            InvalidParams: with what is wrong.
        """
        try:
            mode = SchemaMode(str(document.get("mode") or SchemaMode.OPEN))
        except ValueError as error:
            raise InvalidParams("The schema's mode must be 'open' or 'strict'.") from error
        listed = document.get("labels")
        if not isinstance(listed, list | tuple) or not all(isinstance(item, Mapping) for item in listed):
            raise InvalidParams('A schema has a list "labels" of objects such as {"name": "liver", "value": 1}.')
        version = _whole(document.get("version", 0), "version")
        entries = entries_from_json([item for item in listed if isinstance(item, Mapping)])
        return cls(version, mode, _in_order(entries))


def _in_order(entries: Iterable[SchemaEntry]) -> tuple[SchemaEntry, ...]:
    return tuple(sorted(entries, key=attrgetter("value")))


def plain_label_name(text: str) -> str:
    """A name as it is kept and compared: composed Unicode without control characters, of bounded length."""
    kept = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) not in ("Cc", "Cs"))
    return kept.strip()[:MAX_NAME_LENGTH].strip() or "unnamed"


def generic_name(value: int) -> str:
    """What a voxel value is called that came without a name."""
    return f"label_{value}"


def channels_of_values(names: Sequence[str], stored: Mapping[str, int]) -> dict[int, int]:
    """Which network channel a stored voxel value belongs to, for a model that counts its own names from 1.

    Args:
        names: the model's labels in the order of its channels 1..N.
        stored: the schema's values by name (`LabelSchema.values`); empty where there is no schema.

    Returns:
        Stored value -> channel. A name that the schema does not know keeps its channel as value, unless the value has
        another name. Values that are left out are no label of this model.
    """
    by_name = {name.casefold(): value for name, value in stored.items()}
    by_name |= stored
    taken = {value for name, value in stored.items() if name != generic_name(value)}
    channels = {}
    for channel, name in enumerate(names, start=1):
        value = by_name.get(name, by_name.get(name.casefold()))
        if value is None and channel not in taken:
            value = channel
        if value is not None:
            channels[value] = channel
    return channels


def color_of(value: int) -> Color:
    """A colour for a value that nobody coloured: hues a golden angle apart, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb((value * 0.61803398875) % 1.0, 0.65, 0.9)
    return (round(red * 255), round(green * 255), round(blue * 255))


def names_in_order(labels: JsonValue) -> list[str]:
    """Names of name -> id in the order of the ids, or of a list; each once."""
    if isinstance(labels, Mapping):
        numbered = sorted(labels.items(), key=lambda item: _number(item[1]))
        return [str(name) for name, _ in numbered]
    if isinstance(labels, list | tuple):
        return list(dict.fromkeys(str(name) for name in labels if name is not None))
    return [labels] if isinstance(labels, str) and labels else []


def app_label_names(info: Mapping[str, JsonValue]) -> list[str]:
    """The names that an app's description knows, in its order: its own labels, then those of its models."""
    names = names_in_order(info.get("labels"))
    models = info.get("models")
    for model in models.values() if isinstance(models, Mapping) else ():
        names += names_in_order(model.get("labels")) if isinstance(model, Mapping) else []
    return [name for name in dict.fromkeys(names) if name.strip() and name.casefold() != BACKGROUND]


def _number(value: JsonValue) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("inf")


def entry_to_json(entry: SchemaEntry) -> JsonObject:
    document: JsonObject = {
        "id": entry.id,
        "value": entry.value,
        "name": entry.name,
        "color": list(entry.color),
        "former_names": list(entry.former_names),
    }
    if entry.term is not None:
        document["term"] = {"scheme": entry.term.scheme, "value": entry.term.value, "meaning": entry.term.meaning}
    return document


def entries_from_json(items: Sequence[Mapping[str, JsonValue]]) -> list[SchemaEntry]:
    """Entries as `entry_to_json` or a person wrote them. Raises `InvalidParams`."""
    given = {_whole(item["value"], "value") for item in items if item.get("value") is not None}
    values, ids = iter(v for v in range(1, MAX_VALUE + 2) if v not in given and v != NOT_ANNOTATED), SchemaNames()
    entries: list[SchemaEntry] = []
    for item in items:
        entries.append(_entry_from_json(item, ids, values))
        ids.add(entries[-1])
    _check_entries(entries)
    return entries


def _entry_from_json(item: Mapping[str, JsonValue], so_far: SchemaNames, values: Iterator[int]) -> SchemaEntry:
    given_name = str(item.get("name") or "").strip()
    name = plain_label_name(given_name)
    if not given_name or len(given_name) > MAX_NAME_LENGTH or name.casefold() == BACKGROUND:
        raise InvalidParams(f"Each label needs a name of 1 to {MAX_NAME_LENGTH} characters; {BACKGROUND!r} is value 0.")
    value = item.get("value")
    number = next(values) if value is None else _whole(value, "value")
    color = item.get("color")
    if color is not None and (not isinstance(color, list | tuple) or len(color) != 3):
        raise InvalidParams(f"The colour of {name!r} must be three whole numbers from 0 to 255.")
    parts = [_whole(part, "colour") for part in color] if isinstance(color, list | tuple) else list(color_of(number))
    if any(not 0 <= part <= 255 for part in parts):
        raise InvalidParams(f"The colour of {name!r} must be three whole numbers from 0 to 255.")
    former = item.get("former_names") or ()
    return SchemaEntry(
        id=str(item.get("id") or "") or so_far.free_id(name),
        value=number,
        name=name,
        color=(parts[0], parts[1], parts[2]),
        term=_term(item.get("term"), name),
        former_names=tuple(str(n) for n in former) if isinstance(former, list | tuple) else (),
    )


def _term(term: JsonValue, name: str) -> CodedTerm | None:
    if term is None:
        return None
    if not isinstance(term, Mapping) or not all(isinstance(term.get(k), str) for k in ("scheme", "value", "meaning")):
        raise InvalidParams(f"The term of {name!r} needs the texts 'scheme', 'value' and 'meaning'.")
    return CodedTerm(str(term["scheme"]), str(term["value"]), str(term["meaning"]))


def _whole(value: JsonValue, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParams(f"A schema's {what} must be a whole number, not {value!r}.")
    return value


def _check_entries(entries: Sequence[SchemaEntry]) -> None:
    for entry in entries:
        if not 1 <= entry.value <= MAX_VALUE or entry.value == NOT_ANNOTATED:
            raise InvalidParams(
                f"The value {entry.value} of {entry.name!r} is not allowed: use 1 to {MAX_VALUE} without "
                f"{NOT_ANNOTATED}, which means 'not annotated'."
            )
        if not PLAIN_ID.match(entry.id):
            raise InvalidParams(f"The id {entry.id[:80]!r} is not plain: use up to 63 letters, digits, '_', '-', '.'.")
    told: dict[str, list[str]] = {
        "id": [entry.id for entry in entries],
        "value": [str(entry.value) for entry in entries],
        "name": [entry.name.casefold() for entry in entries],
    }
    for what, given in told.items():
        twice = next((item for item, count in Counter(given).items() if count > 1), None)
        if twice is not None:
            raise InvalidParams(f"Two labels of the schema have the {what} {twice!r}; each must have its own.")

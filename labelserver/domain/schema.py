"""What the voxel values of labels mean, for a whole project and for ever.

A schema binds an immutable id to a voxel value, a name, a colour and perhaps a coded term. Clients name their segments;
the value that is stored follows from the name, never from the order in which a client happened to send it. An open
schema grows with every new name, a strict one refuses what it does not know.
"""

from __future__ import annotations

import colorsys
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from labelserver.domain.errors import Conflict, InvalidParams, UnknownLabelName
from labelserver.domain.json_types import JsonObject, JsonValue

#: A name that means "no object": value 0, never an entry (R-12).
BACKGROUND = "background"

#: "Not annotated": appears in training tensors alone, so no entry may have it.
NOT_ANNOTATED = 255

#: Entries up to here are stored in 8 bit, others in 16 bit.
MAX_VALUE_8_BIT = 254
MAX_VALUE = 65535

MAX_NAME_LENGTH = 200

Color = tuple[int, int, int]  #: 0 to 255

_PLAIN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+ -]{0,62}$")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.+-]+")
#: What viewers call a segment that nobody named; two of them are not the same thing.
_GENERIC_ID = re.compile(r"^(segment[_ ]?\d+|\d+(\+\d+)?)$", re.IGNORECASE)


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

    def find(self, segment: NamedSegment) -> SchemaEntry | None:
        """By name, by a former name, by either without regard to case, by a viewer's id that is one of ours."""
        wanted = plain_label_name(segment.name)
        for entry in self.entries:
            if wanted == entry.name:
                return entry
        folded = wanted.casefold()
        for names in ((lambda e: e.former_names), (lambda e: (e.name, *e.former_names))):
            for entry in self.entries:
                if any(name.casefold() == folded for name in names(entry)):
                    return entry
        if segment.segment_id and not _GENERIC_ID.match(segment.segment_id):
            return next((entry for entry in self.entries if entry.id == segment.segment_id), None)
        return None

    def of_value(self, value: int) -> SchemaEntry | None:
        return next((entry for entry in self.entries if entry.value == value), None)

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
                schema, entry = schema._with(segment)
            found.append(entry)
        return schema, found

    def _with(self, segment: NamedSegment) -> tuple[LabelSchema, SchemaEntry]:
        """Add a name. A value that so far had only a generic name gets this one."""
        name = plain_label_name(segment.name)
        nameless = self.of_value(segment.value) if segment.value is not None else None
        if nameless is not None and nameless.name == generic_name(nameless.value):
            named = replace(nameless, name=name, former_names=(*nameless.former_names, nameless.name))
            return self._next(named if e is nameless else e for e in self.entries), named
        taken = {entry.value for entry in self.entries}
        value = segment.value
        if value is None or value in taken or not 0 < value <= MAX_VALUE or value == NOT_ANNOTATED:
            value = next(v for v in range(1, MAX_VALUE + 2) if v not in taken and v != NOT_ANNOTATED)
        if value > MAX_VALUE:
            raise InvalidParams(f"A schema holds at most {MAX_VALUE - 1} names; this project has them all.")
        entry = SchemaEntry(self._free_id(name), value, name, color_of(value))
        return self._next((*self.entries, entry)), entry

    def _next(self, entries: Iterable[SchemaEntry]) -> LabelSchema:
        return replace(self, version=self.version + 1, entries=tuple(sorted(entries, key=lambda e: e.value)))

    def _free_id(self, name: str) -> str:
        base = name if _PLAIN_ID.match(name) else _NOT_PLAIN.sub("-", name).strip("-_.+")[:50] or "label"
        taken = {entry.id for entry in self.entries}
        number, chosen = 1, base
        while chosen in taken:
            number += 1
            chosen = f"{base}-{number}"
        return chosen

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
        return replace(self, mode=wanted.mode)._next(entries)

    def to_json(self) -> JsonObject:
        return {
            "version": self.version,
            "mode": self.mode.value,
            "labels": [_entry_to_json(entry) for entry in self.entries],
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
        items = [item for item in listed if isinstance(item, Mapping)]
        schema = cls(version=_whole(document.get("version", 0), "version"), mode=mode)
        given = {_whole(item["value"], "value") for item in items if item.get("value") is not None}
        entries: list[SchemaEntry] = []
        for item in items:
            so_far = replace(schema, entries=tuple(entries))
            entries.append(_entry_from_json(item, so_far, given))
        _check_entries(entries)
        return replace(schema, entries=tuple(sorted(entries, key=lambda entry: entry.value)))


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


def _entry_to_json(entry: SchemaEntry) -> JsonObject:
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


def _entry_from_json(item: Mapping[str, JsonValue], so_far: LabelSchema, given: set[int]) -> SchemaEntry:
    given_name = str(item.get("name") or "").strip()
    name = plain_label_name(given_name)
    if not given_name or len(given_name) > MAX_NAME_LENGTH or name.casefold() == BACKGROUND:
        raise InvalidParams(f"Each label needs a name of 1 to {MAX_NAME_LENGTH} characters; {BACKGROUND!r} is value 0.")
    value = item.get("value")
    taken = given | {entry.value for entry in so_far.entries} | {NOT_ANNOTATED}
    number = next(v for v in range(1, MAX_VALUE + 2) if v not in taken) if value is None else _whole(value, "value")
    color = item.get("color")
    if color is not None and (not isinstance(color, list | tuple) or len(color) != 3):
        raise InvalidParams(f"The colour of {name!r} must be three whole numbers from 0 to 255.")
    parts = [_whole(part, "colour") for part in color] if isinstance(color, list | tuple) else list(color_of(number))
    if any(not 0 <= part <= 255 for part in parts):
        raise InvalidParams(f"The colour of {name!r} must be three whole numbers from 0 to 255.")
    former = item.get("former_names") or ()
    return SchemaEntry(
        id=str(item.get("id") or "") or so_far._free_id(name),
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
        if not _PLAIN_ID.match(entry.id):
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

"""``project.json``: the project's id and its label schema, shared by all processes that have the store open.

Each version of the schema is also kept as ``schemas/<n>.json``, written once and before ``project.json`` names it, so
that a damaged ``project.json`` is made again from the newest of them; if these are gone too, from what the revisions
say about their segments. What a large schema learns is a line in ``schemas/<n>.jsonl``, where n is the version in
``project.json`` (`schema_growth`); of a damaged line, the revisions know what labels use. Writers hold the project's
lock. It may be taken under an image's lock, never the other way.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from labelserver.datastore import audit, revision_files
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import load_object
from labelserver.datastore.schema_growth import SchemaGrowth
from labelserver.domain.errors import Conflict, InvalidParams, InvalidSetting, LabelServerError
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.labels import StoreProblem
from labelserver.domain.schema import LabelSchema, NamedSegment, SchemaEntry, SchemaMode, color_of, generic_name
from labelserver.imaging.formats import has_voxels
from labelserver.storage import atomic
from labelserver.storage.locks import exclusive

FORMAT = 1

_Identity = tuple[int, int, int]  #: inode, size, mtime_ns of project.json
_ABSENT: _Identity = (-1, -1, -1)
_NEVER_READ: _Identity = (-2, -2, -2)


@dataclass(frozen=True, slots=True)
class _Known:
    """The schema as it was read last: ``project.json``, and the lines after it if there may be any."""

    identity: _Identity
    schema: LabelSchema
    growth: SchemaGrowth | None


_NOTHING_KNOWN = _Known(_NEVER_READ, LabelSchema(), None)


class Project:
    """The schema of one store, read again whenever another process has replaced it."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index
        self._file = layout.state / "project.json"
        self._versions = layout.state / "schemas"
        self._lock_file = layout.state / "locks" / "project"
        self._guard = Lock()
        self._known = _NOTHING_KNOWN

    def schema(self) -> LabelSchema:
        """The newest version; the empty one of version 0 if there never was one."""
        identity = _identity(self._file)
        with self._guard:
            known = self._known
        if identity == known.identity and (known.growth is None or not known.growth.is_behind()):
            return known.schema
        if identity == _ABSENT and not self._versions.is_dir() and not self._was_used():
            return self._keep(_Known(identity, LabelSchema(), None))
        try:
            return self._keep(self._read(identity, known))
        except (OSError, ValueError, LabelServerError):
            return self._repair()

    def resolve(self, segments: Sequence[NamedSegment]) -> tuple[LabelSchema, list[SchemaEntry]]:
        """The entries of these segments; an open schema learns what it does not know. Raises `UnknownLabelName`."""
        schema, entries = (before := self.schema()).resolved(segments)
        if schema is before:
            return schema, entries
        self._check_writable()
        with exclusive(self._lock_file):
            if (newest := self.schema()) is not before:
                schema, entries = newest.resolved(segments)
            if schema is not newest:
                self._grow(schema, [e for e in dict.fromkeys(entries) if not newest.has(e)])
        return schema, entries

    def _note_growth(self, before: LabelSchema, after: LabelSchema) -> None:
        """Tell the audit log which names the app taught. What labels teach, their own entries tell."""
        known = {entry.name for entry in before.entries}
        names: list[JsonValue] = [entry.name for entry in after.entries if entry.name not in known]
        with self._index.writing() as connection:
            audit.record(connection, audit.Act("schema", "", detail={"version": after.version, "names": names}))

    def learn(self, names: Sequence[str]) -> None:
        """Let an open schema know these names, such as the app's; a strict or read-only one stays as it is."""
        schema = self.schema()
        if schema.mode is SchemaMode.STRICT or self._layout.labels is None:
            return
        segments = [NamedSegment(name, value=number) for number, name in enumerate(names, start=1)]
        if any(schema.find(segment) is None for segment in segments):
            self._note_growth(schema, self.resolve(segments)[0])

    def replace(self, wanted: LabelSchema, based_on: int | None) -> LabelSchema:
        """Make `wanted` the next version.

        Raises:
            Conflict: `based_on` is not the current version, or stored labels need what `wanted` leaves out.
            InvalidSetting: nothing may be written here.
        """
        self._check_writable()
        with exclusive(self._lock_file):
            before = self.schema()
            if based_on is not None and based_on != before.version:
                raise Conflict(
                    f"The schema is at version {before.version}, and the change is based on {based_on}. Read it again, "
                    "then repeat the change.",
                    version=before.version,
                )
            return self._write(before.succeeded_by(wanted, self._used(before)))

    def _check_writable(self) -> None:
        if self._layout.labels is None:
            raise InvalidSetting("The studies folder is read-only, so its schema cannot change.")

    def _used(self, schema: LabelSchema) -> frozenset[str]:
        """Ids of entries that revisions hold. A revision that does not tell its segments may hold any of them."""
        found: set[str] = set()
        with self._index.reading() as connection:
            for ext, text in connection.execute("SELECT ext, info FROM revisions"):
                segments = load_object(text).get("segments")
                if isinstance(segments, list):
                    found.update(str(s["id"]) for s in segments if isinstance(s, dict) and "id" in s)
                elif has_voxels(ext):
                    return frozenset(entry.id for entry in schema.entries)
        return frozenset(found)

    def _was_used(self) -> bool:
        """Whether any revision was made under a schema."""
        with self._index.reading() as connection:
            return connection.execute("SELECT 1 FROM revisions WHERE schema_version > 0 LIMIT 1").fetchone() is not None

    def _write(self, schema: LabelSchema) -> LabelSchema:
        """The caller holds the project's lock."""
        atomic.write_json(self._versions / f"{schema.version}.json", schema.to_json())
        try:
            document = load_object(self._file.read_bytes())
        except (OSError, ValueError):
            document = {}
        document.setdefault("format", FORMAT)
        document.setdefault("project", str(uuid.uuid4()))
        atomic.write_json(self._file, {**document, "schema": schema.to_json()})
        return self._keep(_Known(_identity(self._file), schema, SchemaGrowth.after(self._versions, schema)))

    def _grow(self, schema: LabelSchema, new: Sequence[SchemaEntry]) -> None:
        """Write the next version, which is the first to know `new`. The caller holds the project's lock."""
        with self._guard:
            known = self._known
        if known.growth is None or known.growth.is_due:
            self._write(schema)
        else:
            self._keep(replace(known, schema=schema, growth=known.growth.append(schema.version, new)))

    def _keep(self, known: _Known) -> LabelSchema:
        with self._guard:
            self._known = known
        return known.schema

    def _read(self, identity: _Identity, known: _Known) -> _Known:
        """What the files say: all of it, or what was learned since `known`. Raises `ValueError` if they are damaged."""
        if identity == known.identity:
            schema, growth = known.schema, known.growth
        else:
            schema = _read_schema(self._file)
            growth = SchemaGrowth.after(self._versions, schema)
        if growth is not None:
            schema, growth, is_all = growth.read_onto(schema)
            if not is_all:
                raise ValueError(f"{growth.path.name} is damaged.")
        return _Known(identity, schema, growth)

    def _repair(self) -> LabelSchema:
        """A file is damaged or gone: set it aside and write the schema again from what is left."""
        if self._layout.labels is None:
            return self._newest_version()[0] or LabelSchema()
        with exclusive(self._lock_file):
            identity = _identity(self._file)
            try:
                return self._keep(self._read(identity, _NOTHING_KNOWN))  # another process was faster
            except (OSError, ValueError, LabelServerError):
                pass
            lost = self._file.exists() or self._was_used()  # else the first write of all was cut off: it is finished
            if self._file.exists() and not _is_readable(self._file):
                atomic.move_file(self._file, self._layout.quarantine / f"{time.time_ns()}-{self._file.name}")
            schema, is_all = self._newest_version()
            if schema is None or not is_all:
                schema = _with_told(schema or LabelSchema(), self._from_revisions())
            if lost:
                self._tell_of_loss(schema)
            return self._write(schema)

    def _tell_of_loss(self, schema: LabelSchema) -> None:
        with self._index.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'state', ?)",
                (
                    self._layout.below_studies(self._file),
                    f"The project's description was damaged or lost; its schema was made again (version "
                    f"{schema.version}, {len(schema.entries)} labels).",
                ),
            )

    def _newest_version(self) -> tuple[LabelSchema | None, bool]:
        """From the files of all versions; False if a line of the newest is damaged."""
        newest, is_all = None, True
        numbered = [p for p in self._versions.glob("*.json") if p.stem.isdigit()] if self._versions.is_dir() else []
        for path in sorted(numbered, key=lambda p: int(p.stem), reverse=True):
            if newest is not None and not path.with_suffix(".jsonl").exists():
                continue
            try:
                schema = LabelSchema.from_json(json.loads(path.read_bytes()))
            except (OSError, ValueError, AttributeError, LabelServerError):
                continue
            growth, whole = SchemaGrowth.after(self._versions, schema), True
            if growth is not None:
                schema, _, whole = growth.read_onto(schema)
            if newest is None or schema.version >= newest.version:  # the same: written whole, but never named
                newest, is_all = schema, whole
        return newest, is_all

    def _from_revisions(self) -> LabelSchema:
        """What revisions say: ids and values for sure, the newest name of each."""
        entries: dict[str, SchemaEntry] = {}
        version = 0
        problems: list[StoreProblem] = []
        stored = sorted(revision_files.read_all(self._layout, problems), key=lambda s: s.revision.created_ts)
        for revision in (s.revision for s in stored):
            version = max(version, revision.schema_version)
            for entry_id, name, value in _told_segments(revision.info):
                entries.pop(entry_id, None)
                if all(other.value != value for other in entries.values()):
                    entries[entry_id] = SchemaEntry(entry_id, value, name, color_of(value))
        return LabelSchema(version + 1, SchemaMode.OPEN, tuple(sorted(entries.values(), key=lambda e: e.value)))


def _told_segments(info: JsonObject) -> Iterator[tuple[str, str, int]]:
    listed = info.get("segments")
    for told in listed if isinstance(listed, list) else ():
        if isinstance(told, dict) and isinstance(told.get("value"), int) and told.get("id") and told.get("name"):
            yield str(told["id"]), str(told["name"]), int(str(told["value"]))


def _with_told(schema: LabelSchema, told: LabelSchema) -> LabelSchema:
    """The next version of `schema`, with what revisions told and it has lost."""
    values, ids = set(schema.values().values()), {entry.id for entry in schema.entries}
    lost = [
        entry if schema.find(NamedSegment(entry.name)) is None else replace(entry, name=generic_name(entry.value))
        for entry in told.entries
        if entry.value not in values and entry.id not in ids
    ]
    return schema.with_entries(lost, max(schema.version + 1, told.version))


def _is_readable(file: Path) -> bool:
    try:
        _read_schema(file)
    except (OSError, ValueError, LabelServerError):
        return False
    return True


def _identity(file: Path) -> _Identity:
    try:
        status = file.stat()
    except FileNotFoundError:
        return _ABSENT
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _read_schema(file: Path) -> LabelSchema:
    document = json.loads(file.read_bytes())
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, dict):
        raise InvalidParams(f"{file.name} holds no schema.")
    return LabelSchema.from_json(schema)

"""``project.json``: the project's id and its label schema, shared by all processes that have the store open.

Each version of the schema is also kept as ``schemas/<n>.json``, written once and before ``project.json`` names it, so
that a damaged ``project.json`` is made again from the newest of them; if these are gone too, from what the revisions
say about their segments. Writers hold the project's lock. It may be taken under an image's lock, never the other way.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

from labelserver.datastore import revision_files
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import load_object
from labelserver.domain.errors import Conflict, InvalidParams, InvalidSetting, LabelServerError
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import StoreProblem
from labelserver.domain.schema import LabelSchema, NamedSegment, SchemaEntry, SchemaMode, color_of
from labelserver.imaging.formats import has_voxels
from labelserver.storage import atomic
from labelserver.storage.locks import exclusive

FORMAT = 1

_Identity = tuple[int, int, int]  #: inode, size, mtime_ns of project.json
_ABSENT: _Identity = (-1, -1, -1)
_NEVER_READ: _Identity = (-2, -2, -2)


class Project:
    """The schema of one store, read again whenever another process has replaced it."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index
        self._file = layout.state / "project.json"
        self._versions = layout.state / "schemas"
        self._lock_file = layout.state / "locks" / "project"
        self._guard = Lock()
        self._known: tuple[_Identity, LabelSchema] = (_NEVER_READ, LabelSchema())

    def schema(self) -> LabelSchema:
        """The newest version; the empty one of version 0 if there never was one."""
        identity = _identity(self._file)
        with self._guard:
            if identity == self._known[0]:
                return self._known[1]
        if identity == _ABSENT and not self._versions.is_dir() and not self._was_used():
            return self._keep(identity, LabelSchema())
        try:
            return self._keep(identity, _read_schema(self._file))
        except (OSError, ValueError, LabelServerError):
            return self._repair()

    def resolve(self, segments: Sequence[NamedSegment]) -> tuple[LabelSchema, list[SchemaEntry]]:
        """The entries of these segments; an open schema learns what it does not know. Raises `UnknownLabelName`."""
        schema, entries = (before := self.schema()).resolved(segments)
        if schema is before:
            return schema, entries
        self._check_writable()
        with exclusive(self._lock_file):
            schema, entries = (before := self.schema()).resolved(segments)
            if schema is not before:
                schema = self._write(replace(schema, version=before.version + 1))
        return schema, entries

    def learn(self, names: Sequence[str]) -> None:
        """Let an open schema know these names, such as the app's; a strict or read-only one stays as it is."""
        schema = self.schema()
        if schema.mode is SchemaMode.STRICT or self._layout.labels is None:
            return
        segments = [NamedSegment(name, value=number) for number, name in enumerate(names, start=1)]
        if any(schema.find(segment) is None for segment in segments):
            self.resolve(segments)

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
        return self._keep(_identity(self._file), schema)

    def _keep(self, identity: _Identity, schema: LabelSchema) -> LabelSchema:
        with self._guard:
            self._known = (identity, schema)
        return schema

    def _repair(self) -> LabelSchema:
        """``project.json`` is damaged or gone: set it aside and write it again from what is left."""
        if self._layout.labels is None:
            return self._newest_version() or LabelSchema()
        with exclusive(self._lock_file):
            try:
                return self._keep(_identity(self._file), _read_schema(self._file))  # another process was faster
            except (OSError, ValueError, LabelServerError):
                pass
            if self._file.exists():
                atomic.move_file(self._file, self._layout.quarantine / f"{time.time_ns()}-{self._file.name}")
            schema = self._newest_version() or self._from_revisions()
            with self._index.writing() as connection:
                connection.execute(
                    "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'state', ?)",
                    (
                        self._layout.below_studies(self._file),
                        f"The project's description was damaged or lost; its schema was made again (version "
                        f"{schema.version}, {len(schema.entries)} labels).",
                    ),
                )
            return self._write(schema)

    def _newest_version(self) -> LabelSchema | None:
        if not self._versions.is_dir():
            return None
        numbered = [p for p in self._versions.glob("*.json") if p.stem.isdigit()]
        for path in sorted(numbered, key=lambda p: int(p.stem), reverse=True):
            try:
                return LabelSchema.from_json(json.loads(path.read_bytes()))
            except (OSError, ValueError, AttributeError, LabelServerError):
                continue
        return None

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

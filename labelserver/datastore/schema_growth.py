"""What a large schema learned since it was written whole: ``schemas/<n>.jsonl``, a line for each version after n.

A schema of thousands of labels takes longer to write than a label, so a name that it learns costs a line; once as many
names were added as it had, it is written whole again, which makes a name cheap at any size. A small schema has no such
file. Writers hold the project's lock. A line that a crash cut off was promised to nobody: the next writer cuts it away.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labelserver.domain.errors import LabelServerError
from labelserver.domain.json_types import JsonObject
from labelserver.domain.schema import LabelSchema, SchemaEntry, entries_from_json, entry_to_json
from labelserver.storage.append import write_line_at

#: labels; to write fewer whole takes no longer than the disk takes to sync (1 ms for 250)
_SMALL = 250


@dataclass(frozen=True, slots=True)
class SchemaGrowth:
    """The lines after one whole schema, as far as they were read."""

    path: Path
    whole: int  #: labels of the schema that was written whole
    offset: int = 0  #: bytes read; the end of a line
    added: int = 0  #: labels in the lines read

    @classmethod
    def after(cls, folder: Path, schema: LabelSchema) -> SchemaGrowth | None:
        """The lines, none of them read, after a schema that was written whole; None if it is small."""
        count = len(schema.entries)
        return cls(folder / f"{schema.version}.jsonl", count) if count > _SMALL else None

    @property
    def is_due(self) -> bool:
        """Whether the next version should be written whole."""
        return self.added >= self.whole

    def is_behind(self) -> bool:
        """Whether the file is not as it was read."""
        try:
            return self.path.stat().st_size != self.offset
        except FileNotFoundError:
            return self.offset > 0

    def append(self, version: int, entries: Sequence[SchemaEntry]) -> SchemaGrowth:
        """Write what the newest version is the first to know. Raises `DiskFull`."""
        line: JsonObject = {"version": version, "labels": [entry_to_json(entry) for entry in entries]}
        end = write_line_at(self.path, self.offset, line)
        return replace(self, offset=end, added=self.added + len(entries))

    def read_onto(self, schema: LabelSchema) -> tuple[LabelSchema, SchemaGrowth, bool]:
        """Follow the lines that were not read yet.

        Returns:
            The newest schema that can be read, how far that is, and whether it is all: False if a line is damaged.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return schema, self, self.offset == 0
        end = data.rfind(b"\n") + 1
        offset, added, changed = self.offset, self.added, dict[str, SchemaEntry]()
        version = schema.version
        for line in data[offset:end].splitlines(keepends=True):
            entries = _entries_of(line, version + 1)
            if entries is None:
                break
            version += 1
            changed.update((entry.id, entry) for entry in entries)
            offset, added = offset + len(line), added + len(entries)
        if changed:
            schema = schema.with_entries(list(changed.values()), version)
        return schema, replace(self, offset=offset, added=added), offset == end


def _entries_of(line: bytes, version: int) -> list[SchemaEntry] | None:
    """The labels in the line of this version; None if the line is damaged."""
    try:
        document = json.loads(line)
        return entries_from_json(document["labels"]) if document["version"] == version else None
    except (ValueError, KeyError, TypeError, AttributeError, LabelServerError):
        return None

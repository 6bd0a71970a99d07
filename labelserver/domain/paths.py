"""Paths that cross a process: always relative to a root, so that another machine may mount the roots elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from labelserver.domain.errors import InvalidId
from labelserver.domain.json_types import JsonObject, JsonValue


class Root(StrEnum):
    """The folders a server works in. `STATE` is ``STUDIES/.labelserver`` unless the studies are read-only."""

    APP = "app"
    STUDIES = "studies"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class RootedPath:
    """A path below a root, with "/" as separator."""

    root: Root
    path: str

    def to_json(self) -> JsonObject:
        return {"root": self.root.value, "path": self.path}

    @classmethod
    def from_json(cls, document: JsonValue) -> RootedPath:
        if not isinstance(document, dict):
            raise InvalidId("A path in a frame is an object with root and path.")
        return cls(Root(str(document["root"])), str(document["path"]))


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the roots are on this machine (absolute)."""

    app: Path
    studies: Path
    state: Path

    def of(self, root: Root) -> Path:
        return {Root.APP: self.app, Root.STUDIES: self.studies, Root.STATE: self.state}[root]

    def resolve(self, rooted: RootedPath) -> Path:
        """The absolute path. Raises `InvalidId` if it would leave its root."""
        base = self.of(rooted.root)
        if rooted.path.startswith("/") or ".." in rooted.path.split("/") or "\\" in rooted.path:
            raise InvalidId(f"The path {rooted.path!r} leaves the {rooted.root.value} folder.")
        return base / rooted.path

    def relative(self, path: Path, root: Root) -> RootedPath:
        """The inverse of `resolve`. Raises `InvalidId` if `path` is not below `root`."""
        try:
            return RootedPath(root, path.absolute().relative_to(self.of(root)).as_posix())
        except ValueError as error:
            raise InvalidId(f"The path {path.name!r} is not below the {root.value} folder.") from error

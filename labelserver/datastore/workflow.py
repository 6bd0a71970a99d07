"""``workflows/<n>.json``: the project's rules of work, each version a file that is written once.

The newest that can be read is in force, so that neither a damaged file nor a lost index changes more than the last
change. Writers hold the project's lock.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from threading import Lock

from labelserver.datastore import audit
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.domain.errors import Conflict, InvalidParams, InvalidSetting
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.work import Group, Member, Workflow
from labelserver.storage import atomic
from labelserver.storage.locks import exclusive

logger = logging.getLogger(__name__)


class Workflows:
    """The rules of one store, read again whenever another process has changed them."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index
        self._folder = layout.state / "workflows"
        self._guard = Lock()
        self._known: tuple[str, Workflow] = ("", Workflow())

    def current(self) -> Workflow:
        """The rules in force; those of `Workflow` itself if nobody ever set any."""
        files = self._files()
        if not files:
            return Workflow()
        with self._guard:
            if self._known[0] == files[0].name:
                return self._known[1]
        found = self._newest()
        with self._guard:
            self._known = (files[0].name, found)
        return found

    def replace(self, wanted: Workflow, *, based_on: int | None, person: str) -> Workflow:
        """Make `wanted` the next version.

        Raises:
            Conflict: `based_on` is not the current version.
            InvalidSetting: nothing may be written here.
        """
        if self._layout.labels is None:
            raise InvalidSetting("The studies folder is read-only, so its rules of work cannot change.")
        with exclusive(self._layout.state / "locks" / "project"):
            version = max((int(p.stem) for p in self._files()), default=0)
            if based_on is not None and based_on != self._newest().version:
                raise Conflict(
                    f"The rules of work are at version {version}, and the change is based on {based_on}. Read them "
                    "again, then repeat the change.",
                    version=version,
                )
            made = replace(wanted, version=version + 1)
            atomic.write_json(self._folder / f"{made.version}.json", to_json(made))
            with self._index.writing() as connection:
                audit.record(connection, audit.Act("workflow", person, detail={"version": made.version}))
        return made

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted((p for p in self._folder.glob("*.json") if p.stem.isdigit()), key=lambda p: -int(p.stem))

    def _newest(self) -> Workflow:
        for path in self._files():
            try:
                return from_json(json.loads(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidParams):
                logger.warning("this version of the rules of work cannot be read", extra={"file": path.name})
        return Workflow()


def to_json(workflow: Workflow) -> JsonObject:
    """As kept; `from_json` is its inverse."""
    members: list[JsonValue] = [
        {"person": m.person, "roles": [*sorted(m.roles)], "groups": [*sorted(m.groups)]} for m in workflow.members
    ]
    groups: list[JsonValue] = [
        {"name": g.name, "images": [*g.images], "labels": [*g.labels], "roles": [*sorted(g.roles)]}
        for g in workflow.groups
    ]
    return {
        "version": workflow.version,
        "overlap_share": workflow.overlap_share,
        "overlap_readers": workflow.overlap_readers,
        "lease_s": workflow.lease_s,
        "quiet_lease_s": workflow.quiet_lease_s,
        "approved_only": workflow.approved_only,
        "self_review": workflow.self_review,
        "strategy": workflow.strategy,
        "members": members,
        "groups": groups,
    }


def from_json(document: JsonObject) -> Workflow:
    """Raises KeyError, TypeError or `InvalidParams` on another document."""
    members = tuple(
        Member(str(m["person"]), frozenset(_texts(m["roles"])), frozenset(_texts(m["groups"])))
        for m in _objects(document["members"])
    )
    groups = tuple(
        Group(str(g["name"]), tuple(_texts(g["images"])), tuple(_texts(g["labels"])), frozenset(_texts(g["roles"])))
        for g in _objects(document["groups"])
    )
    return Workflow(
        overlap_share=float(str(document["overlap_share"])),
        overlap_readers=int(str(document["overlap_readers"])),
        lease_s=float(str(document["lease_s"])),
        quiet_lease_s=float(str(document["quiet_lease_s"])),
        approved_only=bool(document["approved_only"]),
        self_review=bool(document["self_review"]),
        strategy=str(document["strategy"]),
        members=members,
        groups=groups,
        version=int(str(document["version"])),
    )


def _objects(value: JsonValue) -> list[JsonObject]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TypeError("not a list of objects")
    return [item for item in value if isinstance(item, dict)]


def _texts(value: JsonValue) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return [str(item) for item in value]

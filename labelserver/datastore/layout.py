"""Where things lie on disk: the one place that joins ids, tags and numbers to paths (DESIGN, "On disk")."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

from labelserver.domain.errors import InvalidSetting, StoredDataInvalid
from labelserver.domain.ids import ImageId, Tag, folder_key
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import Revision
from labelserver.storage import atomic
from labelserver.storage.locks import exclusive
from labelserver.storage.mounts import is_network_folder

LAYOUT_VERSION = 1

#: bytes of one path part on common file systems
MAX_PART_BYTES = 255

#: Lock files; images share them by hash, so that a store of any size has at most so many.
_STRIPES = 64

#: In the state folder: the project's key and share of held-out images (`split_rule`).
SPLIT_FILE = "split.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of one store. `labels` is None where nothing may be written: a read-only store without a state folder."""

    studies: Path
    images: Path
    state: Path
    labels: Path | None
    given_labels: Path  #: where labels lay before us; the same as `labels` unless the studies are read-only
    config_file: Path  #: the peer's index
    index_file: Path

    @property
    def revisions(self) -> Path:
        return self.state / "revisions"

    @property
    def spool(self) -> Path:
        return self.state / "spool"

    @property
    def quarantine(self) -> Path:
        return self.state / "quarantine"

    @property
    def backups(self) -> Path:
        return self.state / "backup"

    def image_lock(self, image_id: str) -> Path:
        """The lock file that orders all changes of this image's labels, among processes."""
        stripe = hashlib.sha256(image_id.encode()).digest()[0] % _STRIPES
        return self.state / "locks" / f"images-{stripe:02d}"

    @property
    def scores_file(self) -> Path:
        """What was found out about images, beside the index."""
        return self.index_file.with_name("scores.sqlite")

    @property
    def index_lock(self) -> Path:
        return self.state / "locks" / "index"

    @property
    def watch_lock(self) -> Path:
        """Held by the server that watches the folder: the index is in step, and nobody else needs to look."""
        return self.state / "locks" / "watching"

    @property
    def split_file(self) -> Path:
        """The project's split key and share."""
        return self.state / SPLIT_FILE

    @property
    def sides_file(self) -> Path:
        """A line for each image whose side was fixed."""
        return self.state / "sides.jsonl"

    @property
    def audit_file(self) -> Path:
        return self.state / "audit.jsonl"

    @property
    def audit_lock(self) -> Path:
        return self.state / "locks" / "audit"

    def revisions_of(self, image_id: str, tag: str) -> Path:
        """As `revision_folder`, for ids that come from the index."""
        return self.revisions / folder_key(image_id) / tag

    def revision_folder(self, image_id: ImageId, tag: Tag) -> Path:
        return self.revisions / folder_key(image_id) / tag

    def revision_file(self, image_id: ImageId, tag: Tag, number: int, ext: str) -> Path:
        return self.revision_folder(image_id, tag) / revision_name(number, ext)

    def file_of(self, revision: Revision) -> Path:
        """The stored bytes of a revision."""
        return self.revision_file(revision.image_id, revision.tag, revision.number, revision.ext)

    def tag_folder(self, tag: Tag) -> Path:
        """``labels/<tag>``. Raises `InvalidSetting` where nothing may be written."""
        if self.labels is None:
            raise InvalidSetting(
                "The studies folder is read-only, so labels need another place: set LABELSERVER_LABELS_DIR."
            )
        return self.labels / tag

    def cache_folder(self, image_id: str) -> Path:
        return self.state / "cache" / "dicom" / folder_key(image_id)

    def trash_folder(self, image_id: str) -> Path:
        return self.state / "trash" / folder_key(image_id)

    def exported_region(self, tag: str, image_id: str) -> Path:
        """Where an export has the mask of a partly annotated label."""
        return self.studies / exported_region_name(tag, image_id)

    def to_json(self) -> JsonObject:
        """For another process of the same server."""
        places = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: None if place is None else str(place) for name, place in places.items()}

    @classmethod
    def from_json(cls, document: JsonObject) -> Layout:
        """Raises TypeError on another document."""
        return cls(**{name: None if place is None else Path(str(place)) for name, place in document.items()})  # type: ignore[arg-type]

    def is_behind_link(self, file: Path) -> bool:
        """Whether a folder between the studies and `file` is a link, so that the file is kept by somebody elsewhere."""
        below = file.relative_to(self.images).parents
        return any((self.images / folder).is_symlink() for folder in below if folder.parts)

    def below_studies(self, path: Path) -> str:
        """For people: the path below STUDIES, or its name if it lies elsewhere."""
        try:
            return path.relative_to(self.studies).as_posix()
        except ValueError:
            return path.name


def revision_name(number: int, ext: str) -> str:
    """``<n>.<ext>``; a label that is JSON itself makes way for its own description ``<n>.json``."""
    return f"{number}.label{ext}" if ext.lower() == ".json" else f"{number}{ext}"


#: Extension of the mask of a partly annotated label.
REGION_EXTENSION = ".annotated"


def region_name(number: int) -> str:
    """The file that says which voxels a revision annotated, where that takes a mask."""
    return f"{number}{REGION_EXTENSION}"


def exported_region_name(tag: str, image_id: str) -> str:
    """Below the folder of an export."""
    return f"annotated/{tag}/{image_id}{REGION_EXTENSION}"


def label_name(image_id: str, ext: str) -> str:
    """A label's path below ``labels/<tag>/``: the id with its folders, or its key if a part would be too long."""
    if all(len(part.encode()) <= MAX_PART_BYTES for part in f"{image_id}{ext}".split("/")):
        return f"{image_id}{ext}"
    return f"{folder_key(image_id)}{ext}"


def locate(
    studies: Path,
    images_dir: str,
    labels_dir: str,
    config_file: str,
    state_dir: Path | None,
    index_dir: Path | None,
    *,
    read_only: bool,
) -> Layout:
    """The layout of a store (arguments: see `LocalDatastore`).

    With a state folder outside of the studies and `read_only`, labels lie beside it. Read-only studies without such a
    folder get a private one in the system's temporary folder for the index, and take no labels.
    """
    given_labels = studies / labels_dir
    state = (state_dir or studies / ".labelserver").absolute()
    labels: Path | None = given_labels
    if read_only and not state.is_relative_to(studies):
        labels = (state.parent if state.name == ".labelserver" else state) / labels_dir
    elif read_only:
        digest = hashlib.sha256(str(studies).encode()).hexdigest()[:16]
        state = Path(tempfile.gettempdir()) / f"labelserver-{os.getuid()}" / digest
        labels = None
    return Layout(
        studies=studies,
        images=(studies / images_dir).resolve() if images_dir not in ("", ".") else studies,
        state=state,
        labels=labels,
        given_labels=given_labels,
        config_file=studies / config_file,
        index_file=(index_dir.absolute() if index_dir else state) / "index.sqlite",
    )


#: ``UPGRADES[n]`` leads the state folder from layout n to n + 1; it runs again if it was cut off.
UPGRADES: dict[int, Callable[[Layout], None]] = {}


def index_problem(layout: Layout) -> str:
    """A sentence if SQLite's locks may not hold where the index lies; else ""."""
    if not is_network_folder(layout.index_file.parent):
        return ""
    return (
        "The index lies on a network folder, where it may be damaged. Set LABELSERVER_INDEX_DIR to a folder on this "
        "machine's disk; it is made again there."
    )


def check_format(layout: Layout) -> str:
    """Write ``format.json`` on the first day, upgrade an older layout; a damaged file is set aside.

    Before an upgrade the small files of the state folder are copied to ``backup/before-format-<n>/`` and the index
    beside them; revisions and images are never rewritten by one.

    Returns:
        What was wrong, as a sentence; "" if nothing was.

    Raises:
        StoredDataInvalid: the state folder was made by a newer version.
    """
    problem = ""
    path = layout.state / "format.json"
    try:
        known = int(json.loads(path.read_bytes())["layout"])
    except FileNotFoundError:
        known = 0
    except (OSError, ValueError, TypeError, KeyError):
        layout.quarantine.mkdir(parents=True, exist_ok=True)
        path.replace(layout.quarantine / f"{time.time_ns()}-format.json")
        known = 0
        problem = "This file was damaged; it was set aside and written again."
    if known > LAYOUT_VERSION:
        raise StoredDataInvalid(
            f"The studies folder has layout {known}; this version of labelserver knows {LAYOUT_VERSION}. "
            "Install the newer version again."
        )
    if 0 < known < LAYOUT_VERSION:
        with exclusive(layout.state / "locks" / "format"):
            _upgrade(layout, path)
    elif known == 0:
        atomic.write_json(path, {"layout": LAYOUT_VERSION})
    return problem


def _upgrade(layout: Layout, path: Path) -> None:
    """Called alone among processes; another one may have been faster."""
    known = int(json.loads(path.read_bytes())["layout"])
    if known >= LAYOUT_VERSION:
        return
    kept = layout.backups / f"before-format-{LAYOUT_VERSION}"
    with atomic.storage_errors("the backup before an upgrade"):
        kept.mkdir(parents=True, exist_ok=True)
        for file in sorted(p for p in layout.state.iterdir() if p.is_file() and p.suffix in (".json", ".jsonl")):
            atomic.copy_file(file, kept / file.name)
    if layout.index_file.is_file():
        with (
            closing(sqlite3.connect(layout.index_file)) as index,
            closing(sqlite3.connect(kept / "index.sqlite")) as to,
        ):
            index.backup(to)
    for step in range(known, LAYOUT_VERSION):
        UPGRADES[step](layout)
        atomic.write_json(path, {"layout": step + 1})

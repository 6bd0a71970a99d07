"""A snapshot says exactly which labels a data set holds, and its hash names it.

The hash covers image ids, tags, the SHA-256 of each label's file, what was annotated of it and the label schema. It
does not cover revision numbers, which each store counts on its own: a snapshot that is imported elsewhere and taken
again has the same hash.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import LabelNotFound, UnreadableFile
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.schema import LabelSchema

FILE = "snapshot.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class SnapshotLabel:
    """A label of a snapshot; `number` is the revision in the store it came from."""

    image_id: str
    tag: str
    number: int
    ext: str
    sha256: str
    annotated: JsonObject = field(default_factory=dict)  #: `Annotation.to_json`; {}: everything


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Labels in the order of image id and tag, under the schema they were made with."""

    labels: tuple[SnapshotLabel, ...]
    schema: JsonObject

    @property
    def hash(self) -> str:
        """64 hex digits that name the content."""
        content = [[x.image_id, x.tag, x.ext, x.sha256, *([x.annotated] if x.annotated else [])] for x in self.labels]
        text = json.dumps({"labels": content, "schema": self.schema}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> JsonObject:
        """``snapshot.json``."""
        return {
            "format": FORMAT,
            "hash": self.hash,
            "made_ts": int(time.time()),
            "schema": self.schema,
            "labels": [
                {
                    "image": x.image_id,
                    "tag": x.tag,
                    "revision": x.number,
                    "ext": x.ext,
                    "sha256": x.sha256,
                    **({"annotated": x.annotated} if x.annotated else {}),
                }
                for x in self.labels
            ],
        }


def take(
    store: LocalDatastore, tags: tuple[str, ...] = (), without: Container[tuple[str, str]] = frozenset()
) -> Snapshot:
    """The current labels of a store (of these tags; empty: all), without those of some (image id, tag)."""
    labels = []
    for image_id in store.list_images():
        for tag in store.get_labels_by_image_id(image_id):
            if (tags and tag not in tags) or (image_id, tag) in without:
                continue
            try:
                current = store.current_revision(ImageId(image_id), Tag(tag))
            except LabelNotFound:  # removed meanwhile
                continue
            told = current.annotation
            annotated = {} if told.is_complete else told.to_json()
            labels.append(SnapshotLabel(image_id, tag, current.number, current.ext, current.sha256, annotated))
    return Snapshot(tuple(sorted(labels, key=lambda x: (x.image_id, x.tag))), _schema_of(store))


def read(folder: Path) -> Snapshot | None:
    """The snapshot that `folder` is; None if it is none.

    Raises:
        UnreadableFile: the list was edited: it no longer has the hash that it tells.
    """
    try:
        document = json.loads((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{FILE} cannot be read: {error}.") from error
    try:
        labels = tuple(
            SnapshotLabel(
                str(x["image"]),
                str(x["tag"]),
                int(x["revision"]),
                str(x["ext"]),
                str(x["sha256"]),
                dict(x.get("annotated", {})),
            )
            for x in document["labels"]
        )
        snapshot, told = Snapshot(labels, dict(document["schema"])), document["hash"]
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableFile(f"{FILE} is damaged: {error}.") from error
    if snapshot.hash != told:
        raise UnreadableFile(f"{FILE} was edited: its labels have the hash {snapshot.hash}, it tells {told}.")
    return snapshot


def adopt_schema(store: LocalDatastore, snapshot: Snapshot, person: str) -> str:
    """Give a store without a schema the snapshot's. Returns a sentence if it keeps another one; else ""."""
    if not snapshot.schema:
        return ""
    if not store.schema().entries:
        store.set_schema(LabelSchema.from_json(snapshot.schema), person=person)
    if _schema_of(store) == snapshot.schema:
        return ""
    return "The store's label schema is not the snapshot's; names are brought together, and the hash will differ."


def _schema_of(store: LocalDatastore) -> JsonObject:
    """What the voxel values mean in this project, without the version, which each store counts on its own; {}: none."""
    schema = store.schema()
    return {k: v for k, v in schema.to_json().items() if k != "version"} if schema.entries else {}

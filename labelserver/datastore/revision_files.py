"""Revisions on disk: ``revisions/<key>/<tag>/<n>.<ext>`` and ``<n>.json``, append-only, readable without the index.

The JSON file is written last and is the seal of a revision; a file without it was never promised to anybody.
``<n>.annotated`` is the mask of the part that was annotated, where no few numbers tell it (`annotating.py`).
``<n>.removed`` says that the label was removed when revision n was the newest. Readers skip what they cannot read and
say so, because one damaged file must not hide the others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labelserver.datastore.layout import Layout, region_name, revision_name
from labelserver.datastore.plain_json import plain_object
from labelserver.domain.errors import InvalidId, StoredDataInvalid
from labelserver.domain.ids import ImageId, Tag, parse_image_id, parse_tag
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.labels import ImageKind, ImageRecord, LabelSource, Provenance, Revision, StoreProblem
from labelserver.storage import atomic
from labelserver.storage.atomic import Taken

FORMAT = 1


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """A revision as its JSON tells it, with the place of its image, so that ids can be rebuilt too."""

    revision: Revision
    image: ImageRecord
    series: str
    removed: bool  #: the label was removed while this revision was the newest


def next_number(folder: Path, known: int) -> int:
    """The first free number after `known`: a crash may have left files that no row names."""
    number = known + 1
    while (folder / f"{number}.json").exists():
        number += 1
    return number


#: One encoder: `json.dumps` makes a new one for each value.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def document_of(revision: Revision, image: ImageRecord, series: str) -> bytes:
    """The bytes of ``<n>.json``."""
    made_by = revision.provenance
    document: JsonObject = {
        "format": FORMAT,
        "image": {"id": image.image_id, "path": image.path, "series": series, "kind": image.kind, "ext": image.ext},
        "tag": revision.tag,
        "number": revision.number,
        "ext": revision.ext,
        "sha256": revision.sha256,
        "size_bytes": revision.size_bytes,
        "parent": revision.parent,
        "created_ts": revision.created_ts,
        "person": made_by.person,
        "client": made_by.client,
        "source": made_by.source.value,
        "model": made_by.model,
        "model_version": made_by.model_version,
        "schema_version": revision.schema_version,
        "info": revision.info,
    }
    lines = [f' "{key}": {_text(value)}' for key, value in document.items()]
    return ("{\n" + ",\n".join(lines) + "\n}").encode()


def _text(value: JsonValue) -> str:
    """On one line; `json` writes indented text ten times slower."""
    return _encode(value)


def write(
    layout: Layout,
    revision: Revision,
    image: ImageRecord,
    series: str,
    file: bytes | Path | Taken,
    mask: bytes | None = None,
) -> bytes:
    """Store `file`, or its bytes, as this revision, with the file of its annotated region if it has one; synced.

    Returns:
        The bytes of ``<n>.json``.
    """
    document = document_of(revision, image, series)
    atomic.place_together(
        layout.revision_folder(revision.image_id, revision.tag),
        [
            *([] if mask is None else [(region_name(revision.number), mask)]),
            (revision_name(revision.number, revision.ext), file),
            (f"{revision.number}.json", document),
        ],
    )
    return document


def write_unsynced(layout: Layout, revision: Revision, image: ImageRecord, series: str, file: Path) -> None:
    """As `write`, for many at once: the caller syncs before it commits."""
    folder = layout.revision_folder(revision.image_id, revision.tag)
    for name, content in (
        (revision_name(revision.number, revision.ext), file),
        (f"{revision.number}.json", document_of(revision, image, series)),
    ):
        atomic.copy_beside(content, folder / name).replace(folder / name)


def discard(layout: Layout, revision: Revision) -> None:
    """Take back a revision whose commit failed; its number was never shown to anybody."""
    folder = layout.revision_folder(revision.image_id, revision.tag)
    (folder / f"{revision.number}.json").unlink(missing_ok=True)
    (folder / revision_name(revision.number, revision.ext)).unlink(missing_ok=True)
    (folder / region_name(revision.number)).unlink(missing_ok=True)


def mark_removed(layout: Layout, image_id: ImageId, tag: Tag, number: int) -> None:
    """Note beside the revisions that the label was removed."""
    folder = layout.revision_folder(image_id, tag)
    atomic.write_json(folder / f"{number}.removed", {"removed_ts": time.time()})


def unmark_removed(layout: Layout, image_id: ImageId, tag: Tag, number: int) -> None:
    """The label is back with the same revision."""
    (layout.revision_folder(image_id, tag) / f"{number}.removed").unlink(missing_ok=True)


def read_all(layout: Layout, problems: list[StoreProblem]) -> Iterator[StoredRevision]:
    """All revisions of the store in any order; damaged ones are added to `problems` and left where they are."""
    if not layout.revisions.is_dir():
        return
    for key in sorted(layout.revisions.iterdir()):
        for tag_folder in sorted(key.iterdir()) if key.is_dir() else ():
            if not tag_folder.is_dir():
                continue
            names = {p.name for p in tag_folder.iterdir()}
            for name in sorted(n for n in names if n.endswith(".json") and n[:-5].isdigit()):
                try:
                    yield _read(tag_folder / name, names)
                except StoredDataInvalid as error:
                    problems.append(StoreProblem(layout.below_studies(tag_folder / name), error.message))


def _read(path: Path, names: set[str]) -> StoredRevision:
    try:
        document = json.loads(path.read_bytes())
        place = document["image"]
        image_id, tag = parse_image_id(place["id"]), parse_tag(document["tag"])
        parent = document["parent"]
        revision = Revision(
            image_id=image_id,
            tag=tag,
            number=int(document["number"]),
            ext=str(document["ext"]),
            sha256=str(document["sha256"]),
            size_bytes=int(document["size_bytes"]),
            parent=None if parent is None else int(parent),
            created_ts=float(document["created_ts"]),
            provenance=Provenance(
                person=str(document["person"]),
                client=str(document["client"]),
                source=LabelSource(document["source"]),
                model=str(document["model"]),
                model_version=str(document["model_version"]),
            ),
            schema_version=int(document["schema_version"]),
            info=plain_object(document["info"]),
        )
        image = ImageRecord(image_id, ImageKind(place["kind"]), str(place["ext"]), str(place["path"]))
        series = str(place["series"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidId) as error:
        raise StoredDataInvalid("This description of a label revision is damaged; the revision is not used.") from error
    data = path.with_name(revision_name(revision.number, revision.ext))
    if data.name not in names or data.stat().st_size != revision.size_bytes:
        raise StoredDataInvalid("The voxels of this label revision are missing or cut short; it is not used.")
    return StoredRevision(revision, image, series, f"{revision.number}.removed" in names)

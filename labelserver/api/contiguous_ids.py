"""Labels as old clients can read them: voxel values and infos with the ids 1..N of the schema's entries (R-12).

Storage keeps the schema's values, which may have gaps and any order; three old viewers decode voxels by position. Where
both are the same, as in a project that grew from its app's labels, files go out as they are stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path

from labelserver.datastore.label_values import present_values, with_changes
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.labels import Revision
from labelserver.domain.schema import BACKGROUND, LabelSchema, NamedSegment
from labelserver.imaging.formats import has_voxels
from labelserver.imaging.volumes import read_volume, write_volume

#: They name their values themselves, or cannot be written exactly.
_AS_STORED = (".seg.nrrd", ".jpg", ".jpeg")


def contiguous_copy(revision: Revision, file: Path, schema: LabelSchema, spool: Path) -> Path | None:
    """A copy of a label with contiguous ids, which the caller deletes; None if the stored file is right as it is."""
    if schema.is_contiguous or not has_voxels(revision.ext) or revision.ext.lower() in _AS_STORED:
        return None
    volume = read_volume(file)
    present = present_values(volume.voxels)
    changes = {value: number for value, number in schema.contiguous().items() if value in present and value != number}
    if not changes:
        return None
    spool.mkdir(parents=True, exist_ok=True)
    target = spool / f"contiguous-{uuid.uuid4().hex}{revision.ext}"
    write_volume(target, with_changes(volume.voxels, changes, present), volume.grid.affine, compress=True)
    return target


def contiguous_info(info: JsonObject, schema: LabelSchema) -> JsonObject:
    """A label's info whose ``label_info`` and ``label_names`` agree with the voxels that old routes send."""
    if schema.is_contiguous and "mapping" not in info:
        return info
    shown = dict(info)
    listed = info.get("label_info")
    if isinstance(listed, list):
        shown["label_info"] = _renumbered(listed, schema)
    names: JsonObject = {entry.name: number for number, entry in enumerate(schema.entries, start=1)}
    if "label_names" in info:
        shown["label_names"] = names
    params = info.get("params")
    if isinstance(params, Mapping) and "label_names" in params:
        shown["params"] = {**params, "label_names": names}
    return shown


def contiguous_index(document: JsonObject, schema: LabelSchema) -> JsonObject:
    """`contiguous_info` for every label of ``GET /datastore/?output=all``."""
    objects = document.get("objects")
    for found in objects.values() if isinstance(objects, Mapping) else ():
        labels = found.get("labels") if isinstance(found, Mapping) else None
        for label in labels.values() if isinstance(labels, Mapping) else ():
            if isinstance(label, dict) and isinstance(label.get("info"), dict):
                label["info"] = contiguous_info(label["info"], schema)
    return document


def _renumbered(listed: list[JsonValue], schema: LabelSchema) -> list[JsonValue]:
    """The entries in their order, with the contiguous id as ``idx``; those that are none of the schema as they are."""
    numbers = schema.contiguous()
    shown: list[JsonValue] = []
    for told in listed:
        name = str(told.get("name") or "").strip() if isinstance(told, Mapping) else ""
        entry = schema.find(NamedSegment(name)) if name and name.casefold() != BACKGROUND else None
        if entry is not None and isinstance(told, Mapping):
            shown.append({**told, "idx": numbers[entry.value]})
        else:
            shown.append(told)
    return shown

"""Does the audit chain hold, and are the revisions the ones it tells of? Finds any edited line and any changed file.

A chain that somebody wrote anew from the first edited line to the end fits itself. So `check` answers the newest hash:
noted elsewhere and given as `known_head` at the next check, it must still be in the chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from labelserver.datastore import audit
from labelserver.datastore.audit import BEGINNING, BLANKED, Entry
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout, region_name, revision_name
from labelserver.datastore.revision_walk import walk_revisions
from labelserver.domain.annotation import MaskFile, annotation_of
from labelserver.domain.errors import Refused
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.labels import StoreProblem
from labelserver.imaging.packed_mask import unpacked
from labelserver.storage.append import read_json_lines
from labelserver.storage.checksums import sha256_of


@dataclass(slots=True)
class Checked:
    """What was looked at; `findings` is empty if all is well."""

    entries: int = 0
    revisions: int = 0
    head: str = BEGINNING
    findings: list[StoreProblem] = field(default_factory=list)


def check(layout: Layout, index: Index, known_head: str = "") -> Checked:
    """Follow the chain, compare ``audit.jsonl`` with it, and hash every revision. Reads all labels ever saved."""
    checked = Checked()
    seen = _check_chain(layout, index, checked)
    if known_head and known_head not in seen:
        checked.findings.append(_problem(layout, f"The hash {known_head[:16]}... is not in the chain any more."))
    _check_file(layout, index, checked)
    _check_revisions(layout, index, checked)
    return checked


def _check_chain(layout: Layout, index: Index, checked: Checked) -> set[str]:
    previous, number = BEGINNING, 0
    blanked: set[int] = set()
    named: set[int] = set()
    seen = {BEGINNING}
    with index.reading() as connection:
        for entry in audit.entries(connection):
            if entry.number != number + 1:
                checked.findings.append(
                    _problem(layout, f"The entries {number + 1} to {entry.number - 1} are missing.")
                )
            elif entry.previous_hash != previous:
                checked.findings.append(_problem(layout, f"The entry {entry.number} does not follow the one before."))
            if not entry.is_whole:
                checked.findings.append(_problem(layout, f"The entry {entry.number} was edited."))
            if entry.act.action == BLANKED:
                blanked.add(entry.number)
            elif entry.act.action == "erase":
                numbers = entry.act.detail.get("entries")
                named.update(n for n in numbers if isinstance(n, int)) if isinstance(numbers, list) else None
            previous, number = entry.hash, entry.number
            seen.add(entry.hash)
            checked.entries += 1
    for lone in sorted(blanked - named):
        checked.findings.append(_problem(layout, f"The entry {lone} was emptied, and no erasure tells of it."))
    checked.head = previous
    return seen


def _check_file(layout: Layout, index: Index, checked: Checked) -> None:
    """Each line of the copy must be the entry of the index."""
    if not layout.audit_file.is_file():
        if checked.entries:
            checked.findings.append(_problem(layout, "The copy of the audit log is missing."))
        return
    lines = read_json_lines(layout.audit_file)
    with index.reading() as connection:
        entries = audit.entries(connection)
        for number, (line, entry) in enumerate(zip(lines, entries, strict=False), start=1):
            if line != entry.to_json():
                checked.findings.append(
                    _problem(layout, f"The line {number} of the copy is not the entry of the index.")
                )
    if len(lines) != checked.entries:
        checked.findings.append(_problem(layout, f"The copy has {len(lines)} lines for {checked.entries} entries."))


def _check_revisions(layout: Layout, index: Index, checked: Checked) -> None:
    for image_id, tag, number, ext, digest, *_, masked in walk_revisions(index):
        checked.revisions += 1
        with index.reading() as connection:
            told = audit.of_revision(connection, image_id, tag, number)
        folder = layout.revision_folder(ImageId(image_id), Tag(tag))
        for reason, name in _revision_faults(folder, number, ext, digest, told, masked=masked):
            checked.findings.append(StoreProblem(layout.below_studies(folder / name), reason))


def _revision_faults(
    folder: Path, number: int, ext: str, digest: str, told: Entry | None, *, masked: bool
) -> Iterator[tuple[str, str]]:
    voxels, description = folder / revision_name(number, ext), folder / f"{number}.json"
    if told is None:
        yield "The audit log tells of no such revision.", description.name
        return
    if told.act.detail.get("sha256") != digest:
        yield "The index has another checksum for this revision than the audit log.", voxels.name
    try:
        if sha256_of(voxels) != told.act.detail.get("sha256"):
            yield "The file of this revision was changed.", voxels.name
    except OSError:
        yield "The file of this revision is missing.", voxels.name
    try:
        if hashlib.sha256(description.read_bytes()).hexdigest() != told.act.detail.get("description"):
            yield "The description of this revision was edited.", description.name
    except OSError:
        yield "The description of this revision is missing.", description.name
    if masked and not _region_is_whole(folder / region_name(number), description):
        yield "The file that says what was annotated was changed.", region_name(number)


def _region_is_whole(mask: Path, description: Path) -> bool:
    """Whether the mask beside a revision is the one that its description names; also if it names none."""
    try:
        document = json.loads(description.read_bytes())
        region = annotation_of(document["info"]).region
        if isinstance(region, MaskFile):
            unpacked(mask.read_bytes(), region.sha256)
    except (OSError, ValueError, KeyError, TypeError, Refused):
        return False
    return True


def _problem(layout: Layout, reason: str) -> StoreProblem:
    return StoreProblem(layout.below_studies(layout.audit_file), reason)

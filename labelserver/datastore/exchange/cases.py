"""What a folder of another tool offers: images with an id each, and the labels that belong to them.

Each reader knows one layout; `find_cases` asks them in turn, the most specific first. Nothing is opened but small JSON
and CSV files: whether an image or label is sound is asked by whoever takes it (`importing.py`).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from labelserver.datastore.layout import exported_region_name
from labelserver.datastore.peer_index import read_peer_index
from labelserver.domain.errors import InvalidSetting, UnreadableFile
from labelserver.domain.ids import FINAL
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.imaging.formats import DICOM_EXTENSIONS, IMAGE_EXTENSIONS, LABEL_EXTENSIONS, has_voxels, split_ext


class ImportLayout(StrEnum):
    """Layouts that can be imported."""

    MONAI_LABEL = "monai-label"
    NNUNET = "nnunet"
    DECATHLON = "decathlon"
    BIDS = "bids"
    MANIFEST = "manifest"
    FOLDERS = "folders"


@dataclass(frozen=True, slots=True)
class CaseLabel:
    """A label file and what is known about it."""

    file: Path
    tag: str = FINAL
    info: JsonObject = field(default_factory=dict)
    mask: Path | None = None  #: where the mask of a partly annotated label would be


@dataclass(frozen=True, slots=True)
class Case:
    """An image (a file, or a folder with a DICOM series) under the id it would get."""

    image_id: str
    image: Path
    labels: tuple[CaseLabel, ...] = ()


@dataclass(slots=True)
class FoundCases:
    """What a reader found; `notes` are sentences about what does not fit."""

    layout: ImportLayout
    cases: list[Case] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_cases(source: Path, layout: ImportLayout | None = None) -> FoundCases:
    """Read `source` in the given layout, or in the one it seems to have.

    Raises:
        InvalidSetting: no such file or folder, or it does not have this layout.
        UnreadableFile: its description cannot be understood.
    """
    if not source.exists():
        raise InvalidSetting(f"There is no {source}.")
    chosen = layout or _guess(source)
    if chosen is not ImportLayout.MANIFEST and not source.is_dir():
        raise InvalidSetting(f"{source.name} is no folder; a file can only be a manifest (.csv or .json).")
    try:
        return _READERS[chosen](source)
    except (KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise UnreadableFile(f"{source.name} cannot be read as {chosen.value}: {error}.") from error


def _guess(source: Path) -> ImportLayout:
    if source.is_file():
        return ImportLayout.MANIFEST
    if (source / "datastore_v2.json").is_file() or (source / "labels" / "final").is_dir():
        return ImportLayout.MONAI_LABEL
    if (source / "dataset.json").is_file() and (source / "imagesTr").is_dir():
        document = _document(source / "dataset.json")
        return ImportLayout.NNUNET if "channel_names" in document else ImportLayout.DECATHLON
    if any(p.is_dir() for p in source.glob("sub-*")):
        return ImportLayout.BIDS
    return ImportLayout.FOLDERS


def _monai_label(source: Path) -> FoundCases:
    """``<id><ext>``, ``labels/<tag>/<id><ext>``, ``datastore_v2.json``."""
    index = read_peer_index(source / "datastore_v2.json")
    labels: dict[str, list[CaseLabel]] = {}
    root = source / "labels"
    for tag_folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else ():
        for file in _files(tag_folder):
            name = file.relative_to(tag_folder).as_posix()
            info = index.labels.get((tag_folder.name, name), {})
            told = {k: v for k, v in info.items() if k not in ("ts", "name")}
            image_id = split_ext(name)[0]
            mask = source / exported_region_name(tag_folder.name, image_id)
            labels.setdefault(image_id, []).append(CaseLabel(file, tag_folder.name, told, mask))
    found = FoundCases(ImportLayout.MONAI_LABEL)
    if index.problem:
        found.notes.append(index.problem)
    for image, name in _images(source, skip={root}):
        found.cases.append(_with_labels(name, image, labels))
    _note_lone(found, labels)
    return found


def _nnunet(source: Path) -> FoundCases:
    """``imagesTr/<case>_0000<ending>``, ``labelsTr/<case><ending>`` (nnU-Net v2, documentation/dataset_format.md)."""
    document = _document(source / "dataset.json")
    ending = str(document["file_ending"])
    info = _label_info(document.get("labels"))
    found = FoundCases(ImportLayout.NNUNET)
    several = len(document["channel_names"]) > 1
    for part in ("Tr", "Ts"):
        for image in sorted((source / f"images{part}").glob(f"*{ending}")):
            case, _, channel = image.name[: -len(ending)].rpartition("_")
            if not case or not channel.isdecimal():
                found.notes.append(f"{image.name} has no channel number and is left out.")
                continue
            label = source / f"labels{part}" / f"{case}{ending}"
            own = (CaseLabel(label, info=info),) if label.is_file() and int(channel) == 0 else ()
            found.cases.append(Case(f"{case}_{channel}" if several else case, image, own))
    if several:
        found.notes.append("Each channel is an image of its own; the labels go to channel 0000.")
    return found


def _decathlon(source: Path) -> FoundCases:
    """Source: medicaldecathlon.com: ``dataset.json`` lists pairs under "training", images alone under "test"."""
    document = _document(source / "dataset.json")
    info = _label_info({name: value for value, name in document.get("labels", {}).items()})
    found = FoundCases(ImportLayout.DECATHLON)
    for pair in document.get("training", []):
        image, label = source / str(pair["image"]), source / str(pair["label"])
        found.cases.append(Case(split_ext(image.name)[0], image, (CaseLabel(label, info=info),)))
    for name in document.get("test", []):
        image = source / str(name)
        if image.is_file():
            found.cases.append(Case(split_ext(image.name)[0], image))
    return found


_ENTITY = re.compile(r"_(?:desc|label|space|res|seg)-[A-Za-z0-9]+")
#: What a label of several images of one acquisition is drawn on, most likely first.
_BIDS_FIRST = ("T1w", "ct", "CT", "T2w", "FLAIR")


def _bids(source: Path) -> FoundCases:
    """Source: bids-specification.readthedocs.io, "Derivatives, segmentations": ``..._dseg.<ext>`` beside or below."""
    found = FoundCases(ImportLayout.BIDS)
    images: dict[tuple[str, str], list[tuple[Path, str]]] = {}
    masks: list[tuple[Path, str]] = []
    for file in _files(source):
        name = file.relative_to(source).as_posix()
        if "sub-" not in name or not has_voxels(split_ext(name)[1]):
            continue
        below = name[name.index("sub-") :]
        if split_ext(name)[0].endswith(("_dseg", "_mask")):
            masks.append((file, below))
        elif not name.startswith("derivatives/"):
            images.setdefault(_acquisition(below), []).append((file, split_ext(below)[0]))
    labels: dict[str, list[CaseLabel]] = {}
    for file, below in masks:
        candidates = sorted(images.get(_acquisition(below), ()), key=_bids_order)
        if not candidates:
            found.notes.append(f"{file.relative_to(source).as_posix()} belongs to no image.")
            continue
        if len(candidates) > 1:
            found.notes.append(f"{file.name} could belong to several images; it goes to {candidates[0][1]}.")
        labels.setdefault(candidates[0][1], []).append(CaseLabel(file))
    for file, image_id in sorted(pair for group in images.values() for pair in group):
        found.cases.append(Case(image_id, file, tuple(labels.get(image_id, ()))))
    return found


def _acquisition(below: str) -> tuple[str, str]:
    """Folder and entities that an image and its segmentation share."""
    folder, _, base = split_ext(below)[0].rpartition("/")
    return folder, _ENTITY.sub("", base).rpartition("_")[0]


def _bids_order(pair: tuple[Path, str]) -> tuple[int, str]:
    suffix = pair[1].rpartition("_")[2]
    return (_BIDS_FIRST.index(suffix) if suffix in _BIDS_FIRST else len(_BIDS_FIRST), pair[1])


def _manifest(source: Path) -> FoundCases:
    """Rows (CSV) or objects (JSON) with ``image`` and perhaps ``label``, ``id``, ``tag``; paths beside the file."""
    found = FoundCases(ImportLayout.MANIFEST)
    cases: dict[str, Case] = {}
    for row in _manifest_rows(source):
        image = source.parent / row["image"]
        image_id = row.get("id") or split_ext(image.name)[0]
        before = cases.get(image_id, Case(image_id, image))
        if before.image != image:
            found.notes.append(f"The id {image_id!r} is given to two images; {row['image']} is left out.")
            continue
        label = row.get("label")
        added = (CaseLabel(source.parent / label, row.get("tag") or FINAL),) if label else ()
        cases[image_id] = Case(image_id, image, (*before.labels, *added))
    found.cases = list(cases.values())
    return found


def _manifest_rows(source: Path) -> list[dict[str, str]]:
    """The rows that name an image. Raises `UnreadableFile`."""
    text = source.read_text(encoding="utf-8-sig")
    if source.suffix.lower() == ".json":
        listed = json.loads(text)
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise UnreadableFile(
                f'{source.name} must be a list such as [{{"image": "a.nii.gz", "label": "l.nii.gz"}}].'
            )
        rows = [{str(key): _cell(value) for key, value in entry.items()} for entry in listed]
    else:
        header = text.partition("\n")[0]
        separator = max(",;\t", key=header.count)  # spreadsheets of many countries write ";"
        table = csv.DictReader(text.splitlines(), delimiter=separator)
        rows = [{str(key): _cell(value) for key, value in row.items() if key is not None} for row in table]
    named = [row for row in rows if row.get("image")]
    if rows and not named:
        columns = ", ".join(dict.fromkeys(key for row in rows for key in row)) or "none"
        raise UnreadableFile(f"{source.name} needs a column 'image' (and may have label, id, tag); it has: {columns}.")
    return named


def _cell(value: Any) -> str:
    return "" if value is None else str(value).strip()


_LABEL_FOLDERS = frozenset(("labels", "label", "masks", "mask", "segmentations", "seg", "annotations", "labelsTr"))
_LABEL_ENDS = ("_seg", "-seg", "_label", "-label", "_mask", "-mask", "_segmentation", ".seg")


def _folders(source: Path) -> FoundCases:
    """Any folders: labels are named like their image, with an ending such as ``_seg`` or in a folder ``labels``."""
    found = FoundCases(ImportLayout.FOLDERS)
    images: list[tuple[Path, str]] = []
    labels: dict[str, list[CaseLabel]] = {}
    for file in _files(source):
        name = file.relative_to(source).as_posix()
        stem, ext = split_ext(name)
        *folders, base = stem.split("/")
        plain = "/".join(f for f in folders if f not in _LABEL_FOLDERS and f not in ("images", "image", "imagesTr"))
        end = next((e for e in _LABEL_ENDS if base.endswith(e)), "")
        is_label = bool(end) or ext.lower() == ".seg.nrrd" or any(f in _LABEL_FOLDERS for f in folders)
        if is_label and ext.lower() in LABEL_EXTENSIONS:
            key = f"{plain}/{base.removesuffix(end)}".lstrip("/")
            labels.setdefault(key, []).append(CaseLabel(file))
        elif ext.lower() in IMAGE_EXTENSIONS:
            images.append((file, f"{plain}/{base}".lstrip("/")))
    for folder in sorted({f.parent for f in _files(source) if split_ext(f.name)[1].lower() in DICOM_EXTENSIONS}):
        images.append((folder, folder.relative_to(source).as_posix() if folder != source else source.name))
    for image, image_id in images:
        found.cases.append(_with_labels(image_id, image, labels))
    _note_lone(found, labels)
    return found


def _with_labels(image_id: str, image: Path, labels: dict[str, list[CaseLabel]]) -> Case:
    return Case(image_id, image, tuple(labels.pop(image_id, ())))


def _note_lone(found: FoundCases, labels: dict[str, list[CaseLabel]]) -> None:
    for lone in [label for group in labels.values() for label in group]:
        found.notes.append(f"The label {lone.file.name} belongs to no image.")


def _images(source: Path, skip: set[Path]) -> Iterator[tuple[Path, str]]:
    for file in _files(source):
        if not any(file.is_relative_to(s) for s in skip) and split_ext(file.name)[1].lower() in IMAGE_EXTENSIONS:
            yield file, split_ext(file.relative_to(source).as_posix())[0]


def _files(folder: Path) -> Iterable[Path]:
    """Visible files below `folder`, sorted."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path.name} cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise UnreadableFile(f"{path.name} is no JSON object.")
    return document


def _label_info(labels: Any) -> JsonObject:
    """Names and values as a viewer would send them; regions of several values are left out."""
    if not isinstance(labels, dict):
        return {}
    named: list[JsonValue] = [
        {"name": str(name), "idx": int(value)}
        for name, value in labels.items()
        if not isinstance(value, list | tuple) and int(value) > 0
    ]
    return {"label_info": named} if named else {}


_READERS: dict[ImportLayout, Callable[[Path], FoundCases]] = {
    ImportLayout.MONAI_LABEL: _monai_label,
    ImportLayout.NNUNET: _nnunet,
    ImportLayout.DECATHLON: _decathlon,
    ImportLayout.BIDS: _bids,
    ImportLayout.MANIFEST: _manifest,
    ImportLayout.FOLDERS: _folders,
}

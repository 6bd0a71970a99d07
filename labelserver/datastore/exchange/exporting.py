"""Write a store's images and labels as a folder that other tools read. The folder appears whole, and read-only.

``snapshot`` keeps every label bit by bit in the layout of a MONAI Label folder, with ``snapshot.json`` and a manifest.
The other layouts hold one flat map per image and become NIfTI; segments that overlap do not fit into one, and the case
is refused with a sentence instead of losing voxels.

What trainings do not learn from (`domain.work.Withheld`) is left out unless it is asked for, and counted.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.datastore.annotating import region_file
from labelserver.datastore.exchange import snapshots
from labelserver.datastore.exchange.snapshots import Snapshot, SnapshotLabel
from labelserver.datastore.layout import exported_region_name
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.plain_json import label_names
from labelserver.domain.errors import Conflict, LabelNotFound, LabelServerError, UnsupportedFormat
from labelserver.domain.ids import FINAL, ImageId, Tag, folder_key
from labelserver.domain.json_types import JsonObject
from labelserver.domain.work import Withheld
from labelserver.imaging.formats import has_voxels
from labelserver.imaging.seg_nrrd import read_seg_nrrd
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.storage import atomic
from labelserver.storage.atomic import storage_errors


class ExportLayout(StrEnum):
    """Layouts that can be written."""

    SNAPSHOT = "snapshot"
    NNUNET = "nnunet"
    DECATHLON = "decathlon"
    BIDS = "bids"


@dataclass(slots=True)
class Exported:
    """What an export holds; `left_out` are sentences about labels that could not be written."""

    snapshot: Snapshot
    images: int = 0
    labels: int = 0
    left_out: list[str] = field(default_factory=list)
    withheld: dict[Withheld, int] = field(default_factory=dict)  #: labels that trainings do not learn from either


def export(
    store: LocalDatastore,
    target: Path,
    layout: ExportLayout,
    *,
    images: bool = True,
    tags: tuple[str, ...] = (),
    include: Collection[Withheld] = (),
    on_progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write `target`, which must not exist.

    Args:
        images: also copy the images; without them the labels alone.
        tags: only these; empty means all for a snapshot, ``final`` for the others.
        include: also labels that trainings do not learn from for these reasons.

    Raises:
        Conflict: `target` exists.
        LabelNotFound: nothing to export.
    """
    if target.exists():
        raise Conflict(f"{target} exists. Exports are never overwritten; name another folder.")
    if layout is not ExportLayout.SNAPSHOT:
        tags = tags[:1] or (FINAL,)
    withheld = {key: why for key, why in store.withheld_labels().items() if why not in include}
    done = Exported(snapshots.take(store, tags, withheld))
    counted = Counter(why for (_, tag), why in withheld.items() if not tags or tag in tags)
    done.withheld = {why: counted[why] for why in Withheld if counted[why]}
    if not done.snapshot.labels:
        told = ", ".join(f"{count} {why}" for why, count in done.withheld.items())
        raise LabelNotFound(
            f"All labels are left out ({told}), as trainings leave them out. Ask for them with include."
            if told
            else "There is no label to export yet."
        )
    with storage_errors(target.name):
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=atomic.TEMPORARY_PREFIX, dir=target.parent))
    try:
        with storage_errors(target.name):
            if layout is ExportLayout.SNAPSHOT:
                _write_snapshot(store, building, done, images=images, on_progress=on_progress)
            else:
                _write_flat(store, building, done, _LAYOUTS[layout], images=images, on_progress=on_progress)
            document = done.snapshot.to_json()
            if done.withheld:
                document = {**document, "withheld": {str(why): count for why, count in done.withheld.items()}}
            atomic.write_json(building / snapshots.FILE, document)
            _make_read_only(building)
            building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return done


def _write_snapshot(
    store: LocalDatastore, folder: Path, done: Exported, *, images: bool, on_progress: Callable[[int], None] | None
) -> None:
    rows: list[tuple[str, str, str, str]] = []
    for number, label in enumerate(done.snapshot.labels, start=1):
        source = store.revision_file(ImageId(label.image_id), Tag(label.tag), label.number)
        place = f"labels/{label.tag}/{label.image_id}{label.ext}"
        _copy(source, folder / place)
        mask = region_file(store.layout, label.image_id, label.tag, label.number)
        if mask.is_file():
            _copy(mask, folder / exported_region_name(label.tag, label.image_id))
        done.labels += 1
        image = _image_place(store, label.image_id)
        rows.append((label.image_id, image, label.tag, place))
        if images and not (folder / image).exists():
            _copy(Path(store.get_image_uri(label.image_id)), folder / image)
            done.images += 1
        if on_progress is not None:
            on_progress(number)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "image", "tag", "label"))
    table.writerows(rows)
    atomic.write_bytes(folder / "manifest.csv", text.getvalue().encode())
    atomic.write_json(folder / "datastore_v2.json", _peer_index(store, done.snapshot))


def _image_place(store: LocalDatastore, image_id: str) -> str:
    return f"{image_id}{store.image(ImageId(image_id)).ext}"


def _peer_index(store: LocalDatastore, snapshot: Snapshot) -> JsonObject:
    """``datastore_v2.json`` of what is exported, so that MONAI Label opens the folder as its own."""
    document: dict[str, Any] = store.json()  # Any: the peer's free shape
    tags: dict[str, set[str]] = {}
    for label in snapshot.labels:
        tags.setdefault(label.image_id, set()).add(label.tag)
    objects = {}
    for image_id, chosen in tags.items():
        entry = document["objects"].get(image_id)
        if entry is not None:
            kept = {tag: told for tag, told in entry["labels"].items() if tag in chosen}
            objects[image_id] = {"image": entry["image"], "labels": kept}
    return {**document, "images_dir": ".", "labels_dir": "labels", "objects": objects}


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a layout of flat maps has its files."""

    image: Callable[[str], str]
    label: Callable[[str], str]
    describe: Callable[[list[tuple[str, str]], dict[str, int]], dict[str, JsonObject]]  #: (image, label), values


def _write_flat(
    store: LocalDatastore,
    folder: Path,
    done: Exported,
    places: _Places,
    *,
    images: bool,
    on_progress: Callable[[int], None] | None,
) -> None:
    names: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    values: dict[str, int] = {}
    held: list[SnapshotLabel] = []
    for number, label in enumerate(done.snapshot.labels, start=1):
        case = _case_name(label.image_id, names)
        image_place, label_place = places.image(case), places.label(case)
        if (folder / label_place).exists():
            done.left_out.append(f"{label.image_id} ({label.tag}): another case has the name {label_place!r} here.")
            continue
        if label.annotated:
            done.left_out.append(
                f"{label.image_id} ({label.tag}): it is annotated in part, and this layout has no place to say so. "
                "Export it as a snapshot."
            )
            continue
        try:
            file = store.revision_file(ImageId(label.image_id), Tag(label.tag), label.number)
            voxels, affine, named = flat_map(file, label.ext)
            if images:
                volume = read_volume(Path(store.get_image_uri(label.image_id)))
                _write(folder / image_place, volume.voxels, volume.grid.affine)
                done.images += 1
        except LabelServerError as error:
            done.left_out.append(f"{label.image_id} ({label.tag}): {error.message}")
            continue
        _write(folder / label_place, voxels, affine)
        done.labels += 1
        held.append(label)
        pairs.append((image_place, label_place))
        values.update(named or _named_values(store, label, voxels))
        if on_progress is not None:
            on_progress(number)
    done.snapshot = Snapshot(tuple(held), done.snapshot.schema)
    for name, document in places.describe(pairs, values).items():
        atomic.write_json(folder / name, document)


def flat_map(file: Path, ext: str) -> tuple[NDArray[Any], NDArray[np.float64], dict[str, int]]:
    """One number per voxel, the affine, and the values of the segments whose names the file tells.

    Raises:
        UnsupportedFormat: segments overlap, or the label has no voxels.
    """
    if not has_voxels(ext):
        raise UnsupportedFormat(f"Labels of type {ext} have no voxels; this layout cannot hold them.")
    if ext.lower() != ".seg.nrrd":
        volume = read_volume(file)
        return volume.voxels, volume.grid.affine, {}
    segmentation = read_seg_nrrd(file)
    masks = [segmentation.mask(n) for n in range(len(segmentation.segments))]
    if masks and int(np.sum([m.astype(np.uint8) for m in masks], axis=0).max()) > 1:
        raise UnsupportedFormat(
            "Its segments overlap, and this layout holds one number per voxel. Export it as a snapshot."
        )
    own_values = [segment.value for segment in segmentation.segments]
    distinct = len(set(own_values)) == len(own_values)
    flat = np.zeros(segmentation.grid.shape, np.uint8 if max(own_values, default=0) < 256 else np.uint16)
    named = {}
    for number, (mask, segment) in enumerate(zip(masks, segmentation.segments, strict=True), start=1):
        value = segment.value if distinct else number
        flat[mask] = value
        named[segment.name] = value
    return flat, segmentation.grid.affine, named


def _named_values(store: LocalDatastore, label: SnapshotLabel, voxels: NDArray[Any]) -> dict[str, int]:
    """Names from the label's info, else ``label_<value>``."""
    info = store.get_label_info(label.image_id, label.tag)
    listed = info.get("label_info")
    named = {
        str(entry["name"]): int(entry["idx"])
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and entry.get("name") and isinstance(entry.get("idx"), int)
    }
    if named or label_names(info):
        return named
    return {f"label_{value}": int(value) for value in np.unique(voxels) if value > 0}


def _case_name(image_id: str, taken: dict[str, str]) -> str:
    """A flat name; ids that would share one get their key."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", image_id).strip("_.") or "case"
    if taken.setdefault(plain, image_id) == image_id:
        return plain
    return folder_key(image_id)


def _nnunet_description(pairs: list[tuple[str, str]], values: dict[str, int]) -> dict[str, JsonObject]:
    by_value = sorted(values.items(), key=lambda pair: pair[1])
    document: JsonObject = {
        "channel_names": {"0": "image"},
        "labels": {"background": 0, **dict(by_value)},
        "numTraining": len(pairs),
        "file_ending": ".nii.gz",
    }
    return {"dataset.json": document}


def _decathlon_description(pairs: list[tuple[str, str]], values: dict[str, int]) -> dict[str, JsonObject]:
    document: JsonObject = {
        "name": "labelserver export",
        "tensorImageSize": "3D",
        "modality": {"0": "image"},
        "labels": {"0": "background", **{str(v): n for n, v in sorted(values.items(), key=lambda pair: pair[1])}},
        "numTraining": len(pairs),
        "numTest": 0,
        "training": [{"image": f"./{image}", "label": f"./{label}"} for image, label in pairs],
        "test": [],
    }
    return {"dataset.json": document}


def _bids_description(pairs: list[tuple[str, str]], values: dict[str, int]) -> dict[str, JsonObject]:
    return {
        "dataset_description.json": {"Name": "labelserver export", "BIDSVersion": "1.9.0"},
        "derivatives/labels/dataset_description.json": {
            "Name": "labels",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "labelserver"}],
        },
        "derivatives/labels/segments.json": dict(values.items()),
    }


def _subject(case: str) -> str:
    """BIDS allows letters and digits alone."""
    plain = re.sub(r"[^A-Za-z0-9]+", "", case.removeprefix("sub-")) or "x"
    return f"sub-{plain}"


_LAYOUTS = {
    ExportLayout.NNUNET: _Places(
        lambda case: f"imagesTr/{case}_0000.nii.gz", lambda case: f"labelsTr/{case}.nii.gz", _nnunet_description
    ),
    ExportLayout.DECATHLON: _Places(
        lambda case: f"imagesTr/{case}.nii.gz", lambda case: f"labelsTr/{case}.nii.gz", _decathlon_description
    ),
    ExportLayout.BIDS: _Places(
        lambda case: f"{_subject(case)}/anat/{_subject(case)}_T1w.nii.gz",
        lambda case: f"derivatives/labels/{_subject(case)}/anat/{_subject(case)}_dseg.nii.gz",
        _bids_description,
    ),
}


def _write(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, voxels, affine, compress=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _make_read_only(folder: Path) -> None:
    for file in _walk(folder):
        file.chmod(0o444)


def _walk(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)

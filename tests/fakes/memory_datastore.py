"""A `Datastore` whose index is a dict: for tests of rooms that only need images and labels to be there.

Files that are added are kept in a folder given by the test. It keeps revisions, but has no schema and checks no
geometry.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.datastore.annotating import kept_region
from labelserver.domain.annotation import INFO_KEY, AnnotatedPart, Annotation
from labelserver.domain.errors import Conflict, ImageNotFound, LabelChanged, LabelNotFound, UnreadableFile
from labelserver.domain.ids import FINAL, ImageId, Tag, parse_image_id, parse_tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ANY_LABEL, Expected, ImageRecord, Numbering, Provenance, Revision, StoreProblem
from labelserver.domain.schema import NOT_ANNOTATED
from labelserver.imaging.formats import has_voxels, kind_of, split_ext
from labelserver.imaging.reordering import AxisChange
from labelserver.imaging.volumes import read_volume
from labelserver.storage.checksums import sha256_of


class _Image:
    def __init__(self, file: Path, info: JsonObject) -> None:
        self.file = file
        self.info = info
        self.labels: dict[str, JsonObject] = {}


class MemoryDatastore(Datastore):
    """Images by id in `folder`, labels below ``folder/labels/<tag>/``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._images: dict[str, _Image] = {}
        self._removed: dict[str, tuple[_Image, bytes, dict[str, bytes]]] = {}
        self._revisions: dict[tuple[str, str], list[Revision]] = {}
        self._name, self._description = "new-dataset", "New Dataset"

    def name(self) -> str:
        return self._name

    def set_name(self, name: str) -> None:
        self._name = name

    def description(self) -> str:
        return self._description

    def set_description(self, description: str) -> None:
        self._description = description

    def datalist(self) -> list[dict[str, Any]]:
        return [
            {"image": self.get_image_uri(i), "label": self.get_label_uri(i, FINAL)} for i in self.get_labeled_images()
        ]

    def list_images(self) -> list[str]:
        return sorted(self._images)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        tag = parse_tag(label_tag or FINAL)
        return [i for i in self.list_images() if tag in self._images[i].labels and self._holds(i, tag, labels)]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        labeled = set(self.get_labeled_images(label_tag, labels))
        return [i for i in self.list_images() if i not in labeled]

    def get_image_uri(self, image_id: str) -> str:
        return str(self._images[image_id].file) if image_id in self._images else ""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        return dict(self._images[image_id].info) if image_id in self._images else {}

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        if label_tag not in self.get_labels_by_image_id(label_id):
            return ""
        return str(self._folder / "labels" / label_tag / f"{label_id}{self._revisions[label_id, label_tag][-1].ext}")

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        image = self._images.get(label_id)
        return dict(image.labels.get(label_tag, {})) if image else {}

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        image = self._images.get(image_id)
        return dict.fromkeys(image.labels, image_id) if image else {}

    def add_image(self, image_id: str | None, image_filename: str, image_info: dict[str, Any]) -> str:
        stem, ext = split_ext(Path(image_filename).name)
        checked = parse_image_id(image_id or stem)
        target = self._folder / f"{checked}{ext}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image_filename, target)
        info = {**self.get_image_info(checked), **image_info, "ts": int(time.time()), "name": target.name}
        if checked in self._images:
            self._images[checked].file, self._images[checked].info = target, info
        else:
            self._images[checked] = _Image(target, info)
        return checked

    def remove_image(self, image_id: str, person: str = "") -> None:
        image = self._known(image_id)
        labels = {tag: Path(self.get_label_uri(image_id, tag)) for tag in self.get_labels_by_image_id(image_id)}
        kept = {str(path): path.read_bytes() for path in labels.values()}
        whole = _Image(image.file, image.info)
        whole.labels = dict(image.labels)
        for tag in labels:
            self.remove_label(image_id, tag)
        self._removed[image_id] = (whole, image.file.read_bytes(), kept)
        self._images.pop(image_id).file.unlink()

    def restore_image(self, image_id: ImageId, person: str = "") -> None:
        if image_id in self._images:
            raise Conflict(f"The image {image_id!r} is there.")
        if image_id not in self._removed:
            raise ImageNotFound(f"No image {image_id!r} was removed.")
        image, data, labels = self._removed.pop(image_id)
        image.file.write_bytes(data)
        for path, content in labels.items():
            Path(path).write_bytes(content)
        self._images[image_id] = image

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        file, tag = Path(label_filename), parse_tag(label_tag)
        checked = parse_image_id(image_id)
        self.accept_label(checked, file, split_ext(file.name)[1], tag, Provenance(), label_info)
        return image_id

    def remove_label(self, label_id: str, label_tag: str, person: str = "", *, expected: Expected = None) -> None:
        self._check_expected(ImageId(label_id), Tag(label_tag), expected)
        uri = self.get_label_uri(parse_image_id(label_id), parse_tag(label_tag))
        if uri:
            Path(uri).unlink()
            del self._images[label_id].labels[label_tag]

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        self._known(image_id).info.update(info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        image = self._images.get(label_id)
        if image is None or label_tag not in image.labels:
            raise LabelNotFound(f"The image {label_id!r} has no label under the tag {label_tag!r}.")
        image.labels[label_tag].update(info)

    def get_dataset_archive(self, limit_cases: int | None = None) -> str:
        raise LabelNotFound("The store in memory has no archive.")

    def refresh(self) -> None:
        """There is nothing to look at."""

    def status(self) -> dict[str, Any]:
        tags: dict[str, int] = {}
        for image in self._images.values():
            for tag in image.labels:
                tags[tag] = tags.get(tag, 0) + 1
        return {"total": len(self._images), "completed": tags.get(FINAL, 0), "label_tags": tags}

    def json(self) -> dict[str, Any]:
        objects = {
            image_id: {
                "image": {"ext": split_ext(image.file.name)[1], "info": dict(image.info)},
                "labels": {
                    tag: {"ext": self._revisions[image_id, tag][-1].ext, "info": dict(info)}
                    for tag, info in image.labels.items()
                },
            }
            for image_id, image in sorted(self._images.items())
        }
        return {
            "name": self._name,
            "description": self._description,
            "images_dir": ".",
            "labels_dir": "labels",
            "objects": objects,
        }

    def image(self, image_id: ImageId) -> ImageRecord:
        image = self._known(image_id)
        ext = split_ext(image.file.name)[1]
        return ImageRecord(image_id, kind_of(ext), ext, f"{image_id}{ext}", dict(image.info))

    def accept_label(
        self,
        image_id: ImageId,
        file: Path,
        ext: str,
        tag: Tag,
        provenance: Provenance,
        info: JsonObject,
        *,
        expected: Expected = None,
        numbering: Numbering = Numbering.SCHEMA,
        floats: bool = True,
        annotated: AnnotatedPart | None = None,
        take: bool = False,
    ) -> Revision:
        image = self._known(image_id)
        self._check_expected(image_id, tag, expected)
        info = {key: value for key, value in info.items() if key != INFO_KEY}
        if has_voxels(ext):
            info |= _noted(file, annotated, floats=floats)
        target = self._folder / "labels" / tag / f"{image_id}{ext}"
        old = self.get_label_uri(image_id, tag)
        target.parent.mkdir(parents=True, exist_ok=True)
        if old and Path(old) != target:
            Path(old).unlink()
        shutil.copyfile(file, target)
        history = self._revisions.setdefault((image_id, tag), [])
        revision = Revision(
            image_id=image_id,
            tag=tag,
            number=len(history) + 1,
            ext=ext,
            sha256=sha256_of(target),
            size_bytes=target.stat().st_size,
            parent=len(history) or None,
            created_ts=time.time(),
            provenance=provenance,
            schema_version=0,
            info=info,
        )
        history.append(revision)
        image.labels[tag] = {**info, "ts": int(revision.created_ts), "name": target.name}
        return revision

    def _check_expected(self, image_id: ImageId, tag: Tag, expected: Expected) -> None:
        if expected is None:
            return
        there = tag in self.get_labels_by_image_id(image_id)
        newest = self._revisions[image_id, tag][-1] if there else None
        if newest is None and not expected:
            return
        if newest is None or not (newest.sha256 in expected or ANY_LABEL in expected):
            raise LabelChanged("The label is not the one you started from.", number=newest.number if newest else None)

    def current_revision(self, image_id: ImageId, tag: Tag) -> Revision:
        if tag not in self.get_labels_by_image_id(image_id):
            raise LabelNotFound(f"The image {image_id!r} has no label under the tag {tag!r}.")
        return self._revisions[image_id, tag][-1]

    def revisions(self, image_id: ImageId, tag: Tag) -> list[Revision]:
        return list(self._revisions.get((image_id, tag), []))

    def problems(self) -> list[StoreProblem]:
        return []

    def _known(self, image_id: str) -> _Image:
        image = self._images.get(image_id)
        if image is None:
            raise ImageNotFound(f"There is no image {image_id!r}.")
        return image

    def _holds(self, image_id: str, tag: str, labels: list[str] | None) -> bool:
        listed = self._images[image_id].labels[tag].get("label_info")
        names = (
            {str(entry["name"]) for entry in listed if isinstance(entry, dict)} if isinstance(listed, list) else set()
        )
        return not labels or not names or set(labels) <= names


def _noted(file: Path, annotated: AnnotatedPart | None, *, floats: bool) -> JsonObject:
    """What is kept about the voxels of an upload."""
    volume = read_volume(file)
    if volume.voxels.dtype.kind == "f" and not floats:
        raise UnreadableFile("The label's voxels are of a floating-point type.")
    if annotated is None:
        return {}
    same = AxisChange((0, 1, 2), (False, False, False))
    drawn = read_volume(annotated.mask).voxels != 0 if annotated.mask is not None else None
    blank = volume.voxels == NOT_ANNOTATED
    told = blank if annotated.voxels_255 and blank.any() else None
    annotation = Annotation(annotated.labels, kept_region(annotated, volume.grid, same, drawn, told)[0])
    return {} if annotation.is_complete else {INFO_KEY: annotation.to_json()}

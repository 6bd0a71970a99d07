"""The datastore as app authors and the rest of the house see it.

Method names and dict shapes are the ones MONAI Label apps use. An author may subclass `Datastore` and return it from
`init_datastore`; only the abstract methods must be written. The local store adds what `RevisionStore` names.
All methods may block on the disk and may be called from any thread.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from labelserver.domain.annotation import AnnotatedPart
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.image_lists import ImagePage, ImageQuery
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import Expected, ImageRecord, Numbering, Provenance, Revision, StoreProblem


class DefaultLabelTag(StrEnum):
    """The two tags with a meaning; any other text is allowed."""

    ORIGINAL = "original"  #: made by a model
    FINAL = "final"  #: accepted by a person


class Datastore(ABC):
    """Images and labels by id.

    Raises (all implementations): `ImageNotFound` and `LabelNotFound` for unknown ids where a result cannot be given;
    ``get_image_uri`` and ``get_label_uri`` answer "" instead, as apps expect.
    """

    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def set_name(self, name: str) -> None: ...

    @abstractmethod
    def description(self) -> str: ...

    @abstractmethod
    def set_description(self, description: str) -> None: ...

    @abstractmethod
    def datalist(self) -> list[dict[str, Any]]:
        """What a training learns from: ``[{"image": path, "label": path}, ...]`` of ``final`` labels, absolute paths.

        A store that knows reviews leaves out labels that were returned or still wait for an approval that they need.
        """

    @abstractmethod
    def list_images(self) -> list[str]: ...

    @abstractmethod
    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids with a label under `label_tag` (default ``final``) that holds all of `labels` where that is known.

        Whatever a reviewer said of it: a returned label is one that is there. `datalist` tells what to learn from.
        """

    @abstractmethod
    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]: ...

    @abstractmethod
    def get_image_uri(self, image_id: str) -> str:
        """Absolute path of a file that image readers can open; "" if unknown."""

    @abstractmethod
    def get_image_info(self, image_id: str) -> dict[str, Any]: ...

    @abstractmethod
    def get_label_uri(self, label_id: str, label_tag: str) -> str: ...

    @abstractmethod
    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]: ...

    @abstractmethod
    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tag -> label id, in the order in which the tags were first saved."""

    @abstractmethod
    def add_image(self, image_id: str | None, image_filename: str, image_info: dict[str, Any]) -> str: ...

    @abstractmethod
    def remove_image(self, image_id: str) -> None: ...

    @abstractmethod
    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str: ...

    @abstractmethod
    def remove_label(self, label_id: str, label_tag: str) -> None: ...

    @abstractmethod
    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Shallow merge."""

    @abstractmethod
    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Shallow merge."""

    def get_image(self, image_id: str, params: dict[str, Any] | None = None) -> BinaryIO | None:
        """The bytes of the image's file."""
        uri = self.get_image_uri(image_id)
        return io.BytesIO(Path(uri).read_bytes()) if uri else None

    def get_label(self, label_id: str, label_tag: str, params: dict[str, Any] | None = None) -> BinaryIO | None:
        """The bytes of the label's file."""
        uri = self.get_label_uri(label_id, label_tag)
        return io.BytesIO(Path(uri).read_bytes()) if uri else None

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The label's id, or "" if there is none."""
        return self.get_labels_by_image_id(image_id).get(tag, "")

    @abstractmethod
    def get_dataset_archive(self, limit_cases: int | None = None) -> str:
        """Path of a zip with ``image/``, ``label/``, ``metadata.json`` of the labeled cases; the caller deletes it."""

    @abstractmethod
    def refresh(self) -> None: ...

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """``{"total", "completed", "label_tags": {tag: count}}``."""

    @abstractmethod
    def json(self) -> dict[str, Any]:
        """The full index in the shape of ``datastore_v2.json``."""


@runtime_checkable
class RevisionStore(Protocol):
    """What a store offers when it keeps every accepted label. `LocalDatastore` does."""

    def image(self, image_id: ImageId) -> ImageRecord: ...

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
        """Check geometry and names, store a new revision, make it current.

        `expected` is compared with the current label inside the transaction that accepts the new one. `numbering`
        counts for labels whose info names no segments. Without `floats`, voxels of a floating-point type are refused
        even where they are whole numbers. `annotated`: which labels and which part of the image were looked at; None:
        all. The revision's `annotation` tells it ever after. With `take` the file is given away; it may be moved.

        Raises: `ImageNotFound`, `GridsDiffer`, `UnreadableFile`, `UnsupportedFormat`, `UnknownLabelName`,
        `LabelChanged`, `DiskFull`; `InvalidParams` for an annotated part that is none of this image's.
        """

    def current_revision(self, image_id: ImageId, tag: Tag) -> Revision: ...

    def revisions(self, image_id: ImageId, tag: Tag) -> list[Revision]: ...

    def remove_image(self, image_id: str, person: str = "") -> None: ...

    def restore_image(self, image_id: ImageId, person: str = "") -> None:
        """Undo `remove_image`, also for the labels that went with it. Raises: `ImageNotFound`, `Conflict`."""

    def remove_label(self, label_id: str, label_tag: str, person: str = "", *, expected: Expected = None) -> None:
        """Take the label out of sight; its revisions stay. Raises `LabelChanged` as `expected` says."""

    def problems(self) -> list[StoreProblem]: ...


@runtime_checkable
class ImageListing(Protocol):
    """What a store offers when its lists cost the same at any size. `LocalDatastore` does.

    "Unlabeled" means without a ``final`` label. The iterators read as far as they are asked.
    """

    def image_page(self, query: ImageQuery) -> ImagePage:
        """Raises `InvalidParams` for a place that is not of this order."""

    def unlabeled(self, *, last_first: bool = False) -> Iterator[tuple[str, JsonObject]]:
        """(id, info), by id."""

    def unlabeled_by_score(self, key: str) -> Iterator[tuple[str, float, JsonObject]]:
        """(id, score, info) of those with the number `key` in their info, the highest first; ties by id."""

    def sample_unlabeled(self, count: int) -> list[tuple[str, JsonObject]]:
        """(id, info) of up to `count`, each as likely as any other."""

"""The labeled images and their labels as one zip, made while it is sent: neither memory nor disk grows with it."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from labelserver.domain.ids import FINAL, ImageId, Tag
from labelserver.domain.json_types import JsonValue
from labelserver.domain.labels import ImageRecord, Revision
from labelserver.imaging.formats import split_ext
from labelserver.storage.atomic import storage_errors

_CHUNK_BYTES = 2**20

Pair = tuple[str, Path, str, Path]  #: name and file of an image, name and file of its label

#: From a label and its file to a copy that shows it in another way; None: as it is.
LabelView = Callable[[Revision, Path], Path | None]


class Packed(Protocol):
    """What an archive asks of the store that it packs."""

    def get_image_uri(self, image_id: str) -> str: ...

    def get_label_uri(self, label_id: str, label_tag: str) -> str: ...

    def image(self, image_id: ImageId) -> ImageRecord: ...

    def label_file(self, image_id: ImageId, tag: Tag) -> tuple[Revision, Path]: ...


def labeled_files(store: Packed, image_ids: Iterable[str], shown: LabelView | None = None) -> Iterator[Pair]:
    """Each image with its final label, or with the copy of it that `shown` gives, which is deleted after its turn."""
    for image_id in image_ids:
        image, label = store.get_image_uri(image_id), store.get_label_uri(image_id, FINAL)
        if image and label:
            record = store.image(ImageId(image_id))
            copy = shown(*store.label_file(ImageId(image_id), FINAL)) if shown is not None else None
            try:
                name = f"{image_id}{split_ext(Path(label).name)[1]}"
                yield f"{image_id}{record.ext}", Path(image), name, copy or Path(label)
            finally:
                if copy is not None:
                    copy.unlink(missing_ok=True)


class _Outlet:
    """A file that only goes forward, and whose bytes are taken out piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""

    def taken(self) -> bytes:
        """What was written since the last call."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def stream_archive(pairs: Iterable[Pair], metadata: JsonValue) -> Iterator[bytes]:
    """The bytes of a zip with ``image/<name>``, ``label/<name>`` and ``metadata.json`` (the index).

    Files that vanish meanwhile are left out.
    """
    outlet = _Outlet()
    with zipfile.ZipFile(outlet, "w", zipfile.ZIP_STORED, allowZip64=True, strict_timestamps=False) as archive:
        for image_name, image_file, label_name, label_file in pairs:
            if image_file.is_file() and label_file.is_file():
                for name, file in ((f"image/{image_name}", image_file), (f"label/{label_name}", label_file)):
                    entry = zipfile.ZipInfo.from_file(file, name, strict_timestamps=False)
                    with file.open("rb") as stream, archive.open(entry, "w", force_zip64=True) as member:
                        while chunk := stream.read(_CHUNK_BYTES):
                            member.write(chunk)
                            yield outlet.taken()
        archive.writestr("metadata.json", json.dumps(metadata, ensure_ascii=False))
    yield outlet.taken()


def write_archive(folder: Path, pairs: Iterable[Pair], metadata: JsonValue) -> Path:
    """Write `stream_archive` to a file below `folder`, which the caller deletes."""
    with storage_errors("the dataset archive"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="dataset-", suffix=".zip", dir=folder)
        path = Path(name)
        try:
            with open(descriptor, "wb") as stream:
                stream.writelines(stream_archive(pairs, metadata))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path

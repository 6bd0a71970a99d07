"""The labeled images and their labels as one zip, written to a file so that its size costs no memory."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from labelserver.domain.json_types import JsonValue
from labelserver.storage.atomic import storage_errors


def write_archive(folder: Path, pairs: Iterable[tuple[str, Path, str, Path]], metadata: JsonValue) -> Path:
    """Write a zip below `folder` with ``image/<name>``, ``label/<name>`` and ``metadata.json``.

    Args:
        folder: for the file, which the caller deletes.
        pairs: name and file of each image, name and file of its label. Files that vanish meanwhile are left out.
        metadata: the index.
    """
    with storage_errors("the dataset archive"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="dataset-", suffix=".zip", dir=folder)
        path = Path(name)
        try:
            with (
                open(descriptor, "wb") as stream,
                zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True, strict_timestamps=False) as archive,
            ):
                for image_name, image_file, label_name, label_file in pairs:
                    if image_file.is_file() and label_file.is_file():
                        archive.write(image_file, f"image/{image_name}")
                        archive.write(label_file, f"label/{label_name}")
                archive.writestr("metadata.json", json.dumps(metadata, ensure_ascii=False))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path

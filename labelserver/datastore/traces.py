"""Copies of images outside of the store's own folders: what an erasure has to find besides pixels and labels.

Uploads for one-off inference, interactive sessions, files that a crash left in the spool folder, caches that are named
by content instead of by image, and what trainers and jobs put aside in the app folder. What cannot be told apart by
image and is made again when needed goes as a whole. Model versions and exports are not reached.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from labelserver.datastore.layout import Layout
from labelserver.domain.ids import folder_key
from labelserver.domain.json_types import JsonValue
from labelserver.imaging.formats import split_ext
from labelserver.storage.checksums import sha256_of

#: seconds; a spooled file that is older belongs to no request any more
_SPOOLED_S = 3600.0

#: Folders below ``cache/`` in which each image has a folder of its own.
_BY_IMAGE = ("dicom", "training", "volumes", "proposals", "stability")

#: Below the app folder: they hold code, weights and what people said about them.
_APP_KEEPS = ("versions", "lib")


def traces(
    layout: Layout, image_ids: Collection[str], pixels: Collection[Path], uploads: Path, app: Path | None
) -> Iterator[Path]:
    """Files and folders that hold, or may hold, something of these images.

    Args:
        layout: of the store.
        image_ids: what is erased.
        pixels: their files.
        uploads: the folder of uploads (the peer's sessions).
        app: the app folder, if that is to be looked through.
    """
    yield from _sessions(layout.state / "sessions", set(image_ids))
    yield from _uploads(uploads, pixels)
    yield from _spooled(layout.spool)
    cache = layout.state / "cache"
    yield from (p for p in sorted(cache.glob("*")) if p.name not in _BY_IMAGE)
    if app is not None:
        yield from _in_app(app, image_ids)


def _sessions(folder: Path, image_ids: set[str]) -> Iterator[Path]:
    """Interactive sessions on these images; of one that cannot be read, nobody knows."""
    for session in sorted(p for p in folder.glob("*") if p.is_dir()):
        try:
            told = json.loads((session / "session.json").read_bytes())
        except (OSError, ValueError):
            yield session
            continue
        if _mentions(told, image_ids):
            yield session


def _mentions(value: JsonValue, image_ids: set[str]) -> bool:
    if isinstance(value, str):
        return value in image_ids
    if isinstance(value, dict):
        return any(_mentions(item, image_ids) for item in value.values())
    return isinstance(value, list) and any(_mentions(item, image_ids) for item in value)


def _uploads(folder: Path, pixels: Collection[Path]) -> Iterator[Path]:
    """Uploads with a file of the same bytes as one of `pixels`."""
    lent = [(p, p.stat().st_size) for p in sorted(folder.glob("*/content/**/*")) if p.is_file()]
    sizes = {size for _, size in lent}
    digests = {sha256_of(p) for p in pixels if p.is_file() and p.stat().st_size in sizes}
    homes = {folder / p.relative_to(folder).parts[0] for p, _ in lent if digests and sha256_of(p) in digests}
    yield from sorted(homes)


def _spooled(folder: Path) -> Iterator[Path]:
    limit = time.time() - _SPOOLED_S
    for path in sorted(folder.glob("*")):
        if path.lstat().st_mtime < limit:
            yield path


def _in_app(app: Path, image_ids: Collection[str]) -> Iterator[Path]:
    """Caches of trainers, temporary files of jobs, and files and folders that bear an image's name or key."""
    yield from sorted(p for p in app.glob("model/**/cache_*") if p.is_dir())
    yield from sorted(p for p in app.glob("jobs/*/tmp") if p.is_dir())
    names = {folder_key(image_id) for image_id in image_ids} | {i.rpartition("/")[2] for i in image_ids}
    for path in sorted(app.rglob("*")):
        inner = path.relative_to(app).parts
        if inner[0] in _APP_KEEPS or path.suffix in (".py", ".pt", ".pth", ".safetensors"):
            continue
        if path.name in names or split_ext(path.name)[0] in names:
            yield path

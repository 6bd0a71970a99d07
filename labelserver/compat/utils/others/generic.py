"""Small helpers that apps import from here."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import torch

from labelserver.app.label_app import SLIDE_EXTENSIONS
from labelserver.domain.errors import NotThereYet
from labelserver.imaging.formats import media_type, split_ext
from labelserver.storage.atomic import replacing
from labelserver.tasks.devices import device_list, device_map, name_to_device

__all__ = [
    "create_dataset_from_path",
    "device_list",
    "device_map",
    "download_file",
    "file_checksum",
    "file_ext",
    "get_basename",
    "get_basename_no_ext",
    "get_bundle_models",
    "get_mime_type",
    "gpu_count",
    "gpu_memory_map",
    "handle_torch_linalg_multithread",
    "is_openslide_supported",
    "md5_digest",
    "name_to_device",
    "path_to_uri",
    "remove_file",
    "run_command",
    "strtobool",
]


def strtobool(value: Any) -> bool:
    """None is false, a bool itself, yes/true/on/1 true. Raises ValueError for text that says neither."""
    if isinstance(value, bool) or value is None:
        return bool(value)
    text = str(value).strip().lower()
    if text in ("y", "yes", "t", "true", "on", "1"):
        return True
    if text in ("n", "no", "f", "false", "off", "0", ""):
        return False
    raise ValueError(f"{value!r} says neither yes nor no")


def download_file(url: str, path: str, delay: float = 1, skip_on_exists: bool = True) -> None:
    """Fetch `url` into `path`, whole or not at all; an existing file is kept."""
    target = Path(path)
    if skip_on_exists and target.exists():
        return
    with httpx.stream("GET", url, follow_redirects=True, timeout=60) as answer, replacing(target) as stream:
        answer.raise_for_status()
        for block in answer.iter_bytes(1 << 20):
            stream.write(block)
    time.sleep(delay)


def remove_file(path: str | None) -> None:
    """Remove a file or a folder with all in it; nothing if there is none."""
    if path and Path(path).is_dir():
        shutil.rmtree(path)
    elif path:
        Path(path).unlink(missing_ok=True)


def file_ext(name: str | None) -> str:
    """The extension with its dots, such as ``.nii.gz``; "" without one."""
    return split_ext(Path(name).name)[1] if name else ""


def get_basename(path: str | None) -> str:
    """The last part of a path."""
    return Path(path).name if path else ""


def get_basename_no_ext(path: str | None) -> str:
    """The last part of a path without its extension."""
    return split_ext(Path(path).name)[0] if path else ""


def file_checksum(file: str | Path, algo: str = "SHA256") -> str:
    """``ALGO:hex`` of the file's bytes."""
    with Path(file).open("rb") as stream:
        return f"{algo}:{hashlib.file_digest(stream, algo.lower()).hexdigest()}"


def md5_digest(text: str) -> str:
    """Hex digest of a text, for names of caches."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def get_mime_type(file: str) -> str:
    """The media type by the file's name."""
    return media_type(Path(file).name)


def run_command(command: str, args: Sequence[str] | None = None, plogger: Any = None) -> int:
    """Run a program and wait. Returns its exit status."""
    return subprocess.run([command, *(args or [])], check=False).returncode


def gpu_memory_map() -> dict[int, int]:
    """GPU index -> memory in use, MiB."""
    return {index: torch.cuda.memory_reserved(index) >> 20 for index in range(gpu_count())}


def gpu_count() -> int:
    """How many GPUs there are."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def handle_torch_linalg_multithread(request: Any = None) -> None:
    """Nothing to do with the releases of torch that are supported."""


def is_openslide_supported(name: str) -> bool:
    """Whether the name is that of a whole slide."""
    return str(name).lower().endswith(SLIDE_EXTENSIONS)


def path_to_uri(path: str | Path) -> str:
    """``file:///...``."""
    return Path(path).absolute().as_uri()


def create_dataset_from_path(
    folder: str, image_dir: str = "images", label_dir: str = "labels", img_ext: str = ".jpg", lab_ext: str = ".png"
) -> list[dict[str, str]]:
    """``[{"image", "label"}]`` of the images in a folder that have a label of the same name."""
    found = []
    for image in sorted((Path(folder) / image_dir).glob(f"*{img_ext}")):
        label = Path(folder) / label_dir / f"{image.name.removesuffix(img_ext)}{lab_ext}"
        if label.is_file():
            found.append({"image": str(image), "label": str(label)})
    return found


def get_bundle_models(app_dir: str, conf: Mapping[str, str], conf_key: str = "models") -> dict[str, str] | None:
    """Bundle name -> folder below ``<app>/model`` for the names in ``conf[conf_key]``; None if none are named.

    Raises:
        NotThereYet: a bundle that is not in the folder; fetch it with ``python -m monai.bundle download`` first.
    """
    named = [name.strip() for name in (conf.get(conf_key) or "").split(",") if name.strip()]
    if not named:
        return None
    folder = Path(app_dir) / "model"
    chosen = sorted(p.name for p in folder.iterdir() if (p / "configs").is_dir()) if named == ["all"] else named
    missing = [name for name in chosen if not (folder / name).is_dir()]
    if missing:
        raise NotThereYet(
            f"Downloading bundles is not there yet. Fetch {', '.join(missing)} into {folder.name}/ with: "
            "python -m monai.bundle download --bundle_dir model --name NAME"
        )
    return {name: str(folder / name) for name in chosen}

"""A package's files, wherever it is: a build context, a root folder, what `extract` wrote, or an OCI image layout.

Every view answers in the image's own paths. Nothing is unpacked: of an image the lists of its layers are read, and the
contents of small files as they are asked for.
"""

from __future__ import annotations

import json
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from labelserver.domain.errors import InvalidParams, UnreadableFile
from labelserver.export.map import layout

#: bytes; of a manifest, an index or a configuration
_MOST = 4 << 20
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder. `mode`: permission bits."""

    path: str
    is_file: bool
    mode: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an OCI image says about itself."""

    architecture: str
    system: str
    entry: tuple[str, ...]  #: entry point and command
    user: str
    environment: Mapping[str, str]
    labels: Mapping[str, str]  #: labels and annotations


class PackageFiles(Protocol):
    """A view. `config` is None where no image has been built yet."""

    @property
    def config(self) -> ImageConfig | None: ...

    def find(self, path: str) -> Entry | None:
        """What is at a path of the image; None: nothing."""

    def below(self, path: str) -> list[Entry]:
        """All files in a folder of the image, at any depth."""

    def read(self, path: str) -> bytes:
        """Of a file of at most 4 MiB. Raises `UnreadableFile`."""


def opened(place: Path) -> PackageFiles:
    """The view that fits.

    Raises:
        InvalidParams: this is no package in any form.
        UnreadableFile: it is one, and damaged.
    """
    if (place / "oci-layout").is_file():
        return _Layers(place)
    for known in (_ROOT, _CONTEXT, _EXTRACTED):
        if (place / known["/etc/holoscan/app.json"]).is_file() or (place / known["/etc/holoscan/pkg.json"]).is_file():
            return Folder(place, known)
    raise InvalidParams(
        f"{place.name} is no application package: neither an OCI image layout (oci-layout), nor a build context "
        "(map/app.json), nor an image's files (etc/holoscan/app.json), nor what extract wrote (config/app.json)."
    )


def _placed(**parts: str) -> dict[str, str]:
    return {
        layout.APP_MANIFEST: f"{parts['manifests']}/app.json",
        layout.PACKAGE_MANIFEST: f"{parts['manifests']}/pkg.json",
        layout.CONFIG: parts["config"],
        layout.APP: parts["app"],
        layout.MODELS: parts["models"],
        layout.DOCS: parts["docs"],
    }


_CONTEXT = _placed(manifests="map", config="app.yaml", app="app", models="models", docs="docs")
_EXTRACTED = _placed(manifests="config", config="config/app.yaml", app="app", models="models", docs="docs")
_ROOT = {path: path.lstrip("/") for path in _CONTEXT}


@dataclass(frozen=True, slots=True)
class Folder:
    """Files in a folder; `places` says where the parts of an image stand in it."""

    place: Path
    places: Mapping[str, str]
    config: ImageConfig | None = None

    def local(self, path: str) -> Path | None:
        """Where a path of the image is here; None: in no part of a package."""
        path = posixpath.normpath(path)
        for part, here in self.places.items():
            if path == part or path.startswith(f"{part}/"):
                return self.place / here / path[len(part) :].lstrip("/")
        return None

    def find(self, path: str) -> Entry | None:
        found = self.local(path)
        if found is None or not found.exists():
            return None
        status = found.stat()
        return Entry(posixpath.normpath(path), found.is_file(), stat.S_IMODE(status.st_mode), status.st_size)

    def below(self, path: str) -> list[Entry]:
        folder = self.local(path)
        if folder is None or not folder.is_dir():
            return []
        return [
            Entry(f"{posixpath.normpath(path)}/{p.relative_to(folder).as_posix()}", True, 0o644, p.stat().st_size)
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        ]

    def read(self, path: str) -> bytes:
        found = self.local(path)
        try:
            if found is None or found.stat().st_size > _MOST:
                raise UnreadableFile(f"{path} is missing, or larger than {_MOST >> 20} MiB.")
            return found.read_bytes()
        except OSError as error:
            raise UnreadableFile(f"{path} cannot be read: {error.strerror}.") from error


@dataclass(slots=True)
class _Layers:
    """The first image of an OCI layout for Linux."""

    place: Path
    config: ImageConfig | None = None
    _entries: dict[str, Entry] = field(default_factory=dict)
    _where: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            index = self._json(self.place / "index.json")
            described = next(m for m in index["manifests"] if "manifest" in str(m.get("mediaType", "manifest")))
            manifest = self._json(self._blob(described["digest"]))
            if "manifests" in manifest:  # an index in an index: one image for each platform
                described = manifest["manifests"][0]
                manifest = self._json(self._blob(described["digest"]))
            about = self._json(self._blob(manifest["config"]["digest"]))
            self.config = _image_config(about, manifest, described)
            for layer in manifest["layers"]:
                self._add(self._blob(layer["digest"]))
        except (KeyError, IndexError, TypeError, ValueError, StopIteration, OSError, tarfile.TarError) as error:
            raise UnreadableFile(f"{self.place.name} is no readable OCI image layout: {error!r}.") from error

    def find(self, path: str) -> Entry | None:
        return self._entries.get(self._followed(path))

    def below(self, path: str) -> list[Entry]:
        start = f"{self._followed(path)}/"
        return [entry for name, entry in sorted(self._entries.items()) if entry.is_file and name.startswith(start)]

    def read(self, path: str) -> bytes:
        name = self._followed(path)
        entry = self._entries.get(name)
        if entry is None or not entry.is_file or entry.size > _MOST:
            raise UnreadableFile(f"{path} is missing, or larger than {_MOST >> 20} MiB.")
        with tarfile.open(self._where[name]) as layer:
            for member in layer:
                if _path(member.name) == name and (stream := layer.extractfile(member)) is not None:
                    return stream.read()
        raise UnreadableFile(f"{path} is missing.")

    def _followed(self, path: str) -> str:
        """/var/run is a link to /run in every image."""
        path = posixpath.normpath(path)
        return path.replace("/var/run/", "/run/", 1) if path.startswith("/var/run/") else path

    def _add(self, blob: Path) -> None:
        with tarfile.open(blob) as layer:
            for member in layer:
                path = _path(member.name)
                folder, name = posixpath.split(path)
                if name == _OPAQUE:
                    self._remove(folder, keep=True)
                elif name.startswith(_WHITEOUT):
                    self._remove(posixpath.join(folder, name[len(_WHITEOUT) :]))
                else:
                    self._entries[path] = Entry(path, not member.isdir(), member.mode & 0o7777, member.size)
                    self._where[path] = blob

    def _remove(self, path: str, *, keep: bool = False) -> None:
        gone = [n for n in self._entries if n.startswith(f"{path}/") or (n == path and not keep)]
        for name in gone:
            del self._entries[name]

    def _blob(self, digest: str) -> Path:
        kind, _, number = str(digest).partition(":")
        if not kind.isalnum() or not number.isalnum():
            raise ValueError(f"the digest {digest!r}")
        return self.place / "blobs" / kind / number

    def _json(self, path: Path) -> dict[str, Any]:
        if path.stat().st_size > _MOST:
            raise ValueError(f"{path.name} is too large")
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise TypeError(f"{path.name} is no object")
        return document


def _image_config(about: dict[str, Any], manifest: dict[str, Any], described: dict[str, Any]) -> ImageConfig:
    run = about.get("config") or {}
    pairs = (str(item).partition("=") for item in run.get("Env") or [])
    annotations: Iterator[Mapping[str, Any]] = (part.get("annotations") or {} for part in (described, manifest))
    labels = {name: value for part in annotations for name, value in part.items()} | (run.get("Labels") or {})
    return ImageConfig(
        str(about.get("architecture", "")),
        str(about.get("os", "")),
        tuple(str(word) for word in [*(run.get("Entrypoint") or []), *(run.get("Cmd") or [])]),
        str(run.get("User", "")),
        {name: value for name, _, value in pairs},
        {str(name): str(value) for name, value in labels.items()},
    )


def _path(name: str) -> str:
    return posixpath.normpath(f"/{name.removeprefix('./').lstrip('/')}")

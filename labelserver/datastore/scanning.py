"""What lies in the studies folder: image files, and folders with files that may be DICOM.

One walk with `os.scandir`; no file is opened. Hidden names, the state folder and the labels folder are skipped;
symbolic links are followed, except into a folder that the walk is already inside of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from labelserver.datastore.layout import Layout
from labelserver.imaging.formats import DICOM_EXTENSIONS, IMAGE_EXTENSIONS, LABEL_EXTENSIONS, split_ext

#: Common files beside images that are surely no DICOM and need not be opened to know.
_OTHER_FILES = (*LABEL_EXTENSIONS, ".md", ".pdf", ".zip", ".gz", ".py", ".yaml", ".yml", ".log", ".html", ".tsv")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An image file; `path` is below the images folder, with "/"."""

    path: str
    ext: str
    size_bytes: int
    mtime_ns: int


@dataclass(slots=True)
class FoundFolder:
    """A folder with files that may be DICOM: name, size and mtime of each."""

    path: str
    files: list[tuple[str, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Found:
    """Result of a walk. `unreadable` are folders and files that could not be looked at, with the reason."""

    files: list[FoundFile] = field(default_factory=list)
    folders: list[FoundFolder] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


class Scanner:
    """Walks the images folder of one store."""

    def __init__(self, layout: Layout, patterns: tuple[str, ...]) -> None:
        self._root = layout.images
        self._skipped = {layout.state, layout.given_labels}
        if layout.labels is not None:
            self._skipped.add(layout.labels)
        self._config_name = layout.config_file.name
        self._patterns = tuple(p.lower() for p in patterns)
        self._takes_dicom = not patterns or any(fnmatchcase("x.dcm", p) or p == "*" for p in self._patterns)

    def image_ext(self, name: str) -> str:
        """The extension if a file of this name is an image here, else ""."""
        ext = split_ext(name)[1]
        if ext.lower() not in IMAGE_EXTENSIONS or name.startswith("."):
            return ""
        lower = name.lower()
        return ext if not self._patterns or any(fnmatchcase(lower, p) for p in self._patterns) else ""

    def may_be_dicom(self, name: str) -> bool:
        if not self._takes_dicom or name.startswith(".") or name == self._config_name:
            return False
        ext = split_ext(name)[1].lower()
        return ext in DICOM_EXTENSIONS or (ext not in IMAGE_EXTENSIONS and ext not in _OTHER_FILES)

    def walk(self, below: str = "", *, deep: bool = True) -> Found:
        """Look at the folder `below` (relative to the images folder) and, if `deep`, at all folders in it."""
        found = Found()
        start = self._root / below if below else self._root
        self._walk(start, f"{below}/" if below else "", found, _identities(start), deep=deep)
        return found

    def skips(self, path: Path) -> bool:
        """True for paths that no walk would reach: hidden, the server's own, or outside of the images folder."""
        if not path.is_relative_to(self._root):
            return True
        if any(path == s or path.is_relative_to(s) for s in self._skipped):
            return True
        return any(part.startswith(".") for part in path.relative_to(self._root).parts)

    def _walk(self, folder: Path, prefix: str, found: Found, above: set[tuple[int, int]], *, deep: bool) -> None:
        dicom = FoundFolder(prefix.rstrip("/"))
        inner: list[tuple[Path, str, bool]] = []
        try:
            for entry in _entries(folder):
                name = entry.name
                if name.startswith(".") or not _is_text(name):
                    continue
                try:
                    if entry.is_dir():
                        inner.append((folder / name, f"{prefix}{name}/", entry.is_symlink()))
                        continue
                    ext = self.image_ext(name)
                    if ext:
                        status = entry.stat()
                        found.files.append(FoundFile(prefix + name, ext, status.st_size, status.st_mtime_ns))
                    elif self.may_be_dicom(name):
                        status = entry.stat()
                        dicom.files.append((name, status.st_size, status.st_mtime_ns))
                except OSError as error:  # a dangling link, or a file that went away meanwhile
                    if entry.is_symlink():
                        found.unreadable.append((prefix + name, f"The link leads nowhere: {error.strerror}."))
        except OSError as error:
            found.unreadable.append((prefix or ".", f"The folder cannot be read: {error.strerror}."))
            return
        if dicom.files:
            dicom.files.sort()
            found.folders.append(dicom)
        for path, inner_prefix, is_link in inner if deep else ():
            self._enter(path, inner_prefix, found, above, is_link=is_link)

    def _enter(self, path: Path, prefix: str, found: Found, above: set[tuple[int, int]], *, is_link: bool) -> None:
        if path in self._skipped:
            return
        identity = _identity(path)
        if identity is None or identity in above:
            reason = "leads back into a folder above it" if identity else "cannot be followed"
            if is_link:
                found.unreadable.append((prefix.rstrip("/"), f"The link {reason} and is not followed."))
            return
        self._walk(path, prefix, found, above | {identity}, deep=True)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def _is_text(name: str) -> bool:
    """False for names that are not valid UTF-8 (surrogates); they cannot be sent to a client."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _identities(start: Path) -> set[tuple[int, int]]:
    return {identity for p in (start, *start.parents) if (identity := _identity(p)) is not None}


def walk_files(root: Path, visit: Callable[[str, os.stat_result], None]) -> None:
    """Call `visit` with path (below `root`, with "/") and status of each visible regular file below `root`."""
    stack = [("", root)]
    while stack:
        prefix, folder = stack.pop()
        try:
            for entry in _entries(folder):
                if entry.name.startswith(".") or not _is_text(entry.name):
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        stack.append((f"{prefix}{entry.name}/", folder / entry.name))
                    elif entry.is_file():
                        visit(prefix + entry.name, entry.stat())
                except OSError:
                    continue
        except OSError:
            continue

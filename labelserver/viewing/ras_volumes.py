"""Images decoded once, in the order in which a viewer reads them, kept on disk.

    cache/volumes/<image>/source.json               which file was decoded, and its content
    cache/volumes/<image>/<content>-<frame>.json    the header
    cache/volumes/<image>/<content>-<frame>.raw     the voxels, x fastest on the RAS+ grid
    cache/volumes/<image>/<content>-<frame>-<z0>-<z1>.gz   slabs for callers of other machines

`content` is the SHA-256 of the image's file, so that what is kept never grows old. All files together stay within a
limit; what was not used for longest goes first. A slab is one read at an offset; nothing is mapped, because a mapped
file that somebody cuts short kills the process that reads it. Everything may block.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import Conflict, ImageNotFound, InvalidParams, StoredDataInvalid
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId, folder_key
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.formats import is_picture
from labelserver.imaging.reordering import AxisChange, orientation_code, ras_change
from labelserver.imaging.showing import Showable, Window, read_showable
from labelserver.imaging.volumes import read_grid
from labelserver.storage.atomic import TEMPORARY_PREFIX, storage_errors
from labelserver.storage.checksums import sha256_of

logger = logging.getLogger(__name__)

#: slices of a slab that is kept as gzip
SLAB = 8
#: digits of the SHA-256 that name a content
_DIGITS = 32
#: seconds; a file may change twice within the tick of its clock, so a younger one is looked at again.
_SETTLED_S = 2.0
#: of the files in the cache; another number makes all of them anew
_FORMAT = 1
#: bytes of voxels that are re-ordered at a time
_PIECE_BYTES = 2 << 20
_GZIP_LEVEL = 1


#: Of a file: name, bytes, time of the last change in ns, inode.
Signature: TypeAlias = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Placed:
    """The file's grid, and what brings it to RAS+; pictures stay as they are."""

    file: Grid
    change: AxisChange
    is_picture: bool

    @property
    def grid(self) -> Grid:
        return self.change.apply_to_grid(self.file)


def placed(path: Path) -> Placed:
    """Where the image in `path` lies. Raises as `imaging.volumes.read_grid`."""
    return placed_on(read_grid(path), picture=is_picture(path.suffix))


def placed_on(grid: Grid, *, picture: bool) -> Placed:
    """A picture's axes mean nothing, so they are kept."""
    change = AxisChange((0, 1, 2), (False, False, False)) if picture else ras_change(grid)
    return Placed(grid, change, picture)


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """What a viewer must know before the voxels. Real value = `slope` * stored + `intercept`."""

    content: str
    picture: bool
    dims: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]  #: RAS+ grid to mm, 4 x 4
    dtype: str  #: uint8 or int16
    components: int
    frames: int
    slope: float
    intercept: float
    low: float
    high: float
    windows: tuple[Window, ...]
    orientation: str  #: of the file
    not_finite: int

    @property
    def slice_bytes(self) -> int:
        return self.dims[0] * self.dims[1] * self.components * np.dtype(self.dtype).itemsize

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return Grid(self.dims, np.asarray(self.affine)).spacing_mm


class RasVolumes:
    """The cache below one state folder. Threads may share it."""

    def __init__(self, state: Path, limit_bytes: int) -> None:
        self._root = state / "cache" / "volumes"
        self._limit_bytes = limit_bytes
        self._guard = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._headers: OrderedDict[Path, VolumeHeader] = OrderedDict()
        self._seen: dict[Path, tuple[Signature, str]] = {}  #: by the image's folder: its file and the content of that

    def header(self, image_id: ImageId, path: Path, frame: int = 0) -> VolumeHeader:
        """Decode the image in `path` if that was not done yet.

        Raises:
            ImageNotFound: the file is gone. InvalidParams: no such frame.
            UnreadableFile, UnsupportedFormat: it cannot be shown. DiskFull.
        """
        folder = self._root / folder_key(image_id)
        with self._one_at_a_time(folder.name):
            content = self._content(folder, path)
            found = self._kept(folder, content, frame)
            return found if found is not None else self._make(folder, path, content, frame)

    def slab(self, image_id: ImageId, path: Path, z0: int, z1: int, *, content: str, frame: int = 0) -> bytes:
        """The bytes of slices z0 <= z < z1.

        Args:
            content: of the header that the caller knows; "": whatever is there.

        Raises:
            Conflict: the image has other pixels now. InvalidParams: no such slices. Else as `header`.
        """
        header, file = self._open(image_id, path, content, frame)
        try:
            return _read(file, header, z0, z1)
        except FileNotFoundError:  # to make room, between two lines
            header = self.header(image_id, path, frame)
            return _read(file, header, z0, z1)

    def packed_slab(self, image_id: ImageId, path: Path, z0: int, z1: int, *, content: str, frame: int = 0) -> bytes:
        """As `slab`, as gzip; slabs that viewers ask for are kept."""
        header, file = self._open(image_id, path, content, frame)
        usual = z1 - z0 == 1 or (z0 % SLAB == 0 and z1 == min(z0 + SLAB, header.dims[2]))
        kept = file.with_name(f"{file.stem}-{z0}-{z1}.gz")
        if usual and kept.is_file():
            return kept.read_bytes()
        packed = gzip.compress(self.slab(image_id, path, z0, z1, content=header.content, frame=frame), _GZIP_LEVEL)
        if usual:
            _write(kept, packed)
        return packed

    def _open(self, image_id: ImageId, path: Path, content: str, frame: int) -> tuple[VolumeHeader, Path]:
        folder = self._root / folder_key(image_id)
        file = _raw_name(folder, content, frame)
        header = self._headers.get(file) if content and self._seen.get(folder) == (_signature(path), content) else None
        if header is None or not file.is_file():
            header = self.header(image_id, path, frame)
        if content and content != header.content:
            raise Conflict(
                "The image has other pixels now. Get its header again.", content=header.content, asked=content[:64]
            )
        return header, _raw_name(folder, header.content, frame)

    def _content(self, folder: Path, path: Path) -> str:
        """Of the file at `path`, which is read only if it is not the one that was read before."""
        note = folder / "source.json"
        signature = _signature(path)
        content = _noted(note, signature)
        if content is None:
            content = sha256_of(path)[:_DIGITS]
            if time.time() - signature[2] / 1e9 > _SETTLED_S:
                _write(note, json.dumps({"format": _FORMAT, "file": signature, "content": content}).encode())
        with self._guard:
            self._seen[folder] = (signature, content)
        return content

    def _kept(self, folder: Path, content: str, frame: int) -> VolumeHeader | None:
        file = _raw_name(folder, content, frame)
        try:
            header = self._headers.get(file) or _header_from(json.loads(file.with_suffix(".json").read_bytes()))
            if file.stat().st_size != header.slice_bytes * header.dims[2]:
                return None
            os.utime(file)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return self._remember(file, header)

    def _make(self, folder: Path, path: Path, content: str, frame: int) -> VolumeHeader:
        try:
            image = read_showable(path, frame)
        except IndexError as error:
            raise InvalidParams(f"The image {path.name} has no frame {frame}.") from error
        where = placed_on(image.grid, picture=is_picture(path.suffix))
        header = _header_of(image, where, content, picture=is_picture(path.suffix))
        file = _raw_name(folder, content, frame)
        self._make_room(header.slice_bytes * header.dims[2])
        with storage_errors("a decoded image"):
            folder.mkdir(parents=True, exist_ok=True)
            _write_voxels(image, where.change, file)
            _write(file.with_suffix(".json"), json.dumps(_header_to(header)).encode())
        for old in folder.glob("*-*"):  # of what the image was before
            if not old.name.startswith(content):
                old.unlink(missing_ok=True)
        return self._remember(file, header)

    def _remember(self, file: Path, header: VolumeHeader) -> VolumeHeader:
        with self._guard:
            self._headers[file] = header
            self._headers.move_to_end(file)
            while len(self._headers) > 256:
                self._headers.popitem(last=False)
        return header

    def _one_at_a_time(self, name: str) -> threading.Lock:
        with self._guard:
            if len(self._making) > 1024:
                self._making = {key: lock for key, lock in self._making.items() if lock.locked()}
            return self._making.setdefault(name, threading.Lock())

    def _make_room(self, needed_bytes: int) -> None:
        """Remove what was not used for longest until `needed_bytes` fit, too."""
        found = []
        for path in self._root.glob("*/*") if self._root.is_dir() else ():
            try:
                status = path.stat()
            except OSError:  # removed meanwhile
                continue
            if path.suffix in (".raw", ".gz"):
                found.append((status.st_mtime, status.st_size, path))
        total = needed_bytes + sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _signature(path: Path) -> Signature:
    """Raises `ImageNotFound`."""
    try:
        status = path.stat()
    except OSError as error:
        raise ImageNotFound(f"The file of the image is gone: {path.name}.") from error
    return (path.name, status.st_size, status.st_mtime_ns, status.st_ino)


def _noted(note: Path, signature: Signature) -> str | None:
    """The content of the file of this signature, if the note is about that."""
    try:
        told = json.loads(note.read_bytes())
        return str(told["content"]) if (told["format"], told["file"]) == (_FORMAT, [*signature]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _raw_name(folder: Path, content: str, frame: int) -> Path:
    return folder / f"{content}-{frame}.raw"


def _read(file: Path, header: VolumeHeader, z0: int, z1: int) -> bytes:
    depth = header.dims[2]
    if not 0 <= z0 < z1 <= depth:
        raise InvalidParams(f"There are no slices from {z0} to {z1}: the image has {depth}; z1 is one behind the last.")
    wanted, offset = header.slice_bytes * (z1 - z0), header.slice_bytes * z0
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(wanted)
    if len(data) < wanted:
        raise StoredDataInvalid("The decoded image on the server is cut short. Open the image again.")
    return data


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all. Not synced: a cache can be made again."""
    with storage_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(prefix=TEMPORARY_PREFIX, dir=path.parent, delete=False) as beside:
            beside.write(data)
        Path(beside.name).replace(path)


def _write_voxels(image: Showable, change: AxisChange, file: Path) -> None:
    """A few slices at a time, by plain writes: a full disk is an error then, and no signal."""
    view = change.apply(image.voxels)
    slice_bytes = math.prod((*view.shape[:2], image.components)) * image.dtype.itemsize
    step = max(1, _PIECE_BYTES // slice_bytes)
    with NamedTemporaryFile(prefix=TEMPORARY_PREFIX, dir=file.parent, delete=False) as beside:
        try:
            for begin in range(0, view.shape[2], step):
                part = image.stored(_near(view[:, :, begin : begin + step]))
                rows = part.transpose((2, 1, 0, 3) if part.ndim == 4 else (2, 1, 0))
                beside.write(np.ascontiguousarray(rows.astype(image.dtype.newbyteorder("<"), copy=False)).data)
        except BaseException:
            Path(beside.name).unlink(missing_ok=True)
            raise
    Path(beside.name).replace(file)


def _near(part: NDArray[Any]) -> NDArray[Any]:
    """A copy whose voxels lie together, in the order of their memory, where the part's do not.

    Turning axes then stays within the processor's cache; a little space between the rows keeps a power of two from
    sending all of them to the same place in it. Five times as fast as without.
    """
    order = sorted(range(part.ndim), key=lambda axis: -abs(part.strides[axis]))
    if order == sorted(order, reverse=True):
        return part
    there = part.transpose(order)
    near = np.empty((*there.shape[:-1], there.shape[-1] + 24), part.dtype)[..., : there.shape[-1]]
    near[...] = there
    return near.transpose([order.index(axis) for axis in range(part.ndim)])


def _header_of(image: Showable, where: Placed, content: str, *, picture: bool) -> VolumeHeader:
    grid = where.grid
    return VolumeHeader(
        content=content,
        picture=picture,
        dims=grid.shape,
        affine=tuple(tuple(float(n) for n in row) for row in grid.affine),
        dtype=image.dtype.name,
        components=image.components,
        frames=image.frames,
        slope=image.slope,
        intercept=image.intercept,
        low=image.low,
        high=image.high,
        windows=image.windows,
        orientation="" if picture else orientation_code(where.file),
        not_finite=image.not_finite,
    )


def _header_to(header: VolumeHeader) -> JsonObject:
    plain = {name: getattr(header, name) for name in VolumeHeader.__slots__ if name != "windows"}
    return {**plain, "windows": [[w.name, w.center, w.width] for w in header.windows]}


def _header_from(document: JsonObject) -> VolumeHeader:
    windows, dims, affine = document.pop("windows"), document.pop("dims"), document.pop("affine")
    made = VolumeHeader(
        **document,  # type: ignore[arg-type]  # written by `_header_to`; a wrong one is made anew
        dims=tuple(dims),  # type: ignore[arg-type]
        affine=tuple(tuple(row) for row in affine),  # type: ignore[union-attr, arg-type]
        windows=(),
    )
    return replace(made, windows=tuple(Window(*told) for told in windows))  # type: ignore[union-attr, misc]

"""NRRD: space directions in LPS, RAS or LAS, flipped to RAS+ here.

Source: https://teem.sourceforge.net/nrrd/format.html, section 5 ("space").
"""

from __future__ import annotations

import bz2
import math
import re
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import nrrd
import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.imaging.limits import check_declared, unreadable
from labelserver.imaging.volume import LPS_TO_RAS, Volume, affine_of

_FOREIGN = (nrrd.NRRDError, zlib.error)

_TO_RAS = {
    "left-posterior-superior": LPS_TO_RAS[:3, :3],
    "lps": LPS_TO_RAS[:3, :3],
    "right-anterior-superior": np.eye(3),
    "ras": np.eye(3),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0]),
}

#: zlib level; see nifti.py
_COMPRESS_LEVEL = 1

#: What inflates a stream piece by piece, by the name of the encoding.
_INFLATERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    "gz": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    "bzip2": bz2.BZ2Decompressor,
    "bz2": bz2.BZ2Decompressor,
}

#: A segmentation with a thousand segments has some 400 KB.
_MAX_HEADER_BYTES = 64 * 2**20

_SKIPS = frozenset(("line skip", "lineskip", "byte skip", "byteskip"))

NrrdHeader = dict[str, Any]  #: pynrrd parses values by their field; untyped


def read_header(path: Path) -> NrrdHeader:
    """The header, after its declared size was found possible."""
    with unreadable(path, "NRRD", *_FOREIGN):
        with path.open("rb") as stream:
            header = _parsed(stream)
            data_offset = stream.tell()
        sizes = [int(n) for n in header["sizes"]]
        item = np.dtype(nrrd.reader._TYPEMAP_NRRD2NUMPY[header["type"]]).itemsize
    if "data file" in header or "datafile" in header:
        raise UnreadableFile(f"{path.name} keeps its voxels in another file; send one file with header and voxels.")
    compressed = str(header.get("encoding", "raw")).lower() not in ("raw", "txt", "text", "ascii")
    check_declared(path, sizes, item, compressed=compressed, data_offset=data_offset)
    return header


def _parsed(stream: BinaryIO) -> NrrdHeader:
    """The header at the beginning of `stream`, which then stands at the voxels. Names of segments are UTF-8.

    Raises ValueError if it does not end.
    """
    lines: list[str] = []
    left = _MAX_HEADER_BYTES
    while line := stream.readline(left + 1):
        left -= len(line)
        if left < 0:
            raise ValueError(f"its header is longer than {_MAX_HEADER_BYTES} bytes")
        lines.append(_text(line).rstrip("\r\n"))
        if not lines[-1].strip():
            break
    header: NrrdHeader = nrrd.read_header(lines)
    return header


def _text(line: bytes) -> str:
    """Old programs write Latin-1."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def grid_of(path: Path, header: NrrdHeader) -> tuple[Grid, int | None]:
    """The grid of the three space axes, and the position of a further axis (layers or channels), if any."""
    sizes = [int(n) for n in header["sizes"]]
    directions = header.get("space directions")
    if directions is None:
        return _without_directions(path, header, sizes)
    rows = [np.asarray(d, dtype=np.float64) if d is not None else np.full(3, np.nan) for d in directions]
    spatial = [axis for axis, row in enumerate(rows) if np.isfinite(row).all()]
    other = [axis for axis in range(len(rows)) if axis not in spatial]
    name = str(header.get("space", "left-posterior-superior")).lower()
    if len(spatial) != 3 or len(other) > 1 or name not in _TO_RAS:
        raise UnreadableFile(
            f"{path.name} has {len(spatial)} space axes in the space {name!r}; three in LPS, RAS or LAS are read."
        )
    flip = _TO_RAS[name]
    columns = flip @ np.stack([rows[axis] for axis in spatial], axis=1)
    origin = flip @ np.asarray(header.get("space origin", np.zeros(3)), dtype=np.float64)
    if not np.isfinite(origin).all() or abs(np.linalg.det(columns)) < 1e-12:
        raise UnreadableFile(f"{path.name} has space directions that do not span space.")
    shape = tuple(sizes[axis] for axis in spatial)
    return Grid((shape[0], shape[1], shape[2]), affine_of(columns, origin)), (other[0] if other else None)


def read_grid(path: Path) -> Grid:
    """Shape and RAS+ affine from the header."""
    return grid_of(path, read_header(path))[0]


def read(path: Path) -> Volume:
    """Voxels (I, J, K), or (I, J, K, channels) for a file with one further axis."""
    grid, other = grid_of(path, read_header(path))
    voxels = read_voxels(path)
    if other is not None:
        voxels = np.moveaxis(voxels, other, -1)
    return Volume(voxels.reshape((*grid.shape, *voxels.shape[3:])), grid)


def read_voxels(path: Path) -> NDArray[Any]:
    """The array as stored, first axis fastest. No more is inflated than the header declares."""
    with unreadable(path, "NRRD", *_FOREIGN):
        with path.open("rb") as stream:
            header = _parsed(stream)
            inflate = _INFLATERS.get(str(header["encoding"]).lower())
            if inflate is not None and not _SKIPS & header.keys():
                return _inflated(stream.read(), inflate(), header)
        if inflate is not None:
            raise ValueError("compressed voxels behind a byte skip or line skip are not read")
        voxels: NDArray[Any] = nrrd.read(str(path), index_order="F")[0]
    return voxels


def _inflated(data: bytes, inflater: Any, header: NrrdHeader) -> NDArray[Any]:
    """Raises ValueError if it is not what the header declares."""
    dtype: np.dtype[Any] = nrrd.reader._determine_datatype(header)
    shape = tuple(int(n) for n in header["sizes"])
    declared = math.prod(shape) * dtype.itemsize
    found = inflater.decompress(data, declared + 1)
    if len(found) != declared:
        more = "more than " if len(found) > declared else f"{len(found)} instead of "
        raise ValueError(f"it holds {more}{declared} bytes of voxels")
    return np.frombuffer(bytearray(found), dtype).reshape(shape, order="F")


def geometry_fields(affine: NDArray[np.float64], *, list_axis: bool = False) -> NrrdHeader:
    """Header fields for a RAS+ affine, written in LPS as 3D Slicer does."""
    lps = LPS_TO_RAS @ affine
    directions = lps[:3, :3].T
    if list_axis:
        directions = np.vstack([np.full(3, np.nan), directions])
    return {
        "space": "left-posterior-superior",
        "kinds": [*(["list"] if list_axis else []), "domain", "domain", "domain"],
        "space directions": directions,
        "space origin": lps[:3, 3],
    }


def write(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], *, compress: bool) -> None:
    """Write (I, J, K) or (I, J, K, channels) voxels; bool becomes uint8. Raw encoding unless `compress`."""
    data = voxels.astype(np.uint8) if voxels.dtype == np.bool_ else voxels
    fields = geometry_fields(affine, list_axis=data.ndim == 4)
    write_array(path, np.moveaxis(data, -1, 0) if data.ndim == 4 else data, fields, compress=compress)


def write_array(path: Path, array: NDArray[Any], fields: NrrdHeader, *, compress: bool) -> None:
    """Write an array with these header fields, whose text may be any."""
    voxels = np.ascontiguousarray(array.T)  # a view of what lies with its first axis fastest, as the file wants it
    with path.open("wb") as stream:
        stream.write(_header(array.dtype, array.shape, fields, "gzip" if compress else "raw"))
        if not voxels.size:
            return
        if not compress:
            stream.write(voxels.data)
            return
        deflater = zlib.compressobj(_COMPRESS_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        stream.write(deflater.compress(voxels.data))
        stream.write(deflater.flush())


#: Headers written last, by what they say: the masks of one image have the same, and pynrrd takes its time.
_headers: dict[tuple[str, ...], bytes] = {}
_MOST_HEADERS = 64
#: The line in which pynrrd tells the time; without it a header can be kept, and equal masks are equal files.
_WRITTEN_ON = re.compile(rb"^# on .*\n", re.MULTILINE)


def _header(dtype: np.dtype[Any], shape: tuple[int, ...], fields: NrrdHeader, encoding: str) -> bytes:
    """By pynrrd for a single voxel, because it would copy all voxels first, and writes ASCII alone."""
    said = [value.tobytes().hex() if isinstance(value, np.ndarray) else repr(value) for value in fields.values()]
    name = (encoding, dtype.str, repr(shape), *fields, *said)
    if (kept := _headers.get(name)) is not None:
        return kept
    written = BytesIO()
    single = np.zeros((1,) * len(shape), dtype)
    texts = {key: value for key, value in fields.items() if isinstance(value, str) and not _is_plain(value)}
    marks = {key: f"text-{number}-of-{len(texts)}" for number, key in enumerate(texts)}
    nrrd.write(written, single, {**fields, **marks, "encoding": "raw"}, index_order="F")
    head = _WRITTEN_ON.sub(b"", written.getvalue()[: -single.nbytes])
    sizes = " ".join(str(size) for size in shape)
    head = head.replace(b"\nsizes: " + b" ".join([b"1"] * len(shape)), f"\nsizes: {sizes}".encode(), 1)
    head = head.replace(b"\nencoding: raw\n", f"\nencoding: {encoding}\n".encode(), 1)
    for key, value in texts.items():
        one_line = " ".join(value.split())  # a line break would begin another field
        head = head.replace(f"\n{key}:={marks[key]}\n".encode(), f"\n{key}:={one_line}\n".encode(), 1)
    if len(_headers) >= _MOST_HEADERS:
        _headers.clear()
    _headers[name] = head
    return head


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _without_directions(path: Path, header: NrrdHeader, sizes: list[int]) -> tuple[Grid, int | None]:
    """A plain NRRD has at most spacings; it is taken to lie along the LPS axes."""
    if len(sizes) not in (2, 3):
        raise UnreadableFile(f"{path.name} has {len(sizes)} axes and no space directions; its geometry is unknown.")
    spacings = np.asarray(header.get("spacings", np.ones(len(sizes))), dtype=np.float64)
    spacing = np.ones(3)
    spacing[: len(sizes)] = np.where(np.isfinite(spacings) & (spacings > 0), spacings, 1.0)
    shape = (*sizes, 1)[:3]
    return Grid((shape[0], shape[1], shape[2]), LPS_TO_RAS @ np.diag([*spacing, 1.0])), None

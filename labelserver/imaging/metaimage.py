"""MetaImage in one file (.mha): a text header, then the voxels, plain or deflated. Positions are LPS+.

Source: https://itk.org/Wiki/ITK/MetaIO/Documentation. No library of ours reads it, and the header is a dozen lines.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.imaging.limits import check_declared, unreadable
from labelserver.imaging.volume import LPS_TO_RAS, Volume, affine_of

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_NAMES = {code: name for name, code in _TYPES.items()}

#: bytes; a header of a sane file is below 2 KiB
_MAX_HEADER = 64 * 1024


def read_grid(path: Path) -> Grid:
    """Shape and RAS+ affine from the header."""
    return _parse(path)[0]


def read(path: Path) -> Volume:
    """Voxels (I, J, K), or (I, J, K, channels)."""
    grid, dtype, channels, compressed, offset = _parse(path)
    expected = int(np.prod(grid.shape)) * channels * dtype.itemsize
    with unreadable(path, "MetaImage", zlib.error), path.open("rb") as stream:
        stream.seek(offset)
        data = zlib.decompressobj().decompress(stream.read(), expected) if compressed else stream.read(expected)
    if len(data) < expected:
        raise UnreadableFile(f"{path.name} holds {len(data)} of {expected} bytes of voxels: it is cut short.")
    shape = (channels, *grid.shape) if channels > 1 else grid.shape
    voxels = np.frombuffer(data, dtype).reshape(shape, order="F")
    return Volume(np.moveaxis(voxels, 0, -1) if channels > 1 else voxels, grid)


def write(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], *, compress: bool) -> None:
    """Write (I, J, K) voxels; bool becomes uint8."""
    data = voxels.astype(np.uint8) if voxels.dtype == np.bool_ else voxels
    little = np.asarray(data, dtype=data.dtype.newbyteorder("<"))
    code = f"{data.dtype.kind}{data.dtype.itemsize}"
    payload = little.tobytes(order="F")
    payload = zlib.compress(payload, 1) if compress else payload
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(compress),
        **({"CompressedDataSize": str(len(payload))} if compress else {}),
        "TransformMatrix": _text((lps[:3, :3] / spacing).T.ravel()),
        "Offset": _text(lps[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _text(spacing),
        "DimSize": " ".join(str(n) for n in data.shape),
        "ElementType": _NAMES[code],
        "ElementDataFile": "LOCAL",
    }
    header = "".join(f"{key} = {value}\n" for key, value in fields.items())
    path.write_bytes(header.encode() + payload)


def _text(values: NDArray[np.float64]) -> str:
    return " ".join(repr(float(v)) for v in values)


def _parse(path: Path) -> tuple[Grid, np.dtype[Any], int, bool, int]:
    """Grid, dtype, channels, whether deflated, and where the voxels begin."""
    with path.open("rb") as stream:
        head = stream.read(_MAX_HEADER)
    mark = head.find(b"ElementDataFile")
    end = head.find(b"\n", mark)
    if mark < 0 or end < 0:
        raise UnreadableFile(f"{path.name} is not a readable MetaImage file: its header has no ElementDataFile.")
    lines = [line.partition("=") for line in head[:end].decode("latin-1").splitlines()]
    fields = {key.strip(): value.strip() for key, _, value in lines}
    with unreadable(path, "MetaImage"):
        if fields["ElementDataFile"].upper() != "LOCAL":
            raise ValueError("its voxels lie in another file")
        order = ">" if fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB")) == "True" else "<"
        dtype = np.dtype(order + _TYPES[fields["ElementType"]])
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        compressed = fields.get("CompressedData", "False") == "True"
        grid = _grid(fields)
    check_declared(path, (*grid.shape, channels), dtype.itemsize, compressed=compressed, data_offset=end + 1)
    return grid, dtype, channels, compressed, end + 1


def _grid(fields: dict[str, str]) -> Grid:
    sizes = [int(n) for n in fields["DimSize"].split()]
    if len(sizes) != 3:
        raise ValueError(f"it has {len(sizes)} axes instead of three")
    matrix = np.array(fields.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split(), dtype=np.float64).reshape(3, 3).T
    origin = np.array(fields.get("Offset", fields.get("Position", "0 0 0")).split(), dtype=np.float64)
    spacing = np.array(fields.get("ElementSpacing", fields.get("ElementSize", "1 1 1")).split(), dtype=np.float64)
    lps = affine_of(matrix * spacing, origin)
    if not np.isfinite(lps).all() or abs(np.linalg.det(lps[:3, :3])) < 1e-12:
        raise ValueError("its directions do not span space")
    return Grid((sizes[0], sizes[1], sizes[2]), LPS_TO_RAS @ lps)

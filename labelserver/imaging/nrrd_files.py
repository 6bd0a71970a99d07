"""NRRD: space directions in LPS, RAS or LAS, flipped to RAS+ here.

Source: https://teem.sourceforge.net/nrrd/format.html, section 5 ("space").
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

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

NrrdHeader = dict[str, Any]  #: pynrrd parses values by their field; untyped


def read_header(path: Path) -> NrrdHeader:
    """The header, after its declared size was found possible."""
    with unreadable(path, "NRRD", *_FOREIGN), path.open("rb") as stream:
        header: NrrdHeader = nrrd.read_header(stream)
        data_offset = stream.tell()
        sizes = [int(n) for n in header["sizes"]]
        item = np.dtype(nrrd.reader._TYPEMAP_NRRD2NUMPY[header["type"]]).itemsize
    if "data file" in header or "datafile" in header:
        raise UnreadableFile(f"{path.name} keeps its voxels in another file; send one file with header and voxels.")
    compressed = str(header.get("encoding", "raw")).lower() not in ("raw", "txt", "text", "ascii")
    check_declared(path, sizes, item, compressed=compressed, data_offset=data_offset)
    return header


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
    """The array as stored, first axis fastest."""
    with unreadable(path, "NRRD", *_FOREIGN):
        voxels: NDArray[Any] = nrrd.read(str(path), index_order="F")[0]
    return voxels


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
    """Write an array with these header fields."""
    header = {**fields, "encoding": "gzip" if compress else "raw"}
    nrrd.write(str(path), array, header, index_order="F", compression_level=_COMPRESS_LEVEL)


def _without_directions(path: Path, header: NrrdHeader, sizes: list[int]) -> tuple[Grid, int | None]:
    """A plain NRRD has at most spacings; it is taken to lie along the LPS axes."""
    if len(sizes) not in (2, 3):
        raise UnreadableFile(f"{path.name} has {len(sizes)} axes and no space directions; its geometry is unknown.")
    spacings = np.asarray(header.get("spacings", np.ones(len(sizes))), dtype=np.float64)
    spacing = np.ones(3)
    spacing[: len(sizes)] = np.where(np.isfinite(spacings) & (spacings > 0), spacings, 1.0)
    shape = (*sizes, 1)[:3]
    return Grid((shape[0], shape[1], shape[2]), LPS_TO_RAS @ np.diag([*spacing, 1.0])), None

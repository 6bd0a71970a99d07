"""The DICOM files of a folder as series, and a series as one volume.

Slices are placed by ImagePositionPatient and ImageOrientationPatient alone; SliceThickness, file names and instance
numbers are not trusted. Axis I runs along a row (columns of pixels), J down the columns, K along the cross product of
both, so voxels keep the order in which DICOM stores them. The frames of an enhanced multi-frame image are slices like
any others. What cannot be placed is refused with a sentence.
Source: DICOM PS3.3 C.7.6.2.1.1 (image plane) and C.7.6.3.1 (pixels). DICOM is LPS+; it is flipped to RAS+ here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.domain.late import LateModule
from labelserver.imaging.dicom_slices import PLACING_TAGS, NotPlaced, Slice, rescaling, slices_of
from labelserver.imaging.limits import MAX_VOLUME_BYTES, unreadable
from labelserver.imaging.volume import LPS_TO_RAS, Volume, affine_of

if TYPE_CHECKING:
    import pydicom
else:
    pydicom = LateModule("pydicom")

#: share of the slice step by which a slice may lie off its place; scanners round positions to 1e-6 mm or to 0.01 mm.
STEP_TOLERANCE = 0.05

#: length of the difference of two direction cosines that still counts as the same orientation
ORIENTATION_TOLERANCE = 1e-3

_HEADER_TAGS = ("SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesDescription", *PLACING_TAGS)

#: Modalities of objects that describe images and are none themselves.
_NOT_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "FID", "DOC", "AU"})


@dataclass(frozen=True, slots=True, eq=False)
class SeriesFiles:
    """A series of a folder: files in slice order on `grid`, or why it is no volume (`problem`)."""

    uid: str
    modality: str
    files: tuple[Path, ...]
    grid: Grid | None
    problem: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    path: Path
    header: Any  # a pydicom Dataset: attributes by name, untyped


def is_dicom(path: Path) -> bool:
    """True if the file has the DICOM preamble (PS3.10 7.1): 128 bytes, then "DICM"."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_series(folder: Path, names: Sequence[str] | None = None) -> list[SeriesFiles]:
    """The series among the DICOM files directly in `folder` (or those of `names`), sorted by their UID.

    Objects that are no images (segmentations, structure sets, reports) are left out. Reads headers only.
    """
    paths = (
        sorted(folder / n for n in names) if names is not None else sorted(p for p in folder.iterdir() if is_dicom(p))
    )
    groups: dict[str, list[_File]] = {}
    broken: list[Path] = []
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
        except (pydicom.errors.InvalidDicomError, OSError, ValueError, KeyError, EOFError, TypeError, AttributeError):
            broken.append(path)
            continue
        uid = str(header.get("SeriesInstanceUID", "")) or "unnamed"
        if "Rows" not in header and "SOPClassUID" not in header:
            broken.append(path)  # cut short: not even what it is
        elif header.get("Modality", "") not in _NOT_IMAGES and "Rows" in header:
            groups.setdefault(uid, []).append(_File(path, header))
    found = [_described(uid, files) for uid, files in sorted(groups.items())]
    for path in broken:
        found.append(SeriesFiles("", "", (path,), None, f"{path.name} is not a readable DICOM file."))
    return found


def read_series(files: SeriesFiles) -> Volume:
    """Voxels of the series: int16 or int32 where the scale factors are whole numbers, else float32.

    Raises:
        UnreadableFile: the series cannot be placed, or a file cannot be decoded.
    """
    if files.grid is None:
        raise UnreadableFile(files.problem or "The series cannot be placed in space.")
    columns, rows, count = files.grid.shape
    if columns * rows * count * 8 > MAX_VOLUME_BYTES:
        raise UnreadableFile(f"The series declares {columns} x {rows} x {count} voxels, more than one volume may have.")
    frames = frames_in_order(files)
    scaled = _stored(frames, (rows, columns))
    whole = all(slope == int(slope) and intercept == int(intercept) for _, slope, intercept in scaled)
    stack = np.empty((columns, rows, count), np.int32 if whole else np.float32)
    for index, (pixels, slope, intercept) in enumerate(scaled):
        stack[:, :, index] = (pixels * (int(slope) if whole else slope) + (int(intercept) if whole else intercept)).T
    if whole and stack.size and stack.min() >= -32768 and stack.max() <= 32767:
        return Volume(stack.astype(np.int16), files.grid)
    return Volume(stack, files.grid)


def frames_in_order(files: SeriesFiles) -> list[tuple[Path, int]]:
    """File and frame (from 0) of each slice, along K of the grid.

    Raises:
        UnreadableFile: the files are not those that were described.
    """
    if files.grid is None:
        raise UnreadableFile(files.problem or "The series cannot be placed in space.")
    if len(files.files) == files.grid.shape[2] > 1:
        return [(path, 0) for path in files.files]
    slices: list[Slice] = []
    for path in files.files:
        with unreadable(path, "DICOM", pydicom.errors.InvalidDicomError, AttributeError, NotPlaced):
            slices += slices_of(path, _header(path))
    try:
        ordered, _ = _placed(slices)
    except NotPlaced as reason:
        raise UnreadableFile(f"The series is not used: {reason}") from reason
    return [(s.path, s.frame) for s in ordered]


def _header(path: Path) -> Any:
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))


def _stored(frames: Sequence[tuple[Path, int]], shape: tuple[int, int]) -> list[tuple[NDArray[np.int32], float, float]]:
    """Of each frame its stored pixels (rows, columns), rescale slope and intercept; each file is read once."""
    found: dict[tuple[Path, int], tuple[NDArray[np.int32], float, float]] = {}
    for path in dict.fromkeys(path for path, _ in frames):
        wanted = [frame for file, frame in frames if file == path]
        foreign = (pydicom.errors.InvalidDicomError, RuntimeError, NotImplementedError, AttributeError)
        with unreadable(path, "DICOM", *foreign):
            dataset = pydicom.dcmread(path)
            pixels = _decoded(dataset)
            pixels = pixels[None] if pixels.ndim == 2 else pixels
            if pixels.shape[1:] != shape or max(wanted) >= len(pixels):
                raise ValueError(f"its pixels have the shape {pixels.shape} instead of {shape}")
            for frame in wanted:
                found[path, frame] = (pixels[frame].astype(np.int32), *rescaling(dataset, frame))
    return [found[key] for key in frames]


def _decoded(dataset: Any) -> NDArray[Any]:
    """Raises `ValueError` with the name of the compression, which the libraries' errors lack."""
    try:
        pixels: NDArray[Any] = dataset.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        syntax = dataset.file_meta.TransferSyntaxUID
        raise ValueError(f"its pixels ({syntax.name}) cannot be decoded here, or are damaged") from error
    return pixels


def _described(uid: str, files: list[_File]) -> SeriesFiles:
    modality = str(files[0].header.get("Modality", ""))
    name = f"Series {uid or 'without a UID'} ({modality or 'unknown modality'}, {len(files)} files)"
    try:
        ordered, grid = _placed([s for file in files for s in slices_of(file.path, file.header)])
    except NotPlaced as reason:
        return SeriesFiles(uid, modality, tuple(f.path for f in files), None, f"{name} is not used: {reason}")
    return SeriesFiles(uid, modality, tuple(dict.fromkeys(s.path for s in ordered)), grid)


def _placed(slices: list[Slice]) -> tuple[list[Slice], Grid]:
    """Slices in order and their grid. Raises `NotPlaced`."""
    first = slices[0]
    sizes = Counter((s.rows, s.columns) for s in slices)
    if len(sizes) > 1:
        raise NotPlaced(f"slices have different sizes: {', '.join(f'{r}x{c}' for r, c in sorted(sizes))}.")
    if any(np.abs(n.orientation - first.orientation).max() > ORIENTATION_TOLERANCE for n in slices):
        raise NotPlaced("slices have different orientations.")
    if any(np.abs(n.spacing - first.spacing).max() > 1e-3 * first.spacing.max() for n in slices):
        raise NotPlaced("slices have different pixel spacings.")
    row, column = first.orientation
    normal = np.cross(row, column)
    if abs(np.linalg.norm(normal) - 1) > 0.01 or first.spacing.min() <= 0:
        raise NotPlaced("its orientation or pixel spacing makes no sense.")
    along = np.array([n.position @ normal for n in slices])
    order = np.argsort(along, kind="stable")
    positions = np.stack([slices[i].position for i in order])
    step = _step(positions, normal, first.thickness)
    lps = affine_of(
        np.stack([row * first.spacing[1], column * first.spacing[0], step], axis=1),
        positions[0],
    )
    (rows, columns), count = next(iter(sizes)), len(slices)
    return [slices[i] for i in order], Grid((columns, rows, count), LPS_TO_RAS @ lps)


def _step(positions: NDArray[np.float64], normal: NDArray[np.float64], thickness: float) -> NDArray[np.float64]:
    """The vector from slice to slice, (3,) mm; gantry tilt shears it. Raises `NotPlaced` on gaps and duplicates."""
    count = len(positions)
    if count == 1:
        return normal * (thickness if thickness > 0 else 1.0)
    gaps = np.diff(positions, axis=0) @ normal
    typical = float(np.median(gaps))
    if typical < 1e-4 or gaps.min() < 0.5 * STEP_TOLERANCE * typical:
        where = int(np.argmin(gaps))
        raise NotPlaced(
            f"two slices lie at the same place (slices {where + 1} and {where + 2}): several passes in one series."
        )
    if gaps.max() > (1 + STEP_TOLERANCE) * typical or gaps.min() < (1 - STEP_TOLERANCE) * typical:
        where = int(np.argmax(np.abs(gaps - typical)))
        raise NotPlaced(
            f"the step from slice {where + 1} to {where + 2} is {gaps[where]:.3f} mm, elsewhere {typical:.3f} mm: "
            "slices are missing or unevenly spaced."
        )
    step = (positions[-1] - positions[0]) / (count - 1)
    expected = positions[0] + np.arange(count)[:, None] * step
    off = float(np.linalg.norm(positions - expected, axis=1).max())
    if off > max(2 * STEP_TOLERANCE * typical, 0.01):
        raise NotPlaced(f"slices do not lie on one line: one is {off:.3f} mm off.")
    result: NDArray[np.float64] = step
    return result

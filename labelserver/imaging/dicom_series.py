"""The DICOM files of a folder as series, and a series as one volume.

Slices are placed by ImagePositionPatient and ImageOrientationPatient alone; SliceThickness, file names and instance
numbers are not trusted. Axis I runs along a row (columns of pixels), J down the columns, K along the cross product of
both, so voxels keep the order in which DICOM stores them. What cannot be placed is refused with a sentence.
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
from labelserver.imaging.late import LateModule
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

_HEADER_TAGS = (
    "SOPClassUID",
    "Modality",
    "SeriesInstanceUID",
    "SeriesDescription",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "SliceThickness",
)

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
class _Slice:
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
    groups: dict[str, list[_Slice]] = {}
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
            groups.setdefault(uid, []).append(_Slice(path, header))
    found = [_described(uid, slices) for uid, slices in sorted(groups.items())]
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
    scaled = [_pixels(path, (rows, columns)) for path in files.files]
    whole = all(slope == int(slope) and intercept == int(intercept) for _, slope, intercept in scaled)
    stack = np.empty((columns, rows, count), np.int32 if whole else np.float32)
    for index, (pixels, slope, intercept) in enumerate(scaled):
        stack[:, :, index] = (pixels * (int(slope) if whole else slope) + (int(intercept) if whole else intercept)).T
    if whole and stack.size and stack.min() >= -32768 and stack.max() <= 32767:
        return Volume(stack.astype(np.int16), files.grid)
    return Volume(stack, files.grid)


def _pixels(path: Path, shape: tuple[int, int]) -> tuple[NDArray[Any], float, float]:
    """(rows, columns) as int32, rescale slope and intercept."""
    with unreadable(path, "DICOM", pydicom.errors.InvalidDicomError, RuntimeError, NotImplementedError, AttributeError):
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        if pixels.shape != shape:
            raise ValueError(f"its pixels have the shape {pixels.shape} instead of {shape}")
    return pixels.astype(np.int32), slope, intercept


def _described(uid: str, slices: list[_Slice]) -> SeriesFiles:
    modality = str(slices[0].header.get("Modality", ""))
    name = f"Series {uid or 'without a UID'} ({modality or 'unknown modality'}, {len(slices)} files)"
    try:
        ordered, grid = _placed(slices)
    except _NotPlaced as reason:
        return SeriesFiles(uid, modality, tuple(s.path for s in slices), None, f"{name} is not used: {reason}")
    return SeriesFiles(uid, modality, tuple(s.path for s in ordered), grid)


class _NotPlaced(Exception):
    """Why slices do not form a volume."""


def _placed(slices: list[_Slice]) -> tuple[list[_Slice], Grid]:
    """Slices in order and their grid. Raises `_NotPlaced`."""
    for s in slices:
        if int(s.header.get("NumberOfFrames", 1) or 1) > 1:
            raise _NotPlaced(f"{s.path.name} holds several frames, which is not read yet; convert it to single frames.")
        if int(s.header.get("SamplesPerPixel", 1) or 1) != 1:
            raise _NotPlaced("it is a colour image.")
    try:
        numbers = [_numbers(s.header) for s in slices]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise _NotPlaced("slices have no position, orientation or pixel spacing.") from error
    first = numbers[0]
    sizes = Counter((int(s.header.Rows), int(s.header.Columns)) for s in slices)
    if len(sizes) > 1:
        raise _NotPlaced(f"slices have different sizes: {', '.join(f'{r}x{c}' for r, c in sorted(sizes))}.")
    if any(np.abs(n.orientation - first.orientation).max() > ORIENTATION_TOLERANCE for n in numbers):
        raise _NotPlaced("slices have different orientations.")
    if any(np.abs(n.spacing - first.spacing).max() > 1e-3 * first.spacing.max() for n in numbers):
        raise _NotPlaced("slices have different pixel spacings.")
    row, column = first.orientation
    normal = np.cross(row, column)
    if abs(np.linalg.norm(normal) - 1) > 0.01 or first.spacing.min() <= 0:
        raise _NotPlaced("its orientation or pixel spacing makes no sense.")
    along = np.array([n.position @ normal for n in numbers])
    order = np.argsort(along, kind="stable")
    positions = np.stack([numbers[i].position for i in order])
    step = _step(positions, normal, slices[0].header)
    lps = affine_of(
        np.stack([row * first.spacing[1], column * first.spacing[0], step], axis=1),
        positions[0],
    )
    (rows, columns), count = next(iter(sizes)), len(slices)
    return [slices[i] for i in order], Grid((columns, rows, count), LPS_TO_RAS @ lps)


@dataclass(frozen=True, slots=True, eq=False)
class _Numbers:
    """All LPS+: position (3,) mm, orientation (2, 3) row and column cosines, spacing (2,) mm between rows, columns."""

    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]


def _numbers(header: Any) -> _Numbers:
    result = _Numbers(
        np.array([float(v) for v in header.ImagePositionPatient]).reshape(3),
        np.array([float(v) for v in header.ImageOrientationPatient]).reshape(2, 3),
        np.array([float(v) for v in header.PixelSpacing]).reshape(2),
    )
    if not all(np.isfinite(a).all() for a in (result.position, result.orientation, result.spacing)):
        raise ValueError("not finite")
    return result


def _step(positions: NDArray[np.float64], normal: NDArray[np.float64], header: Any) -> NDArray[np.float64]:
    """The vector from slice to slice, (3,) mm; gantry tilt shears it. Raises `_NotPlaced` on gaps and duplicates."""
    count = len(positions)
    if count == 1:
        thickness = float(header.get("SliceThickness", 0) or 0)
        return normal * (thickness if thickness > 0 else 1.0)
    gaps = np.diff(positions, axis=0) @ normal
    typical = float(np.median(gaps))
    if typical < 1e-4 or gaps.min() < 0.5 * STEP_TOLERANCE * typical:
        where = int(np.argmin(gaps))
        raise _NotPlaced(
            f"two slices lie at the same place (slices {where + 1} and {where + 2}): several passes in one series."
        )
    if gaps.max() > (1 + STEP_TOLERANCE) * typical or gaps.min() < (1 - STEP_TOLERANCE) * typical:
        where = int(np.argmax(np.abs(gaps - typical)))
        raise _NotPlaced(
            f"the step from slice {where + 1} to {where + 2} is {gaps[where]:.3f} mm, elsewhere {typical:.3f} mm: "
            "slices are missing or unevenly spaced."
        )
    step = (positions[-1] - positions[0]) / (count - 1)
    expected = positions[0] + np.arange(count)[:, None] * step
    off = float(np.linalg.norm(positions - expected, axis=1).max())
    if off > max(2 * STEP_TOLERANCE * typical, 0.01):
        raise _NotPlaced(f"slices do not lie on one line: one is {off:.3f} mm off.")
    result: NDArray[np.float64] = step
    return result

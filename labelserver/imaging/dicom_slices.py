"""The slices that one DICOM file holds: one for a plain image, one a frame for an enhanced multi-frame image.

A slice knows where it lies and how big it is, from the attributes that the standard made for that; all lengths in mm,
all vectors LPS+. Sources: DICOM PS3.3 C.7.6.2.1.1 (image plane), C.7.6.16.2.3 and .4 (plane position and orientation
of a frame), C.7.6.16.2.1 (pixel measures), C.7.6.16.2.9 (pixel value transformation).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What must be read of a header so that its slices can be placed.
PLACING_TAGS = (
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "SliceThickness",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)


class NotPlaced(Exception):
    """Why slices do not form a volume: the end of a sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One plane of pixels."""

    path: Path
    frame: int  #: from 0; 0 in a file of one frame
    rows: int
    columns: int
    position: NDArray[np.float64]  #: (3,) centre of the first pixel
    orientation: NDArray[np.float64]  #: (2, 3) direction cosines along a row, then down a column
    spacing: NDArray[np.float64]  #: (2,) between rows, between columns
    thickness: float  #: 0 if nobody said; never used for placing, but where there is only one slice


def slices_of(path: Path, header: Any) -> list[Slice]:
    """The slices of a file in the order of its frames, from its header (a pydicom Dataset).

    Raises:
        NotPlaced: it is in colour, or position, orientation or spacing are missing.
    """
    if int(header.get("SamplesPerPixel", 1) or 1) != 1:
        raise NotPlaced("it is a colour image.")
    count = int(header.get("NumberOfFrames", 1) or 1)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if not groups and count > 1:
        raise NotPlaced(f"{path.name} holds {count} frames that do not say where they lie.")
    if groups and len(groups) != count:
        raise NotPlaced(f"{path.name} says that it holds {count} frames and describes {len(groups)}.")
    try:
        if not groups:
            return [_slice(path, 0, header, header, header, header)]
        shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
        return [
            _slice(
                path,
                number,
                header,
                _macro(own, shared, "PlanePositionSequence"),
                _macro(own, shared, "PlaneOrientationSequence"),
                _macro(own, shared, "PixelMeasuresSequence"),
            )
            for number, own in enumerate(groups)
        ]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise NotPlaced("slices have no position, orientation or pixel spacing.") from error


def rescaling(dataset: Any, frame: int) -> tuple[float, float]:
    """Slope and intercept from stored values to the values of the image, for one frame.

    Raises:
        ValueError: the values need a table (Modality LUT), which is not applied here.
    """
    if dataset.get("ModalityLUTSequence"):
        raise ValueError("its values need a lookup table (Modality LUT), which is not applied")
    place = dataset
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups:
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
        name = "PixelValueTransformationSequence"
        place = _macro(groups[frame], shared, name, required=False) or dataset
    slope, intercept = place.get("RescaleSlope"), place.get("RescaleIntercept")
    return (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))


def _macro(own: Any, shared: Any, name: str, *, required: bool = True) -> Any:
    """The one item of a functional group, of the frame or of all frames."""
    for place in (own, shared):
        found = place.get(name) if place is not None else None
        if found:
            return found[0]
    if required:
        raise KeyError(name)
    return None


def _slice(path: Path, frame: int, header: Any, position: Any, orientation: Any, measures: Any) -> Slice:
    made = Slice(
        path,
        frame,
        int(header.Rows),
        int(header.Columns),
        np.array([float(v) for v in position.ImagePositionPatient]).reshape(3),
        np.array([float(v) for v in orientation.ImageOrientationPatient]).reshape(2, 3),
        np.array([float(v) for v in measures.PixelSpacing]).reshape(2),
        float(measures.get("SliceThickness", 0) or 0),
    )
    if not all(np.isfinite(a).all() for a in (made.position, made.orientation, made.spacing)):
        raise ValueError("not finite")
    return made

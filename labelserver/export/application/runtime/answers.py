"""A segmented series as values: what every DICOM output is written from."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID, generate_uid

from labelserver.domain.geometry import Grid
from labelserver.export.application.runtime.about import About, Label
from labelserver.imaging.volume import Volume

MANUFACTURER = "labelserver"

#: Attributes of patient and study that must stand there, if only empty (type 2).
_EVEN_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)

#: What is said of the patient in every object of a study, where the source says it (PS3.3 C.7.1.1, C.7.2.2).
_PATIENT_STUDY = ("PatientAge", "PatientSize", "PatientWeight")


@dataclass(frozen=True, slots=True)
class Measured:
    """How much of a label there is."""

    label: Label
    number: int  #: of its segment
    voxels: int
    volume_ml: float


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Labels of one series, on its grid."""

    about: About
    volume: Volume
    labels: NDArray[np.integer[Any]]  #: (I, J, K)
    sources: tuple[Any, ...]  #: the source files' datasets without pixels, each once, in the order of K
    frames: tuple[tuple[Path, int], ...]  #: file and frame of each slice along K
    measured: tuple[Measured, ...]
    made: datetime.datetime

    @property
    def source(self) -> Any:
        """The first source dataset."""
        return self.sources[0]

    @property
    def is_multiframe(self) -> bool:
        return int(self.source.get("NumberOfFrames", 1) or 1) > 1 or "PerFrameFunctionalGroupsSequence" in self.source

    def series_number(self, kind: int) -> int:
        """A number that tells the outputs of one source series apart. `kind`: 1 to 99."""
        return (int(self.source.get("SeriesNumber") or 0) % 10_000_000) * 100 + kind

    def tracking_uid(self, label: Label) -> UID:
        """Of a label in this study: the same whenever this model looks at the study again."""
        text = f"{self.source.StudyInstanceUID}/{self.about.app}/{self.about.model}/{label.value}/{label.name}"
        return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")


def measured(about: About, labels: NDArray[np.integer[Any]], grid: Grid) -> tuple[Measured, ...]:
    """One for each label of the application, found or not."""
    voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000.0
    values, counts = np.unique(labels, return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    result = []
    for number, label in enumerate(about.labels, start=1):
        voxels = int(found.get(label.value, 0))
        result.append(Measured(label, number, voxels, voxels * voxel_ml))
    return tuple(result)


def complete(dataset: Any, answer: Answer) -> None:
    """What highdicom does not carry over: the patient's age, size and weight, and a character set that fits."""
    for name in _PATIENT_STUDY:
        if name in answer.source:
            setattr(dataset, name, answer.source[name].value)
    texts = [answer.about.name, answer.about.model, *(label.name for label in answer.about.labels)]
    own = answer.source.get("SpecificCharacterSet")
    plain = all(text.isascii() for text in texts)
    dataset.SpecificCharacterSet = own if own and plain else "ISO_IR 192"  # the texts are decoded; UTF-8 holds them all


def mended(sources: tuple[Any, ...]) -> tuple[Any, ...]:
    """Source datasets with the identifiers that every output refers to, where removing a patient's name removed them.

    Class and instance are taken from the file's own header; study, series and frame of reference, which nothing else
    knows, are derived from the instances, so that the same files give the same ones again.
    """
    for source in sources:
        for name in ("SOPClassUID", "SOPInstanceUID"):
            if not source.get(name):
                setattr(source, name, source.file_meta.get(f"MediaStorage{name}", ""))
        for name in _EVEN_EMPTY:
            if name not in source:
                setattr(source, name, "")
    first = min(str(source.SOPInstanceUID) for source in sources)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        known = next((str(source.get(name)) for source in sources if source.get(name)), "")
        derived = known or f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{first}/{name}').int}"
        for source in sources:
            if not source.get(name):
                setattr(source, name, derived)
    return sources


def new_uid() -> UID:
    return generate_uid(prefix=None)  # 2.25: no organisation of ours has a root


def clipped(text: str, length: int = 64) -> str:
    """At most `length` characters without what DICOM's LO and SH forbid."""
    return "".join(c for c in text if c.isprintable() and c != "\\")[:length].strip() or "unnamed"

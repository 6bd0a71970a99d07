"""What lies in an input folder: DICOM series that are wanted and can be placed, and NIfTI files.

Files are told by their content, not by their names. Everything below the folder is looked at; links are not followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from labelserver.domain.errors import UnreadableFile
from labelserver.export.application.runtime.selection import Rules
from labelserver.imaging.dicom_series import SeriesFiles, find_series, frames_in_order, is_dicom, read_series
from labelserver.imaging.nifti import read
from labelserver.imaging.volume import Volume

_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True, slots=True, eq=False)
class DicomInput:
    """A series that was selected. `header` is its first slice's, without pixels."""

    files: SeriesFiles
    header: Any  # a pydicom Dataset
    selection: str

    @property
    def study_uid(self) -> str:
        return str(self.header.get("StudyInstanceUID", ""))

    def volume(self) -> Volume:
        """Raises `UnreadableFile`."""
        return read_series(self.files)

    def frames(self) -> list[tuple[Path, int]]:
        """File and frame of each slice along K."""
        return frames_in_order(self.files)


@dataclass(frozen=True, slots=True, eq=False)
class NiftiInput:
    """A volume in a file of its own."""

    path: Path

    def volume(self) -> Volume:
        """Raises `UnreadableFile`: not readable, or more than one channel."""
        volume = read(self.path)
        if volume.voxels.ndim != 3:
            raise UnreadableFile(f"{self.path.name} has several channels; this application takes one volume.")
        return volume


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """All that will be segmented, in a fixed order, and sentences about what will not."""

    dicom: tuple[DicomInput, ...]
    nifti: tuple[NiftiInput, ...]
    left_out: tuple[str, ...]

    def required(self) -> Found:
        """This, if every study has a volume.

        Raises:
            UnreadableFile: there is nothing to do, or a study of which no series can be used.
        """
        if not self.dicom and not self.nifti:
            raise UnreadableFile(" ".join(self.left_out) or "The input holds neither DICOM images nor NIfTI files.")
        return self


def find(folder: Path, rules: Rules) -> Found:
    """Look through a folder, or take one file.

    A series that the rules select and that cannot be placed is left out with a sentence if its study has another one
    that can be used; else it is an error.

    Raises:
        UnreadableFile: the folder is not there, or see above.
    """
    if not folder.exists():
        raise UnreadableFile(f"The input {str(folder)!r} does not exist.")
    root = folder if folder.is_dir() else folder.parent
    files = sorted(_files(folder)) if folder.is_dir() else [folder]
    nifti = tuple(NiftiInput(path) for path in files if path.name.lower().endswith(_NIFTI))
    names = [str(path.relative_to(root)) for path in files if is_dicom(path)]
    wanted, left_out, failed = _selected(find_series(root, names) if names else [], rules)
    studies = {series.study_uid for series in wanted}
    lost = [sentence for study, sentence in failed if study not in studies]
    if lost:
        raise UnreadableFile(" ".join(lost))
    left_out += [sentence for _, sentence in failed]
    ordered = sorted(wanted, key=lambda series: (series.study_uid, series.files.uid))
    return Found(tuple(ordered), nifti, tuple(left_out)).required()


def _selected(series: list[SeriesFiles], rules: Rules) -> tuple[list[DicomInput], list[str], list[tuple[str, str]]]:
    """What is wanted; sentences about what is not; (study, sentence) of what is wanted and cannot be used."""
    wanted: list[DicomInput] = []
    left_out: list[str] = []
    failed: list[tuple[str, str]] = []
    for one in series:
        if not one.uid and one.grid is None:
            failed.append(("", one.problem))  # a damaged file may have been a slice of any series
            continue
        header = pydicom.dcmread(one.files[0], stop_before_pixels=True)
        name = rules.name_for(header)
        if name is None:
            left_out.append(
                f"The series {one.uid} ({one.modality or 'unknown modality'}) is not selected by the rules."
            )
        elif one.grid is None:
            failed.append((str(header.get("StudyInstanceUID", "")), one.problem))
        else:
            wanted.append(DicomInput(one, header, name))
    return wanted, left_out, failed


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent) / name for name in names if not name.startswith("."))

"""Whose image a DICOM file is, so that a person's images can be found when they must be erased."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labelserver.domain.late import LateModule

if TYPE_CHECKING:
    import pydicom
else:
    pydicom = LateModule("pydicom")


def patient_id_of(file: Path) -> str:
    """PatientID (0010,0020) of the file; "" if it has none or is no DICOM file."""
    try:
        return str(
            pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID", "") or ""
        )
    except (OSError, pydicom.errors.InvalidDicomError, ValueError, EOFError):
        return ""

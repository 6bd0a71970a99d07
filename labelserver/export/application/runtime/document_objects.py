"""A PDF or an STL file inside a DICOM object of the source's study.

Sources: DICOM PS3.3 A.45.1 (Encapsulated PDF), A.85.1 (Encapsulated STL), C.24.2 (encapsulated document), C.7.3.1
(series), C.35.1 and C.36 (manufacturing 3D model). Meshes are in mm, LPS+, in the source's frame of reference.
"""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, EncapsulatedPDFStorage, EncapsulatedSTLStorage, ExplicitVRLittleEndian

from labelserver.export.application.runtime.answers import (
    MANUFACTURER,
    Answer,
    Measured,
    clipped,
    complete,
    new_uid,
)
from labelserver.export.application.runtime.coding import display_color, property_type
from labelserver.export.application.runtime.pictures import pdf_of
from labelserver.export.application.runtime.surfaces import stl_of, surface_of
from labelserver.imaging.volume import LPS_TO_RAS

_OF_THE_STUDY = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "ReferringPhysicianName",
)
#: Attributes that must stand there, if only empty (type 2).
_EVEN_EMPTY = frozenset(_OF_THE_STUDY) - {"IssuerOfPatientID", "StudyDescription", "StudyInstanceUID"}


#: PS3.16 CID 7061, by the source's Modality
_KINDS_OF_MODEL = {"CT": ("85040-4", "LN", "CT 3D CAM model"), "MR": ("85041-2", "LN", "MR 3D CAM model")}
_ANY_MODEL = ("129019", "DCM", "Mixed Modality 3D CAM model")


def encapsulated_pdf(answer: Answer) -> Dataset:
    """Pictures and volumes as a PDF; Modality DOC."""
    made = _document(answer, EncapsulatedPDFStorage, "DOC", 3, pdf_of(answer), "application/pdf")
    made.SeriesDescription = clipped(f"{answer.about.model}: pictures")
    made.DocumentTitle = clipped(f"{answer.about.model}: volumes and pictures")
    made.ConceptNameCodeSequence = Items([_code("18748-4", "LN", "Diagnostic Imaging Report")])
    made.BurnedInAnnotation = "YES"
    complete(made, answer)
    return made


def encapsulated_stl(answer: Answer, found: Measured, series_uid: str) -> Dataset:
    """The surface of one label; Modality M3D. Meshes of one volume share a series."""
    mask = answer.labels == found.label.value
    triangles = surface_of(mask, LPS_TO_RAS @ answer.volume.grid.affine)
    content = stl_of(triangles, found.label.name)
    made = _document(answer, EncapsulatedSTLStorage, "M3D", 4, content, "model/stl")
    made.SeriesInstanceUID = series_uid
    made.InstanceNumber = found.number
    made.SeriesDescription = clipped(f"{answer.about.model}: meshes")
    made.DocumentTitle = clipped(found.label.name)
    made.ConceptNameCodeSequence = Items([_code(*_KINDS_OF_MODEL.get(str(answer.source.get("Modality")), _ANY_MODEL))])
    made.BurnedInAnnotation = "NO"
    made.FrameOfReferenceUID = answer.source.FrameOfReferenceUID
    made.PositionReferenceIndicator = answer.source.get("PositionReferenceIndicator", "")
    series = Dataset()
    series.SeriesInstanceUID = answer.source.SeriesInstanceUID
    series.ReferencedInstanceSequence = Items([_reference(source) for source in answer.sources])
    made.ReferencedSeriesSequence = Items([series])
    made.MeasurementUnitsCodeSequence = Items([_code("mm", "UCUM", "mm")])
    made.ModelModification = "NO"
    made.ModelMirroring = "NO"
    made.RecommendedDisplayCIELabValue = [int(v) for v in display_color(found.label).value]
    made.ContentDescription = clipped(property_type(found.label).meaning)
    complete(made, answer)
    return made


def _document(answer: Answer, sop_class: UID, modality: str, kind: int, content: bytes, mime: str) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = sop_class
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = new_uid()
    for name in _OF_THE_STUDY:
        if name in answer.source:
            setattr(made, name, answer.source[name].value)
        elif name in _EVEN_EMPTY:
            setattr(made, name, "")
    made.Modality = modality
    made.SeriesInstanceUID = new_uid()
    made.SeriesNumber = answer.series_number(kind)
    made.InstanceNumber = 1
    made.Manufacturer = MANUFACTURER
    made.ManufacturerModelName = clipped(answer.about.app)
    made.SoftwareVersions = clipped(answer.about.version)
    made.DeviceSerialNumber = answer.about.weights_sha256[:16] or "0"
    made.ConversionType = "WSD"
    made.InstanceCreationDate = made.ContentDate = f"{answer.made:%Y%m%d}"
    made.InstanceCreationTime = made.ContentTime = f"{answer.made:%H%M%S}"
    made.AcquisitionDateTime = f"{answer.made:%Y%m%d%H%M%S}"
    made.SourceInstanceSequence = Items([_reference(source) for source in answer.sources])
    made.MIMETypeOfEncapsulatedDocument = mime
    made.EncapsulatedDocumentLength = len(content)
    made.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return made


def _reference(source: Any) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item

"""DICOM studies for tests: CT images with all that a reader and a segmentation need; plain, compressed, enhanced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    HTJ2K,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

STUDY = "1.2.826.0.1.3680043.8.498.1"
FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.8.498.2"

LOSSLESS = {
    "JPEG lossless": JPEGLossless,
    "JPEG lossless, first-order": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "HTJ2K": HTJ2KLossless,
    "HTJ2K RPCL": HTJ2KLosslessRPCL,
    "RLE": RLELossless,
}


def plain_image(series: str, study: str, **fields: Any) -> Dataset:
    """A CT image without pixels; `fields` replace attributes, None leaves one out."""
    data = Dataset()
    uid = generate_uid()
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": FRAME_OF_REFERENCE,
        "PositionReferenceIndicator": "",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "Müller^Änne",
        "PatientID": "P-1",
        "PatientBirthDate": "19500102",
        "PatientSex": "F",
        "PatientAge": "070Y",
        "PatientWeight": "61",
        "PatientPosition": "HFS",
        "StudyDate": "20200203",
        "StudyTime": "101112",
        "StudyID": "17",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "",
        "StudyDescription": "Abdomen",
        "SeriesDescription": "venous",
        "SeriesNumber": 2,
        "SeriesDate": "20200203",
        "SeriesTime": "101113",
        "ContentDate": "20200203",
        "ContentTime": "101114",
        "AcquisitionNumber": 1,
        "Manufacturer": "none",
        "KVP": 120,
        "InstanceNumber": 1,
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [0.5, 0.25],
        "SliceThickness": 9.0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "RescaleType": "HU",
    }
    for name, value in {**values, **fields}.items():
        if value is not None:
            setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


def set_pixels(data: Dataset, pixels: NDArray[Any]) -> None:
    """(rows, columns) or (frames, rows, columns), as many bits as `BitsAllocated` says."""
    data.Rows, data.Columns = pixels.shape[-2:]
    kind = f"<{'i' if data.PixelRepresentation else 'u'}{data.BitsAllocated // 8}"
    raw = pixels.astype(kind).tobytes()
    data.PixelData = raw + b"\0" * (len(raw) % 2)


def write_ct(path: Path, position: Sequence[float], pixels: NDArray[Any], **fields: Any) -> Path:
    """One CT slice at `position` (LPS+ mm)."""
    given = {"series": f"{STUDY}.1", "study": STUDY, **fields}
    data = plain_image(given.pop("series"), given.pop("study"), **given)
    data.ImagePositionPatient = [float(v) for v in position]
    set_pixels(data, pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    voxels: NDArray[Any],
    *,
    spacing: Sequence[float] = (0.25, 0.5, 2.0),
    origin: Sequence[float] = (-10.0, -20.0, 30.0),
    orientation: Sequence[float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    descending: bool = False,
    **fields: Any,
) -> list[Path]:
    """A series of stored values (I, J, K), placed as said in LPS+; one file a slice, in the order of K.

    Args:
        folder: made if missing.
        voxels: I along a row, J down the columns.
        spacing: mm along I, J, K.
        origin: LPS+ mm of voxel (0, 0, 0).
        orientation: ImageOrientationPatient; K runs along the cross product.
        descending: number the instances and name the files against K.
        **fields: as for `plain_image`; also ``series`` and ``study``.
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    paths = []
    count = voxels.shape[2]
    for k in range(count):
        number = count - k if descending else k + 1
        fields.setdefault("PixelSpacing", [spacing[1], spacing[0]])
        given = {"ImageOrientationPatient": list(orientation), "InstanceNumber": number, **fields}
        place = np.array(origin) + k * spacing[2] * normal
        paths.append(write_ct(folder / f"IM{number:04d}", place.tolist(), voxels[:, :, k].T, **given))
    return paths


def compress(path: Path, syntax: str) -> None:
    """Store the file under another transfer syntax, by whatever encoder knows it."""
    data = dcmread(path)
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        data.compress(syntax, generate_instance_uid=False)
    elif syntax in (HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL):
        encoded = imagecodecs.htj2k_encode(data.pixel_array, reversible=True)
        data.PixelData = encapsulate([encoded])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = syntax
    else:
        _with_gdcm(path, syntax)
        return
    data.save_as(path, enforce_file_format=True)


def _with_gdcm(path: Path, syntax: str) -> None:
    import gdcm  # its SWIG types warn on import where they are not needed

    names = {
        JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
        JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        JPEGBaseline8Bit: gdcm.TransferSyntax.JPEGBaselineProcess1,
        JPEGExtended12Bit: gdcm.TransferSyntax.JPEGExtendedProcess2_4,
    }
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(names[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def write_enhanced(path: Path, voxels: NDArray[Any], positions: Sequence[Sequence[float]], **fields: Any) -> Path:
    """An enhanced CT: frame n shows ``voxels[:, :, n]`` and lies at ``positions[n]`` (LPS+ mm).

    `fields` may name ``slopes``: rescale slope of each frame.
    """
    slopes = fields.pop("slopes", [1.0] * len(positions))
    left_out = ("PixelSpacing", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "SliceThickness")
    plain: dict[str, Any] = dict.fromkeys((*left_out, "RescaleType"))
    data = plain_image(f"{STUDY}.7", STUDY, **{**plain, "SOPClassUID": EnhancedCTImageStorage, **fields})
    data.NumberOfFrames = len(positions)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 9.0
    orientation.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    data.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for number, (position, slope) in enumerate(zip(positions, slopes, strict=True)):
        group, place, values, content = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [float(v) for v in position]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, -1024, "HU"
        content.StackID, content.InStackPositionNumber = "1", number + 1
        content.DimensionIndexValues = [1, number + 1]
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Items([place]), Items([values])
        group.FrameContentSequence = Items([content])
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Items(groups)
    set_pixels(data, voxels.transpose(2, 1, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path

"""Small studies folders for tests: images and labels of a few voxels, DICOM slices without a scanner."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from labelserver.imaging.volumes import read_volume, write_volume

SHAPE = (4, 5, 6)
AFFINE = np.array([[1.0, 0, 0, -10], [0, 1.5, 0, 20], [0, 0, 2.0, 30], [0, 0, 0, 1]])


def noise_bytes(size: int, seed: int = 1) -> bytes:
    """`size` bytes that mean nothing to anybody, the same in every run."""
    return random.Random(seed).randbytes(size)


def put_image(folder: Path, name: str, *, affine: NDArray[np.float64] = AFFINE, shape: Sequence[int] = SHAPE) -> Path:
    """An image of int16 zeros (a picture: grey) at ``folder/name``."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, np.zeros(tuple(shape), np.int16), affine, compress=True)
    return path


def put_label(
    path: Path, value: int = 1, *, affine: NDArray[np.float64] = AFFINE, shape: Sequence[int] = SHAPE
) -> Path:
    """A label at `path` whose first half is `value`."""
    voxels = np.zeros(tuple(shape), np.uint8 if value < 256 else np.uint16)
    voxels[: shape[0] // 2] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, voxels, affine, compress=True)
    return path


def marked(path: Path, number: int) -> Path:
    """A label whose voxels spell `number` in ones and zeros, so that many labels need no many values."""
    voxels = np.zeros(int(np.prod(SHAPE)), np.uint8)
    for bit in range(32):
        voxels[bit] = number >> bit & 1
    write_volume(path, voxels.reshape(SHAPE), AFFINE, compress=True)
    return path


def number_in(path: Path) -> int:
    """What `marked` wrote."""
    voxels = read_volume(path).voxels.reshape(-1)
    return sum(int(voxels[bit]) << bit for bit in range(32))


def put_slice(path: Path, series: str, position: Sequence[float], pixels: NDArray[np.uint16], **fields: Any) -> Path:
    """One CT slice. `fields` are DICOM attributes that replace the plain ones; None leaves one out."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    uid = generate_uid()
    data.file_meta.MediaStorageSOPInstanceUID = uid
    plain = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": uid,
        "SeriesInstanceUID": series,
        "Modality": "CT",
        "ImagePositionPatient": [float(v) for v in position],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [0.5, 0.25],
        "SliceThickness": 9.0,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    for key, value in {**plain, **fields}.items():
        if value is not None:
            setattr(data, key, value)
    data.PixelData = pixels.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def put_series(
    folder: Path, series: str, *, count: int = 4, step: float = 2.0, suffix: str = ".dcm", **fields: Any
) -> None:
    """A series of `count` slices, 3 rows x 5 columns; the value of a pixel is 100 k + 10 row + column."""
    row, column = np.meshgrid(np.arange(3), np.arange(5), indexing="ij")
    for k in range(count):
        pixels = (100 * k + 10 * row + column).astype(np.uint16)
        name = f"{series}-{count - k}{suffix}"  # names run against the slices' order
        put_slice(folder / name, series, (7.0, 8.0, 100.0 + step * k), pixels, **fields)

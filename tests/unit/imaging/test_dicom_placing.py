"""DICOM slices are placed by position and orientation, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelserver.domain.errors import UnreadableFile
from labelserver.imaging.dicom_series import find_series, read_series
from labelserver.imaging.reordering import axis_change, orientation_code
from labelserver.imaging.volumes import read_grid, read_volume
from tests.support.study_folder import put_series, put_slice

PIXELS = np.zeros((3, 5), np.uint16)


def test_slices_are_ordered_by_position_and_spaced_by_it(tmp_path: Path) -> None:
    put_series(tmp_path, "1.2.3", suffix="")
    (tmp_path / "notes.txt").write_text("no DICOM")
    (series,) = find_series(tmp_path)
    assert (series.uid, series.modality, series.problem) == ("1.2.3", "CT", "")
    volume = read_series(series)
    assert volume.voxels.dtype == np.int16
    i, j, k = np.meshgrid(np.arange(5), np.arange(3), np.arange(4), indexing="ij")
    assert np.array_equal(volume.voxels, 100 * k + 10 * j + i - 1024)
    expected = np.array([[-0.25, 0, 0, -7], [0, -0.5, 0, -8], [0, 0, 2.0, 100], [0, 0, 0, 1]])
    assert np.allclose(volume.grid.affine, expected)
    assert orientation_code(volume.grid) == "LPS"


def test_two_series_of_a_folder_are_told_apart(tmp_path: Path) -> None:
    put_series(tmp_path, "1.2.3")
    put_series(tmp_path, "1.2.4", count=3)
    assert [(s.uid, len(s.files)) for s in find_series(tmp_path)] == [("1.2.3", 4), ("1.2.4", 3)]


def test_an_oblique_series_keeps_its_directions(tmp_path: Path) -> None:
    cosines = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]
    normal = np.cross(cosines[:3], cosines[3:])
    for k in range(3):
        put_slice(tmp_path / f"{k}.dcm", "1.2", (normal * 3.0 * k).tolist(), PIXELS, ImageOrientationPatient=cosines)
    (series,) = find_series(tmp_path)
    assert series.grid is not None
    assert np.allclose(series.grid.spacing_mm, (0.25, 0.5, 3.0))
    assert np.allclose(series.grid.affine[:3, 0], np.array([-0.8, -0.6, 0.0]) * 0.25)
    assert np.allclose(series.grid.affine[:3, 2], np.array([-1, -1, 1]) * normal * 3.0)


def test_gantry_tilt_shears_the_grid(tmp_path: Path) -> None:
    for k in range(4):
        put_slice(tmp_path / f"{k}.dcm", "1.2", (0.0, 0.4 * k, 2.0 * k), PIXELS)
    (series,) = find_series(tmp_path)
    assert series.grid is not None
    assert np.allclose(series.grid.affine[:3, 2], (0.0, -0.4, 2.0))


def test_fractional_rescale_gives_float32(tmp_path: Path) -> None:
    put_series(tmp_path, "1.2.3", RescaleSlope=0.5)
    assert read_series(find_series(tmp_path)[0]).voxels.dtype == np.float32


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        ([0.0, 2.0, 4.0, 8.0], "slices are missing"),
        ([0.0, 2.0, 2.0, 4.0], "same place"),
        ([0.0, 0.0, 2.0, 2.0], "same place"),
    ],
)
def test_gaps_and_duplicates_are_reported(positions: list[float], reason: str, tmp_path: Path) -> None:
    for number, z in enumerate(positions):
        put_slice(tmp_path / f"{number}.dcm", "1.2", (0.0, 0.0, z), PIXELS)
    (series,) = find_series(tmp_path)
    assert series.grid is None
    assert reason in series.problem
    with pytest.raises(UnreadableFile):
        read_series(series)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ImageOrientationPatient": [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]}, "orientations"),
        ({"PixelSpacing": [0.6, 0.25]}, "spacings"),
        ({"ImagePositionPatient": None}, "no position"),
        ({"NumberOfFrames": 3}, "3 frames that do not say where"),
        ({"Rows": 5, "Columns": 3}, "sizes"),
    ],
)
def test_slices_that_do_not_belong_together_are_reported(fields: dict[str, Any], reason: str, tmp_path: Path) -> None:
    put_series(tmp_path, "1.2")
    put_slice(tmp_path / "odd.dcm", "1.2", (7.0, 8.0, 98.0), PIXELS, **fields)
    (series,) = find_series(tmp_path)
    assert series.grid is None
    assert reason in series.problem


def test_objects_that_are_no_images_are_left_out(tmp_path: Path) -> None:
    put_slice(tmp_path / "seg.dcm", "1.9", (0.0, 0.0, 0.0), PIXELS, Modality="SEG")
    assert find_series(tmp_path) == []


def test_a_damaged_dicom_file_is_reported_and_the_others_are_used(tmp_path: Path) -> None:
    put_series(tmp_path, "1.2")
    (tmp_path / "torn.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\xff\xff")
    found = find_series(tmp_path)
    assert [s.uid for s in found if s.grid is not None] == ["1.2"]
    assert [s.problem for s in found if s.grid is None] == ["torn.dcm is not a readable DICOM file."]


def test_real_jpeg2000_series_lies_where_its_labels_lie(real_data: Path) -> None:
    folder = real_data / "ct-dicom"
    (series,) = find_series(folder / "series")
    labels = read_volume(folder / "labels.nii.gz")
    volume = read_series(series)
    change = axis_change(labels.grid, volume.grid)
    assert change is not None
    assert change.order == (0, 1, 2)
    assert change.apply_to_grid(read_grid(folder / "labels.nii.gz")).same_place(volume.grid)
    liver = volume.voxels[change.apply(labels.voxels) == 5]
    assert 40 < liver.mean() < 130  # Hounsfield units of liver in a contrast CT

"""Series as scanners, archives and converters really leave them: placed right, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

from labelserver.domain.errors import UnreadableFile
from labelserver.imaging.dicom_series import SeriesFiles, find_series, read_series
from labelserver.imaging.volume import Volume
from tests.support.dicom_studies import LOSSLESS, compress, write_ct, write_enhanced, write_series

RNG = np.random.default_rng(7)
SHAPE = (6, 4, 5)
#: RAS+ of LPS+ origin (-10, -20, 30) and spacing (0.25, 0.5, 2)
AFFINE = np.array([[-0.25, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 2.0, 30], [0, 0, 0, 1]])


def some_voxels(low: int = 0, high: int = 4096, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.int32]:
    return RNG.integers(low, high, shape).astype(np.int32)


def only(folder: Path) -> Volume:
    (series,) = find_series(folder)
    assert series.problem == ""
    return read_series(series)


def refusal(folder: Path) -> str:
    (series,) = find_series(folder)
    assert series.grid is None
    return series.problem


def test_files_out_of_order_are_placed_by_position(tmp_path: Path) -> None:
    voxels = some_voxels()
    paths = write_series(tmp_path, voxels, RescaleIntercept=-1024)
    for path, name in zip(paths, ("c", "e", "a", "d", "b"), strict=True):
        path.rename(tmp_path / name)
    volume = only(tmp_path)
    assert np.array_equal(volume.voxels, voxels - 1024)
    assert np.allclose(volume.grid.affine, AFFINE)


def test_a_series_in_reversed_order_is_placed_by_position(tmp_path: Path) -> None:
    voxels = some_voxels()
    write_series(tmp_path, voxels, descending=True)
    volume = only(tmp_path)
    assert np.array_equal(volume.voxels, voxels)
    assert np.allclose(volume.grid.affine, AFFINE)


@pytest.mark.parametrize("thickness", [9.0, 0.0, None])
def test_slice_thickness_does_not_count(tmp_path: Path, thickness: float | None) -> None:
    write_series(tmp_path, some_voxels(), SliceThickness=thickness)
    assert np.allclose(only(tmp_path).grid.affine, AFFINE)


def test_pixel_spacing_is_rows_first(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels(), PixelSpacing=[3.0, 2.0])
    assert np.allclose(only(tmp_path).grid.spacing_mm, (2.0, 3.0, 2.0))


def test_a_missing_slice_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels())[2].unlink()
    assert "slices are missing or unevenly spaced" in refusal(tmp_path)


def test_duplicate_positions_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels())
    write_ct(tmp_path / "again", (-10.0, -20.0, 34.0), some_voxels()[:, :, 0].T, AcquisitionNumber=2)
    assert "two slices lie at the same place" in refusal(tmp_path)


def test_two_series_in_one_folder_are_two_volumes(tmp_path: Path) -> None:
    one, two = some_voxels(), some_voxels(shape=(3, 3, 4))
    write_series(tmp_path / "a", one, series="1.2.1")
    write_series(tmp_path / "b", two, series="1.2.2")
    names = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("IM*")]
    first, second = find_series(tmp_path, names)
    assert np.array_equal(read_series(first).voxels, one)
    assert np.array_equal(read_series(second).voxels, two)


def test_a_tilted_gantry_shears_the_grid(tmp_path: Path) -> None:
    voxels = some_voxels()
    for k in range(5):
        write_ct(tmp_path / f"{k}", (0.0, 0.4 * k, 2.0 * k), voxels[:, :, k].T)
    volume = only(tmp_path)
    assert np.allclose(volume.grid.affine[:3, 2], (0.0, -0.4, 2.0))
    assert np.array_equal(volume.voxels, voxels)


def test_mixed_orientations_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels())
    cosines = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
    write_ct(tmp_path / "coronal", (0.0, 0.0, 99.0), np.zeros((4, 6)), ImageOrientationPatient=cosines)
    assert "different orientations" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "fields"),
    [
        (0, 65536, {}),
        (-32768, 32768, {"PixelRepresentation": 1}),
        (0, 4096, {"BitsStored": 12, "HighBit": 11}),
        (-2048, 2048, {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}),
    ],
)
def test_signed_and_unsigned_12_and_16_bit_keep_their_values(
    tmp_path: Path, low: int, high: int, fields: dict[str, Any]
) -> None:
    voxels = some_voxels(low, high)
    voxels[0, 0, 0], voxels[0, 0, 1] = low, high - 1
    write_series(tmp_path, voxels, **fields)
    assert np.array_equal(only(tmp_path).voxels, voxels)


def test_one_negative_slice_does_not_wrap(tmp_path: Path) -> None:
    voxels = some_voxels(1, 500)
    voxels[:, :, 3] = -900
    write_series(tmp_path, voxels, PixelRepresentation=1)
    assert np.array_equal(only(tmp_path).voxels, voxels)


def test_slopes_that_differ_by_slice_are_applied_to_their_slice(tmp_path: Path) -> None:
    voxels = some_voxels()
    for k in range(5):
        fields = {"RescaleSlope": 0.5 * (k + 1), "RescaleIntercept": -10 * k}
        write_ct(tmp_path / f"{k}", (0.0, 0.0, 2.0 * k), voxels[:, :, k].T, **fields)
    expected = voxels * 0.5 * np.arange(1, 6) - 10 * np.arange(5)
    assert np.array_equal(only(tmp_path).voxels, expected.astype(np.float32))


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize(("low", "fields"), [(0, {}), (-2048, {"PixelRepresentation": 1, "RescaleIntercept": -24})])
def test_compressed_syntaxes_give_the_same_voxels(tmp_path: Path, name: str, low: int, fields: dict[str, Any]) -> None:
    voxels = some_voxels(low, low + 4096, (64, 32, 3))
    for path in write_series(tmp_path, voxels, **fields):
        compress(path, LOSSLESS[name])
    assert np.array_equal(only(tmp_path).voxels, voxels + fields.get("RescaleIntercept", 0))


def test_lossy_jpeg_is_read(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(64), np.arange(32))[:, :, None].repeat(3, 2).astype(np.int32)
    for path in write_series(tmp_path, ramp, BitsStored=8, HighBit=7, BitsAllocated=8):
        compress(path, JPEGBaseline8Bit)
    assert np.abs(only(tmp_path).voxels - ramp).max() <= 2


def test_a_compression_that_nobody_decodes_is_named(tmp_path: Path) -> None:
    for path in write_series(tmp_path, some_voxels(), BitsStored=12, HighBit=11):
        compress(path, JPEGExtended12Bit)
    with pytest.raises(UnreadableFile, match=r"its pixels \(JPEG Extended .* cannot be decoded here"):
        only(tmp_path)


def test_values_that_need_a_table_are_refused(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [2, 0, 16], "US", b"\0\0\7\0"
    write_series(tmp_path, some_voxels(), ModalityLUTSequence=[table])
    with pytest.raises(UnreadableFile, match="lookup table"):
        only(tmp_path)


def test_the_frames_of_an_enhanced_image_are_placed_and_scaled_each(tmp_path: Path) -> None:
    voxels = some_voxels(0, 1000)
    order = [3, 0, 4, 1, 2]
    positions = [(-10.0, -20.0, 30.0 + 2 * k) for k in order]
    slopes = [1.0, 2.0, 3.0, 1.0, 2.0]
    write_enhanced(tmp_path / "e.dcm", voxels[:, :, order], positions, slopes=slopes)
    volume = only(tmp_path)
    by_place = [slopes[order.index(k)] for k in range(5)]
    assert np.array_equal(volume.voxels, voxels * np.array(by_place) - 1024)
    assert np.allclose(volume.grid.affine, AFFINE)


def test_an_enhanced_image_in_two_files_is_one_volume(tmp_path: Path) -> None:
    voxels = some_voxels(0, 1000)
    for name, part in (("b", [0, 2]), ("a", [1, 3, 4])):
        positions = [(-10.0, -20.0, 30.0 + 2 * k) for k in part]
        write_enhanced(tmp_path / name, voxels[:, :, part], positions)
    (series,) = find_series(tmp_path)
    again = SeriesFiles(series.uid, "", series.files, series.grid)
    assert np.array_equal(read_series(again).voxels, voxels - 1024)


def test_an_enhanced_image_with_a_gap_or_two_phases_is_refused(tmp_path: Path) -> None:
    voxels = some_voxels()
    write_enhanced(tmp_path / "gap" / "e", voxels, [(0, 0, z) for z in (0, 2, 4, 8, 10)])
    write_enhanced(tmp_path / "phases" / "e", voxels[:, :, :4], [(0, 0, z) for z in (0, 2, 0, 2)])
    assert "slices are missing" in refusal(tmp_path / "gap")
    assert "at the same place" in refusal(tmp_path / "phases")


def test_frames_without_positions_are_refused(tmp_path: Path) -> None:
    write_ct(tmp_path / "cine", (0.0, 0.0, 0.0), np.zeros((3, 4, 6)), NumberOfFrames=3)
    assert "3 frames that do not say where they lie" in refusal(tmp_path)

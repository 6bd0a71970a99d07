"""Short ways of reading NIfTI give what the long ways give."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelserver.domain.errors import UnreadableFile
from labelserver.imaging import nifti
from labelserver.imaging.nifti import _is_faultless
from labelserver.imaging.volumes import read_volume, write_volume

VOXELS = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])

#: values that a header may hold and a check may mend, by field
ODD = {
    "pixdim": [0.0, -1.0, 1.0, 2.5, np.nan, np.inf],
    "qform_code": [-1, 0, 1, 4, 5, 900],
    "sform_code": [-1, 0, 1, 4, 5, 900],
    "datatype": [0, 2, 4, 16, 128, 512],
    "bitpix": [0, 8, 16, 32],
    "vox_offset": [0.0, 352.0, 360.0, 368.0, 100.0],
    "sizeof_hdr": [348, 0],
}


@given(st.dictionaries(st.sampled_from(sorted(ODD)), st.integers(0, 5), max_size=2), st.integers(0, 3))
def test_a_header_without_faults_is_one_that_checks_leave_alone(odd: dict[str, int], axis: int) -> None:
    header = nib.Nifti1Image(VOXELS, AFFINE).header
    header["vox_offset"] = 352
    for field, choice in odd.items():
        value = ODD[field][choice % len(ODD[field])]
        if field == "pixdim":
            header["pixdim"][axis] = value
        else:
            header[field] = value
    block = bytes(header.binaryblock)
    if _is_faultless(block):
        assert nib.Nifti1Header(block, check=True).binaryblock == block


def test_what_we_write_has_no_faults(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", VOXELS, AFFINE, compress=True)
    assert _is_faultless((tmp_path / "a.nii").read_bytes())


def in_two_pieces(data: bytes) -> bytes:
    return gzip.compress(data[:360]) + gzip.compress(data[360:])


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("a.nii", bytes),
        ("a.nii.gz", gzip.compress),
        ("a.nii.gz", in_two_pieces),
        ("a.nii.gz", lambda data: gzip.compress(data + b"more")),
        ("a.nii.gz", lambda data: gzip.compress(data) + b"\0" * 8),
        ("a.nii", lambda data: data + b"more"),
    ],
)
def test_small_files_are_read_alike_however_they_are_packed(
    name: str, made: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volume(tmp_path / "plain.nii", VOXELS, AFFINE, compress=True)
    (tmp_path / name).write_bytes(made((tmp_path / "plain.nii").read_bytes()))
    found = read_volume(tmp_path / name).voxels
    found[0, 0, 0] = 7  # whoever reads a volume may change it
    monkeypatch.setattr(nifti, "_READ_AT_ONCE", 600)
    again = read_volume(tmp_path / name).voxels
    again[0, 0, 0] = 7
    np.testing.assert_array_equal(found, again)
    assert found.dtype == again.dtype
    assert found.flags.f_contiguous == again.flags.f_contiguous


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_a_small_file_that_is_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", VOXELS, AFFINE, compress=True)
    data = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(data[:-cut])
    with pytest.raises(UnreadableFile):
        read_volume(tmp_path / "a.nii.gz")


def test_a_small_file_with_a_wrong_check_sum_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", VOXELS, AFFINE, compress=True)
    data = bytearray((tmp_path / "a.nii.gz").read_bytes())
    data[-6] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(bytes(data))
    with pytest.raises(UnreadableFile):
        read_volume(tmp_path / "a.nii.gz")

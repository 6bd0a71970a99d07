"""Array files keep a client's indices, are mapped instead of read, and are checked before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelserver.domain.errors import UnreadableFile, UnsupportedFormat
from labelserver.imaging import arrays
from labelserver.imaging.volumes import read_grid, read_volume, write_volume


@pytest.mark.parametrize("order", ["C", "F"])
def test_indices_of_the_client_are_indices_of_the_image(tmp_path: Path, order: str) -> None:
    sent = np.asarray(np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", sent)
    volume = read_volume(tmp_path / "a.npy")
    np.testing.assert_array_equal(volume.voxels, sent)
    assert volume.grid.shape == (2, 3, 4)
    np.testing.assert_array_equal(volume.grid.affine, np.eye(4))


def test_channels_stand_first_in_the_file_and_last_in_the_volume(tmp_path: Path) -> None:
    sent = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    stored = arrays.create(tmp_path / "a.npy", sent.shape, sent.dtype, (1.5, 2, 3))
    stored[:] = sent
    volume = read_volume(tmp_path / "a.npy")
    np.testing.assert_array_equal(volume.voxels, np.moveaxis(sent, 0, -1))
    assert volume.grid.shape == (3, 4, 5)
    assert volume.grid.spacing_mm == (1.5, 2, 3)
    np.save(tmp_path / "one.npy", sent[:1])
    np.testing.assert_array_equal(read_volume(tmp_path / "one.npy").voxels, sent[0])


def test_voxels_are_mapped_and_writing_into_them_does_not_reach_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4)))
    voxels = read_volume(tmp_path / "a.npy").voxels
    assert isinstance(voxels, np.memmap)
    voxels[:] = 7
    assert not read_volume(tmp_path / "a.npy").voxels.any()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    voxels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    write_volume(tmp_path / "a.npy", voxels, np.diag([1.0, 2.0, 3.0, 1.0]), compress=True)
    seen = read_volume(tmp_path / "a.npy")
    np.testing.assert_array_equal(seen.voxels, voxels)
    assert seen.grid.spacing_mm == (1, 2, 3)
    moved = np.eye(4)
    moved[0, 3] = 7
    with pytest.raises(UnsupportedFormat):
        write_volume(tmp_path / "b.npy", voxels, moved, compress=False)


def test_damaged_files_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), np.int16))
    whole = (tmp_path / "a.npy").read_bytes()
    bad = {
        "cut": whole[:-1],
        "larger": whole.replace(b"(2, 3, 4)", b"(2, 9, 4)"),
        "absurd": whole.replace(b"(2, 3, 4), }        ", b"(2, 3, 4000000000),}"),
        "no array": b"hello, this is not an array at all",
        "empty": b"",
        "objects": whole.replace(b"'<i2'", b"'|O' "),
        "complex": whole.replace(b"'<i2'", b"'<c8'"),
        "two axes": whole.replace(b"(2, 3, 4)", b"(6, 4)   "),
    }
    for name, data in bad.items():
        path = tmp_path / f"{name}.npy"
        path.write_bytes(data)
        with pytest.raises(UnreadableFile):
            read_grid(path)


@pytest.mark.parametrize("spacing", [(1, 0, 2), (1, -1, 2), (float("nan"), 1, 1), (1, float("inf"), 1)])
def test_spacings_that_cannot_be_are_refused(tmp_path: Path, spacing: tuple[float, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4)))
    arrays.add_spacing(tmp_path / "a.npy", spacing)
    with pytest.raises(UnreadableFile):
        read_grid(tmp_path / "a.npy")


def test_other_bytes_behind_the_voxels_are_no_spacing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4)))
    with (tmp_path / "a.npy").open("ab") as stream:
        stream.write(bytes(64))
    assert read_grid(tmp_path / "a.npy").spacing_mm == (1, 1, 1)

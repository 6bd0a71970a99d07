"""Reading and writing files of voxels, and refusing those that are not what they claim."""

from __future__ import annotations

import bz2
import gzip
import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest

from labelserver.domain.errors import UnreadableFile, UnsupportedFormat
from labelserver.imaging.formats import media_type, split_ext
from labelserver.imaging.volumes import check_whole, read_grid, read_volume, write_volume

OBLIQUE = np.array([[0.9, -0.2, 0.1, -30.5], [0.2, 1.1, 0.3, 12.25], [-0.1, -0.3, 2.5, 640.0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("liver_001.nii.gz", ("liver_001", ".nii.gz")),
        ("A.NII.GZ", ("A", ".NII.GZ")),
        ("a.jpg_copy.jpg", ("a.jpg_copy", ".jpg")),
        ("a.nii.gz.nii.gz", ("a.nii.gz", ".nii.gz")),
        ("seg.nrrd", ("seg", ".nrrd")),
        ("case.seg.nrrd", ("case", ".seg.nrrd")),
        ("case/x.nrrd", ("case/x", ".nrrd")),
        ("1.2.840.nii", ("1.2.840", ".nii")),
        ("weights.pt", ("weights", ".pt")),
        ("README", ("README", "")),
        (".nii", (".nii", "")),
        ("a.b/c", ("a.b/c", "")),
    ],
)
def test_names_split_into_id_and_known_extension(name: str, parts: tuple[str, str]) -> None:
    assert split_ext(name) == parts


def test_media_types_follow_the_extension() -> None:
    assert media_type("a.nii.gz") == "application/gzip"
    assert media_type("a.png") == "image/png"
    assert media_type("a.what") == "application/octet-stream"


@pytest.mark.parametrize("ext", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("compress", [True, False])
def test_volumes_come_back_as_they_were_written(ext: str, dtype: type, compress: bool, tmp_path: Path) -> None:
    voxels = (np.arange(3 * 4 * 5).reshape(3, 4, 5) - (0 if dtype in (np.uint8, np.uint16) else 20)).astype(dtype)
    path = tmp_path / f"v{ext}"
    write_volume(path, voxels, OBLIQUE, compress=compress)
    back = read_volume(path)
    assert back.voxels.dtype == dtype
    assert np.array_equal(back.voxels, voxels)
    assert back.grid.shape == (3, 4, 5)
    assert np.allclose(back.grid.affine, OBLIQUE, atol=1e-4)
    assert read_grid(path).same_place(back.grid)
    assert check_whole(path).same_place(back.grid)


def test_equal_volumes_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, np.ones((3, 3, 3), np.uint8), OBLIQUE, compress=True)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_each_mask_has_its_own_nrrd_header_also_the_second_time(tmp_path: Path) -> None:
    moved = OBLIQUE.copy()
    moved[0, 3] += 7.0
    for _ in range(2):
        for shape, dtype, affine in itertools.product(((3, 4, 5), (5, 4, 3)), (np.uint8, np.int16), (OBLIQUE, moved)):
            voxels = np.arange(60).reshape(shape).astype(dtype)
            write_volume(tmp_path / "mask.nrrd", voxels, affine, compress=False)
            back = read_volume(tmp_path / "mask.nrrd")
            assert (back.voxels.dtype, back.grid.shape) == (dtype, shape)
            assert np.array_equal(back.voxels, voxels)
            assert np.allclose(back.grid.affine, affine, atol=1e-6)


def test_bool_masks_become_uint8(tmp_path: Path) -> None:
    for ext in (".nii.gz", ".nrrd", ".mha"):
        write_volume(tmp_path / f"m{ext}", np.eye(3, dtype=bool)[:, :, None], np.eye(4), compress=True)
        assert read_volume(tmp_path / f"m{ext}").voxels.dtype == np.uint8


def test_sform_is_preferred_to_qform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    image.set_qform(np.diag([9.0, 9.0, 9.0, 1.0]), code=1)
    image.set_sform(OBLIQUE, code=1)
    nib.save(image, tmp_path / "both.nii.gz")
    assert np.allclose(read_grid(tmp_path / "both.nii.gz").affine, OBLIQUE, atol=1e-5)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "qform.nii.gz")
    assert np.allclose(read_grid(tmp_path / "qform.nii.gz").affine, np.diag([9.0, 9.0, 9.0, 1.0]), atol=1e-5)


def test_scaled_voxels_are_given_scaled(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "s.nii")
    assert np.allclose(read_volume(tmp_path / "s.nii").voxels.ravel(), np.arange(8) * 0.5 + 10)


@pytest.mark.parametrize(
    ("space", "flip"), [("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)), ("LAS", (-1, 1, 1))]
)
def test_nrrd_spaces_become_ras(space: str, flip: tuple[int, int, int], tmp_path: Path) -> None:
    header = {"space": space, "space directions": np.diag([1.0, 2.0, 3.0]), "space origin": [4.0, 5.0, 6.0]}
    nrrd.write(str(tmp_path / "v.nrrd"), np.zeros((2, 3, 4), np.int16), header)
    affine = read_grid(tmp_path / "v.nrrd").affine
    assert np.allclose(affine[:3, :3], np.diag(flip) @ np.diag([1.0, 2.0, 3.0]))
    assert np.allclose(affine[:3, 3], np.array(flip) * [4.0, 5.0, 6.0])


def test_a_colour_nrrd_has_channels_last(tmp_path: Path) -> None:
    voxels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    write_volume(tmp_path / "c.nrrd", voxels, OBLIQUE, compress=True)
    back = read_volume(tmp_path / "c.nrrd")
    assert back.grid.shape == (2, 3, 4)
    assert np.array_equal(back.voxels, voxels)


@pytest.mark.parametrize("ext", [".png", ".jpg", ".tif", ".bmp"])
def test_pictures_lie_with_width_first(ext: str, tmp_path: Path) -> None:
    voxels = np.zeros((7, 4, 1, 3), np.uint8)
    voxels[:5] = 200
    write_volume(tmp_path / f"p{ext}", voxels, np.eye(4), compress=True)
    back = read_volume(tmp_path / f"p{ext}")
    assert back.grid.shape == read_grid(tmp_path / f"p{ext}").shape == (7, 4, 1)
    assert back.voxels.shape == (7, 4, 1, 3)
    assert back.voxels[1, 1, 0, 0] > 150
    assert back.voxels[6, 1, 0, 0] < 50


@pytest.mark.parametrize("ext", [".png", ".tif"])
def test_label_pictures_keep_16_bit_values(ext: str, tmp_path: Path) -> None:
    voxels = np.array([[[0], [300]], [[65535], [1]]], np.int32)
    write_volume(tmp_path / f"p{ext}", voxels, np.eye(4), compress=True)
    assert np.array_equal(read_volume(tmp_path / f"p{ext}").voxels, voxels)


def test_a_picture_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match="one slice"):
        write_volume(tmp_path / "p.png", np.zeros((2, 2, 2), np.uint8), np.eye(4), compress=True)
    with pytest.raises(UnsupportedFormat, match="cannot hold"):
        write_volume(tmp_path / "p.png", np.full((2, 2, 1), -1, np.int16), np.eye(4), compress=True)


@pytest.mark.parametrize("ext", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".tif"])
@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "cut header"])
def test_damaged_files_are_unreadable_in_a_sentence(ext: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{ext}"
    shape = (40, 30, 1) if ext in (".png", ".jpg", ".tif") else (20, 15, 12)
    write_volume(path, np.random.default_rng(1).integers(0, 200, shape).astype(np.uint8), np.eye(4), compress=True)
    whole = path.read_bytes()
    noise = np.random.default_rng(2).bytes(500)
    path.write_bytes({"empty": b"", "noise": noise, "cut": whole[: len(whole) // 2], "cut header": whole[:60]}[damage])
    with pytest.raises(UnreadableFile, match=r"v\.") as caught:
        check_whole(path)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("dims", [(32767, 32767, 32767), (30000, 30000, 100), (-5, 3, 3), (0, 3, 3)])
def test_a_nifti_that_declares_what_it_cannot_hold_is_refused_before_allocation(
    dims: tuple[int, int, int], tmp_path: Path
) -> None:
    path = tmp_path / "huge.nii.gz"
    write_volume(path, np.zeros((3, 3, 3), np.uint8), np.eye(4), compress=True)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[42:48] = np.array(dims, "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))
    for read in (read_grid, read_volume, check_whole):
        with pytest.raises(UnreadableFile):
            read(path)


def test_a_nrrd_or_mha_that_declares_what_it_cannot_hold_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nrrd", np.zeros((3, 3, 3), np.uint8), np.eye(4), compress=True)
    text = (tmp_path / "v.nrrd").read_bytes().replace(b"sizes: 3 3 3", b"sizes: 30000 30000 30000")
    (tmp_path / "v.nrrd").write_bytes(text)
    write_volume(tmp_path / "v.mha", np.zeros((3, 3, 3), np.uint8), np.eye(4), compress=True)
    text = (tmp_path / "v.mha").read_bytes().replace(b"DimSize = 3 3 3", b"DimSize = 30000 30000 30000")
    (tmp_path / "v.mha").write_bytes(text)
    for name in ("v.nrrd", "v.mha"):
        with pytest.raises(UnreadableFile):
            read_grid(tmp_path / name)


def test_unknown_types_are_named_with_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_bytes(b"x")
    with pytest.raises(UnsupportedFormat, match=r"\.nii\.gz"):
        read_grid(tmp_path / "a.doc")


def test_real_ct_is_read_as_it_is(real_data: Path) -> None:
    volume = read_volume(real_data / "ct-abdomen" / "image.nii.gz")
    assert volume.grid.shape == (122, 101, 112)
    assert volume.voxels.dtype == np.int32
    assert np.allclose(volume.grid.spacing_mm, 3.0)
    assert volume.grid.same_place(read_grid(real_data / "ct-abdomen" / "labels.nii.gz"))


_HEADER = (
    b"NRRD0004\ntype: %s\ndimension: 3\nspace: left-posterior-superior\nsizes: 3 4 5\n"
    b"space directions: (1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nspace origin: (0,0,0)\n%s\n"
)


@pytest.mark.parametrize("encoding", ["gzip", "gz", "bzip2", "bz2", "raw", "ascii"])
@pytest.mark.parametrize(("kind", "numpy_type"), [(b"uint8", "u1"), (b"short", ">i2"), (b"float", "<f4")])
def test_every_encoding_of_a_nrrd_is_read(encoding: str, kind: bytes, numpy_type: str, tmp_path: Path) -> None:
    voxels = np.arange(60).reshape(3, 4, 5).astype(numpy_type)
    plain = voxels.tobytes(order="F")
    packed = {"g": gzip.compress, "b": bz2.compress, "r": bytes}.get(encoding[0])
    data = packed(plain) if packed else " ".join(str(n) for n in voxels.ravel(order="F")).encode()
    endian = b"endian: %s\n" % (b"big" if numpy_type[0] == ">" else b"little")
    (tmp_path / "v.nrrd").write_bytes(_HEADER % (kind, endian + b"encoding: " + encoding.encode() + b"\n") + data)
    np.testing.assert_array_equal(read_volume(tmp_path / "v.nrrd").voxels, voxels)


@pytest.mark.parametrize(("encoding", "pack"), [(b"gzip", gzip.compress), (b"bzip2", bz2.compress)])
def test_a_nrrd_that_inflates_to_more_than_it_declares_costs_no_memory(
    encoding: bytes, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    bomb = _HEADER % (b"uint8", b"encoding: " + encoding + b"\n") + pack(bytes(1 << 26))
    (tmp_path / "v.nrrd").write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(UnreadableFile, match="more than 60 bytes"):
        read_volume(tmp_path / "v.nrrd")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    short = _HEADER % (b"uint8", b"encoding: " + encoding + b"\n") + pack(bytes(59))
    (tmp_path / "v.nrrd").write_bytes(short)
    with pytest.raises(UnreadableFile, match="59 instead of 60"):
        read_volume(tmp_path / "v.nrrd")
    skipping = _HEADER % (b"uint8", b"byte skip: 1\nencoding: " + encoding + b"\n") + pack(bytes(61))
    (tmp_path / "v.nrrd").write_bytes(skipping)
    with pytest.raises(UnreadableFile, match="byte skip"):
        read_volume(tmp_path / "v.nrrd")

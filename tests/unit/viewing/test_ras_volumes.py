"""What a viewer is sent is the image: each voxel, at its place, whatever the file's axes and numbers are."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from labelserver.domain.errors import Conflict, InvalidParams, UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId, folder_key
from labelserver.imaging.volumes import write_volume
from labelserver.viewing import ras_volumes
from labelserver.viewing.ras_volumes import RasVolumes, VolumeHeader
from tests.property.test_reordering import CHANGES, grid_of

ID = ImageId("ct")


@pytest.fixture
def cache(tmp_path: Path) -> RasVolumes:
    return RasVolumes(tmp_path / "state", 1 << 30)


def seen(cache: RasVolumes, path: Path, frame: int = 0) -> tuple[VolumeHeader, NDArray[np.float64]]:
    """Header and real values (X, Y, Z) or (X, Y, Z, 3), as a viewer computes them."""
    header = cache.header(ID, path, frame)
    x, y, z = header.dims
    data = b"".join(cache.slab(ID, path, k, min(k + 3, z), content=header.content, frame=frame) for k in range(0, z, 3))
    shape = (z, y, x) if header.components == 1 else (z, y, x, 3)
    flat = np.frombuffer(data, np.dtype(header.dtype).newbyteorder("<")).reshape(shape)
    moved = np.swapaxes(flat, 0, 2)
    return header, moved * header.slope + header.intercept


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (11.0, -23.0, 7.5)], ids=["straight", "oblique"])
def test_every_axis_order_shows_the_same_picture(
    cache: RasVolumes, tmp_path: Path, angles: tuple[float, float, float]
) -> None:
    wanted = grid_of((5, 6, 7), (0.9, 1.3, 4.0), angles)
    truth = np.random.default_rng(7).integers(-1000, 3000, wanted.shape).astype(np.int16)
    for number, change in enumerate(CHANGES):
        path = tmp_path / f"{number}.nii.gz"
        write_volume(path, change.apply(truth), change.apply_to_grid(wanted).affine, compress=True)
        header, values = seen(cache, path)
        np.testing.assert_array_equal(values, truth, err_msg=str(change))
        assert Grid(header.dims, np.asarray(header.affine)).same_place(wanted, 1e-3)
        canonical = nib.as_closest_canonical(nib.load(path))  # an independent witness
        np.testing.assert_array_equal(values, np.asanyarray(canonical.dataobj))
        np.testing.assert_allclose(header.affine, canonical.affine, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "wire", "exact"),
    [
        (np.uint8, 0, 255, "uint8", True),
        (np.int8, -128, 127, "int16", True),
        (np.int16, -32768, 32767, "int16", True),
        (np.uint16, 0, 65535, "int16", True),
        (np.uint16, 0, 4095, "int16", True),
        (np.int32, 100_000, 160_000, "int16", True),
        (np.int32, -1_000_000, 1_000_000, "int16", False),
        (np.float32, -1024, 3000, "int16", True),
    ],
)
def test_whole_numbers_arrive_exactly_where_16_bit_hold_them(
    cache: RasVolumes, tmp_path: Path, dtype: type, low: int, high: int, wire: str, exact: bool
) -> None:
    values = np.random.default_rng(1).integers(low, high, (6, 5, 4), endpoint=True).astype(dtype)
    values[0, 0, :2] = (low, high)
    write_volume(tmp_path / "a.nii.gz", values, np.eye(4), compress=True)
    header, shown = seen(cache, tmp_path / "a.nii.gz")
    assert header.dtype == wire
    assert (header.low, header.high) == (low, high)
    if exact:
        np.testing.assert_array_equal(shown, values)
    else:
        assert np.abs(shown - values).max() <= (high - low) / 65535


def test_fractions_are_scaled_and_what_is_no_number_shows_the_lowest(cache: RasVolumes, tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(0.0, 0.3, (6, 5, 4)).astype(np.float32)
    values[1, 1, 1], values[2, 2, 2] = np.nan, np.inf
    write_volume(tmp_path / "a.nii", values, np.eye(4), compress=False)
    header, shown = seen(cache, tmp_path / "a.nii")
    finite = np.isfinite(values)
    assert header.not_finite == 2
    assert np.abs(shown - values)[finite].max() <= (header.high - header.low) / 65535
    np.testing.assert_allclose(shown[~finite], values[finite].min(), atol=header.slope)


def test_the_scale_of_a_nifti_header_is_told_and_its_numbers_are_kept(cache: RasVolumes, tmp_path: Path) -> None:
    stored = np.random.default_rng(3).integers(0, 4000, (6, 5, 4)).astype(np.int16)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(1.0, -1024.0)
    image.to_filename(tmp_path / "a.nii.gz")
    rescaled = nib.Nifti1Image(stored, np.eye(4))
    rescaled.header.set_slope_inter(2.0, -1024.0)
    rescaled.to_filename(tmp_path / "b.nii.gz")
    for name in ("a.nii.gz", "b.nii.gz"):
        header, shown = seen(cache, tmp_path / name)
        assert header.dtype == "int16"
        np.testing.assert_array_equal(shown, np.asanyarray(nib.load(tmp_path / name).dataobj))


def test_one_frame_of_several_is_shown(cache: RasVolumes, tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 900, (6, 5, 4, 3)).astype(np.int16)
    write_volume(tmp_path / "a.nii.gz", values, np.diag([-1.0, 1.0, 1.0, 1.0]), compress=True)
    for frame in range(3):
        header, shown = seen(cache, tmp_path / "a.nii.gz", frame)
        assert header.frames == 3
        np.testing.assert_array_equal(shown, values[::-1, :, :, frame])
    with pytest.raises(InvalidParams, match="no frame 3"):
        cache.header(ID, tmp_path / "a.nii.gz", 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "I;16"])
def test_pictures_are_shown_as_they_lie(cache: RasVolumes, tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(5)
    picture = Image.fromarray(rng.integers(0, 256, (6, 9, 3)).astype(np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 65536, (6, 9)).astype(np.uint16))
    elif mode != "RGB":
        picture = picture.convert(mode)
    picture.save(tmp_path / "a.png")
    header, shown = seen(cache, tmp_path / "a.png")
    colour = mode in ("RGB", "RGBA", "P")
    expected = np.asarray(picture.convert("RGB" if colour else picture.mode), dtype=np.float64)
    if mode == "1":
        expected = expected * 255
    assert (header.dims, header.components) == ((9, 6, 1), 3 if colour else 1)
    assert header.picture
    np.testing.assert_array_equal(shown[:, :, 0], np.swapaxes(expected, 0, 1))


def test_windows_suit_the_numbers(cache: RasVolumes, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    ct = rng.integers(-1000, 1500, (20, 20, 20)).astype(np.int16)
    mr = rng.gamma(2.0, 120.0, (20, 20, 20)).astype(np.float32)
    mr[:10] = 0
    write_volume(tmp_path / "ct.nii.gz", ct, np.eye(4), compress=True)
    write_volume(tmp_path / "mr.nii.gz", mr, np.eye(4), compress=True)
    assert [w.name for w in cache.header(ID, tmp_path / "ct.nii.gz").windows][:2] == ["abdomen", "liver"]
    auto = cache.header(ImageId("mr"), tmp_path / "mr.nii.gz").windows[0]
    low, high = np.percentile(mr[mr > 0], (0.5, 99.5))
    assert auto.name == "auto"
    np.testing.assert_allclose((auto.center, auto.width), ((low + high) / 2, high - low), rtol=0.05)


def test_an_image_is_decoded_once(cache: RasVolumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    write_volume(path, np.zeros((6, 5, 4), np.int16), np.eye(4), compress=True)
    os.utime(path, (1_000_000, 1_000_000))
    read = ras_volumes.read_showable
    calls: list[Path] = []

    def counted(file: Path, frame: int = 0) -> object:
        calls.append(file)
        return read(file, frame)

    monkeypatch.setattr(ras_volumes, "read_showable", counted)
    for volumes in (cache, cache, RasVolumes(tmp_path / "state", 1 << 30)):  # the last one: a restarted server
        header = volumes.header(ID, path)
        volumes.slab(ID, path, 0, 4, content=header.content)
    assert len(calls) == 1


def test_other_pixels_are_another_content(cache: RasVolumes, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_volume(path, np.zeros((6, 5, 4), np.int16), np.eye(4), compress=True)
    before = cache.header(ID, path).content
    write_volume(path, np.ones((6, 5, 4), np.int16), np.eye(4), compress=True)
    header, shown = seen(cache, path)
    assert header.content != before
    assert (shown == 1).all()
    with pytest.raises(Conflict, match="other pixels"):
        cache.slab(ID, path, 0, 4, content=before)
    assert [p.name[:32] for p in (tmp_path / "state/cache/volumes" / folder_key(ID)).glob("*.raw")] == [header.content]


def test_packed_slabs_hold_the_same_and_are_kept(cache: RasVolumes, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    values = np.random.default_rng(8).integers(0, 9, (6, 5, 19)).astype(np.int16)
    write_volume(path, values, np.eye(4), compress=True)
    content = cache.header(ID, path).content
    for z0, z1 in ((0, 8), (16, 19), (3, 4), (2, 9)):
        for _ in range(2):
            packed = cache.packed_slab(ID, path, z0, z1, content=content)
            assert gzip.decompress(packed) == cache.slab(ID, path, z0, z1, content=content)
    kept = {p.name.split("-", 2)[2] for p in (tmp_path / "state/cache/volumes" / folder_key(ID)).glob("*.gz")}
    assert kept == {"0-8.gz", "16-19.gz", "3-4.gz"}


def test_the_cache_stays_within_its_limit(tmp_path: Path) -> None:
    volumes = RasVolumes(tmp_path / "state", 2500)
    for number in range(4):
        path = tmp_path / f"{number}.nii.gz"
        write_volume(path, np.full((10, 10, 10), number, np.uint8), np.eye(4), compress=True)
        header = volumes.header(ImageId(str(number)), path)
        raw = tmp_path / "state/cache/volumes" / folder_key(str(number)) / f"{header.content}-0.raw"
        os.utime(raw, (number, number))
    assert {p.parent.name for p in (tmp_path / "state/cache/volumes").rglob("*.raw")} == {
        folder_key("2"),
        folder_key("3"),
    }
    again = volumes.slab(ImageId("0"), tmp_path / "0.nii.gz", 0, 10, content="")  # made anew
    assert again == bytes(1000)


def test_a_damaged_cache_is_made_anew(cache: RasVolumes, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_volume(path, np.full((6, 5, 4), 7, np.int16), np.eye(4), compress=True)
    os.utime(path, (1_000_000, 1_000_000))
    content = cache.header(ID, path).content
    folder = tmp_path / "state/cache/volumes" / folder_key(ID)
    for name in (f"{content}-0.raw", f"{content}-0.json", "source.json"):
        (folder / name).write_bytes(b"{")
        fresh = RasVolumes(tmp_path / "state", 1 << 30)
        assert (seen(fresh, path)[1] == 7).all(), name


def test_what_cannot_be_shown_is_said(cache: RasVolumes, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"nothing")
    with pytest.raises(UnreadableFile):
        cache.header(ID, tmp_path / "a.nii.gz")
    path = tmp_path / "b.nii.gz"
    write_volume(path, np.zeros((6, 5, 4), np.int16), np.eye(4), compress=True)
    for z0, z1 in ((0, 5), (2, 2), (3, 2)):
        with pytest.raises(InvalidParams, match="the image has 4"):
            cache.slab(ID, path, z0, z1, content="")

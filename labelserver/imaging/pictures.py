"""2-D pictures (PNG, JPEG, TIFF, BMP): axis I runs right, axis J down, K = 1, identity affine."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from labelserver.domain.errors import UnreadableFile, UnsupportedFormat
from labelserver.domain.geometry import Grid
from labelserver.imaging.limits import MAX_VOLUME_BYTES, unreadable
from labelserver.imaging.volume import Volume

_FOREIGN = (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError)

_LOSSY = (".jpg", ".jpeg")


def read_grid(path: Path) -> Grid:
    """(width, height, 1) from the header."""
    with _open(path) as picture:
        return _grid(path, picture)


def read(path: Path) -> Volume:
    """Voxels (W, H, 1) for grey, index and 16-bit pictures, (W, H, 1, 3 or 4) for colour."""
    with _open(path) as picture:
        grid = _grid(path, picture)
        with unreadable(path, "picture", *_FOREIGN), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.asarray(picture.convert("RGB") if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV") else picture)
    flat = array.astype(np.uint8) if array.dtype == np.bool_ else array
    return Volume(np.swapaxes(flat, 0, 1)[:, :, np.newaxis], grid)


def read_shown(path: Path) -> Volume:
    """As `read`, for looking at: colours instead of a palette's indices, no transparency."""
    with _open(path) as picture:
        grid = _grid(path, picture)
        with unreadable(path, "picture", *_FOREIGN), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = picture.mode in ("L", "I", "F", "I;16", "I;16L", "I;16B", "RGB")
            grey = "L" if picture.mode in ("1", "LA", "La") else "RGB"
            array = np.asarray(picture if plain else picture.convert(grey))
    return Volume(np.swapaxes(array, 0, 1)[:, :, np.newaxis], grid)


def write(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], *, compress: bool) -> None:
    """Write (W, H, 1) or (W, H, 1, 3) voxels. uint8, or up to 16 bit grey in PNG and TIFF; affine is not kept.

    Raises:
        UnsupportedFormat: several slices, or values that the format cannot hold.
    """
    if voxels.shape[2] != 1:
        raise UnsupportedFormat(f"A {path.suffix} picture holds one slice; this volume has {voxels.shape[2]}.")
    array = np.swapaxes(voxels[:, :, 0], 0, 1)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    whole = array.dtype.kind in "iub" or bool(np.all(array == np.round(array)))
    if whole and low >= 0 and high <= 255:
        pixels = array.astype(np.uint8)
    elif whole and low >= 0 and high <= 65535 and array.ndim == 2 and path.suffix.lower() not in (*_LOSSY, ".bmp"):
        pixels = array.astype(np.uint16)
    else:
        raise UnsupportedFormat(f"A {path.suffix} picture cannot hold values from {low:g} to {high:g}; use .nii.gz.")
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if path.suffix.lower() in _LOSSY:
        picture.save(path, quality=95)
    elif path.suffix.lower() in (".tif", ".tiff"):
        picture.save(path, compression="tiff_deflate" if compress else None)
    else:
        picture.save(path)


def _open(path: Path) -> Image.Image:
    """The header alone; Pillow decodes when the pixels are asked for."""
    with unreadable(path, "picture", *_FOREIGN), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of size: `_grid` sets our own limit; of damage: decoding says it as an error
        return Image.open(path)


def _grid(path: Path, picture: Image.Image) -> Grid:
    width, height = picture.size
    if width * height * len(picture.getbands()) > MAX_VOLUME_BYTES // 8:
        raise UnreadableFile(f"{path.name} declares {width} x {height} pixels, more than is read as one picture.")
    return Grid((int(width), int(height), 1), np.eye(4))

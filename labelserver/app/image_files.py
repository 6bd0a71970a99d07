"""From what a request calls an image to a file that tasks can open."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.domain.errors import (
    ImageNotFound,
    LabelServerError,
    NoImageGiven,
    UnreadableFile,
    UnsupportedFormat,
)
from labelserver.imaging.dicom_series import find_series, read_series
from labelserver.imaging.volumes import check_whole, write_volume


@contextmanager
def opened_image(image: Any, datastore: Datastore) -> Iterator[Any]:
    """The image as tasks take it: a file's path, or the array as it is.

    An absolute path is used as it is; only code in this process can give one, because ids never begin with a slash.
    A folder is read as one DICOM series and offered as a file that vanishes afterwards.

    Raises:
        NoImageGiven, ImageNotFound, UnreadableFile: nothing, nothing known, or nothing usable was named.
    """
    if hasattr(image, "shape"):
        yield image
        return
    if not image or not isinstance(image, str | Path):
        raise NoImageGiven("Name an image: its id, an upload, or an absolute path.")
    path = Path(image)
    if not path.is_absolute():
        uri = datastore.get_image_uri(str(image))
        if not uri:
            raise ImageNotFound(
                f"There is no image {str(image)[:100]!r}. GET /datastore/ lists them.", image_id=str(image)[:100]
            )
        path = Path(uri)
    if not path.exists():
        raise ImageNotFound(f"The file of the image {path.name!r} is not there any more.", image_id=path.name)
    if not path.is_dir():
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(_series_file(path, Path(folder)))


def _series_file(folder: Path, target: Path) -> Path:
    series = find_series(folder)
    if len(series) != 1:
        found = "no DICOM series" if not series else f"{len(series)} DICOM series"
        raise UnreadableFile(f"The upload holds {found}; send the files of exactly one.")
    volume = read_series(series[0])
    file = target / f"{folder.name}.nii.gz"
    write_volume(file, volume.voxels, volume.grid.affine, compress=True)
    return file


def unreadable(image: Any) -> LabelServerError | None:
    """Why the file cannot be read to its end; None if it can, or if it is of a type that is not known here."""
    if not isinstance(image, str):
        return None
    try:
        check_whole(Path(image))
    except UnsupportedFormat:
        return None
    except LabelServerError as error:
        return error
    return None

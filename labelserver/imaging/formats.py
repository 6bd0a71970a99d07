"""Which file is what, by its name: extensions, media types, kinds.

Extensions are matched without regard to case and given back as they stand in the name, so that a path can be built
from an id again.
"""

from __future__ import annotations

from labelserver.domain.labels import ImageKind

VOLUME_EXTENSIONS: tuple[str, ...] = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")
PICTURE_EXTENSIONS: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".svs")
DICOM_EXTENSIONS: tuple[str, ...] = (".dcm", ".dicom", ".ima")

#: Labels without voxels: Slicer markups, ASAP outlines, raw buffers, tables. They are stored as they come.
PLAIN_LABEL_EXTENSIONS: tuple[str, ...] = (".json", ".geojson", ".xml", ".bin", ".csv", ".txt")

IMAGE_EXTENSIONS: tuple[str, ...] = (*(e for e in VOLUME_EXTENSIONS if e != ".seg.nrrd"), *PICTURE_EXTENSIONS)
LABEL_EXTENSIONS: tuple[str, ...] = (
    *VOLUME_EXTENSIONS,
    *(e for e in PICTURE_EXTENSIONS if e != ".svs"),
    *PLAIN_LABEL_EXTENSIONS,
)

#: Longest first, so that ".seg.nrrd" wins over ".nrrd" and ".nii.gz" over ".gz".
_KNOWN = sorted({*VOLUME_EXTENSIONS, *PICTURE_EXTENSIONS, *DICOM_EXTENSIONS, *PLAIN_LABEL_EXTENSIONS}, key=len)[::-1]

_MEDIA_TYPES = {
    ".nii.gz": "application/gzip",
    ".nii": "application/octet-stream",
    ".seg.nrrd": "application/octet-stream",
    ".nrrd": "application/octet-stream",
    ".mha": "application/octet-stream",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".bmp": "image/bmp",
    ".svs": "image/tiff",
    ".dcm": "application/dicom",
    ".json": "application/json",
    ".geojson": "application/geo+json",
    ".xml": "text/xml",
    ".csv": "text/csv",
    ".txt": "text/plain",
    ".zip": "application/zip",
}


def split_ext(name: str) -> tuple[str, str]:
    """Split a file name (or an id with "/") into stem and extension: ``("liver_001", ".nii.gz")``.

    A known extension is taken whole; otherwise the last suffix is the extension; without a dot it is "".
    """
    lower = name.lower()
    for ext in _KNOWN:
        if lower.endswith(ext) and len(name) > len(ext) and name[-len(ext) - 1] != "/":
            return name[: -len(ext)], name[-len(ext) :]
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.rpartition(".")
    if not dot or not stem:
        return name, ""
    return folder + slash + stem, "." + suffix


def has_voxels(ext: str) -> bool:
    """True for extensions of files that hold a grid of voxels."""
    return ext.lower() in VOLUME_EXTENSIONS or ext.lower() in PICTURE_EXTENSIONS


def is_picture(ext: str) -> bool:
    """True for 2-D pictures."""
    return ext.lower() in PICTURE_EXTENSIONS


def kind_of(ext: str) -> ImageKind:
    """The kind of an image that is one file."""
    return ImageKind.PICTURE if is_picture(ext) else ImageKind.VOLUME


def media_type(name: str) -> str:
    """The media type to send a file of this name with."""
    return _MEDIA_TYPES.get(split_ext(name)[1].lower(), "application/octet-stream")

"""Records of the datastore: images, and labels as revisions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from labelserver.domain.annotation import Annotation, annotation_of
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.json_types import JsonObject


class ImageKind(StrEnum):
    """How an image lies on disk."""

    VOLUME = "volume"  #: one file: NIfTI, NRRD, MHA
    DICOM_SERIES = "dicom_series"  #: the files of one series in a folder
    PICTURE = "picture"  #: 2-D: PNG, JPEG, TIFF


class LabelSource(StrEnum):
    """Where the voxels of a label came from."""

    HAND = "hand"
    MODEL = "model"
    PROMPTS = "prompts"
    IMPORT = "import"  #: lay in the folder when it was first opened
    OUTSIDE_EDIT = "outside_edit"  #: the file below labels/ was changed by another program
    RESTORE = "restore"  #: the content of an older revision, made current again
    CONSENSUS = "consensus"  #: made from the readings of several people


#: What a saver takes for granted about the current label: None, nothing; empty, that there is none; else that its
#: SHA-256 is one of these.
Expected: TypeAlias = Collection[str] | None

#: As an expected SHA-256: whatever it is, there is a label.
ANY_LABEL = "*"


class Numbering(StrEnum):
    """What the voxel values of an upload without names are."""

    SCHEMA = "schema"  #: the project's own values
    CONTIGUOUS = "contiguous"  #: the ids 1..N that old clients are shown


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who and what made a label. `person` is a claim (see "Who is calling" in the docs), not a proof."""

    person: str = ""
    client: str = ""
    source: LabelSource = LabelSource.HAND
    model: str = ""
    model_version: str = ""


@dataclass(frozen=True, slots=True)
class Revision:
    """One accepted label. Revisions of an image and tag are numbered from 1 and never change."""

    image_id: ImageId
    tag: Tag
    number: int
    ext: str  #: with dots, e.g. ".nii.gz"
    sha256: str  #: of the stored file, 64 hex digits
    size_bytes: int
    parent: int | None
    created_ts: float  #: Unix seconds
    provenance: Provenance
    schema_version: int
    info: JsonObject = field(default_factory=dict)  #: free: what the client sent as params

    @property
    def annotation(self) -> Annotation:
        """What was looked at. Raises `InvalidParams` if that note is damaged."""
        return annotation_of(self.info)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of the datastore."""

    image_id: ImageId
    kind: ImageKind
    ext: str  #: with dots; ".nii.gz" for a DICOM series, which is handed out converted
    path: str  #: below STUDIES, with "/"; the folder for a DICOM series
    info: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoreProblem:
    """A file that the datastore could not take, shown in ``/info/`` and by ``labelserver doctor``."""

    path: str  #: below STUDIES
    reason: str  #: a sentence

"""Images for viewers: the header of a volume on the RAS+ grid (`docs/page-api.md`)."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Ijk = tuple[int, int, int]


class VolumeWindow(BaseModel):
    """In real values: black is `center` - `width` / 2."""

    model_config = ConfigDict(extra="ignore")

    name: str
    center: float
    width: float


class Volume(BaseModel):
    """What a viewer knows before it asks for slabs; indices are [x, y, z] of the RAS+ grid."""

    model_config = ConfigDict(extra="ignore")

    image: str
    kind: Literal["volume", "image"]
    content: str = Field(description="Changes with the pixels.")
    dims: Ijk
    spacing_mm: tuple[float, float, float]
    affine: list[list[float]] = Field(description="Voxel [x, y, z, 1] to RAS+ in mm, 4 x 4.")
    dtype: Literal["uint8", "int16"]
    components: int = Field(description="Numbers for each voxel: 1, or 3 for RGB.")
    frames: int = Field(description="Of a file with time or channels; choose one with frame=.")
    slope: float = Field(description="Real value = slope * stored + intercept.")
    intercept: float
    range: tuple[float, float] = Field(description="Real values.")
    unit: str = Field(description="HU, or empty.")
    windows: list[VolumeWindow] = Field(description="The first one is the default.")
    slab: int = Field(description="Slices of a slab that is quick to get.")
    bytes: int = Field(description="Of one frame.")
    orientation: str = Field(description="Of the stored file, e.g. LPS; empty for pictures.")
    not_finite: int = Field(description="Voxels that were NaN or infinite; they show the lowest value.")


class LabelBox(BaseModel):
    """What the bytes of a label box are; the answer's header ``X-Labelserver-Box``."""

    model_config = ConfigDict(extra="ignore")

    lo: Ijk
    hi: Ijk
    dtype: Literal["uint8", "uint16"]
    revision: int
    etag: str = Field(description="Of the label, for If-Match.")
    overlapping: int = Field(description="Voxels of several segments; the largest value is shown.")
    annotated_labels: list[str] | None = Field(default=None, description="Ids of those looked for; null: all.")
    annotated_part: bool = Field(default=False, description="Only a part of the image was looked at.")


class DraftParams(BaseModel):
    """What a page says about its draft."""

    model_config = ConfigDict(extra="forbid")

    based_on: int = Field(default=0, ge=0, description="Number of the draft that the caller saw last; 0: none.")
    force: bool = Field(default=False, description="Replace whatever is there.")
    label_etag: str | None = Field(default=None, max_length=200, description="Of the label that it began with.")
    content: str = Field(default="", max_length=64, description="Of the image's header; 409 if that is another now.")
    state: dict[str, Any] = Field(default_factory=dict, description="Free; 256 KiB as JSON.")


class GridDraft(BaseModel):
    """Unfinished work of one person on one image, on the RAS+ grid."""

    model_config = ConfigDict(extra="ignore")

    image: str
    tag: str
    number: int = Field(description="Grows with each save.")
    updated_ts: float
    dtype: Literal["uint8", "uint16"]
    dims: Ijk
    label_etag: str | None
    content: str
    state: dict[str, Any]
    size_bytes: int


class ListedDraft(BaseModel):
    """One of the caller's drafts."""

    model_config = ConfigDict(extra="ignore")

    image: str
    tag: str
    number: int
    updated_ts: float


class DraftList(BaseModel):
    """The newest first."""

    drafts: list[ListedDraft]


def header_text(document: BaseModel, *, without: str = "") -> str:
    """JSON as a header can carry it: ASCII, one line."""
    return json.dumps(document.model_dump(mode="json", exclude={without}), separators=(",", ":"), ensure_ascii=True)

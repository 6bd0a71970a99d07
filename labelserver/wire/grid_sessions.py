"""Interactive sessions and predictions on the RAS+ grid: what a page asks, and what it is told (`docs/page-api.md`)."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.errors import InvalidPrompt
from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import MAX_POINTS, MaskBox, Prompt, PromptFrame, PromptKind, to_voxels
from labelserver.wire.mask_box import MAX_AXIS

Ijk = tuple[int, int, int]
Index = Annotated[int, Field(ge=0, le=MAX_AXIS)]


class GridMask(BaseModel):
    """Voxels of a box of the grid: `bits` with x fastest, the first in the lowest bit of a byte, base64."""

    model_config = ConfigDict(extra="forbid")

    lo: tuple[Index, Index, Index]
    shape: tuple[Index, Index, Index]
    bits: str

    def to_domain(self) -> MaskBox:
        """On the grid. Raises `InvalidPrompt`."""
        count = math.prod(self.shape)
        try:
            bits = np.frombuffer(base64.b64decode(self.bits, validate=True), dtype=np.uint8)
        except (binascii.Error, ValueError) as error:
            raise InvalidPrompt("The bits of a mask are not base64.") from error
        if count < 1 or (count + 7) // 8 != bits.size:
            raise InvalidPrompt(
                f"A mask of the shape {list(self.shape)} needs {(count + 7) // 8} bytes of bits, not {bits.size}."
            )
        flat = np.unpackbits(bits, count=count, bitorder="little").astype(bool)
        return MaskBox(self.lo, flat.reshape(self.shape[::-1]).transpose(2, 1, 0))


class GridPrompt(BaseModel):
    """One hint: a point is one point, a box two corners (both inside), scribble and lasso are points or a mask."""

    model_config = ConfigDict(extra="forbid")

    kind: PromptKind
    label: str = Field(default="", max_length=200, description="Of the model; default its first label.")
    positive: bool = Field(default=True, description="False: what is marked does not belong to the label.")
    points: list[list[float]] | None = Field(default=None, max_length=MAX_POINTS, description="[x, y, z] of the grid.")
    mask: GridMask | None = None

    def to_domain(self, grid: Grid) -> Prompt:
        """On the RAS+ grid. Raises `InvalidPrompt`."""
        if self.mask is not None and self.points:
            raise InvalidPrompt("A prompt has points or a mask, not both.")
        points = to_voxels(self.points, PromptFrame.VOXEL, grid) if self.points else np.zeros((0, 3))
        mask = self.mask.to_domain() if self.mask is not None else None
        return Prompt(self.kind, self.label, self.positive, points, mask)


class GridTurn(BaseModel):
    """What every change of a session says."""

    model_config = ConfigDict(extra="forbid")

    seq: int = Field(default=0, description="Comes back unchanged.")
    at: int | None = Field(default=None, description="Of the answer that the caller's copy of the mask stands at.")


class GridPromptRequest(GridTurn):
    """New prompts. None: predict with those that wait."""

    prompts: list[GridPrompt] = Field(default_factory=list, max_length=1000)
    predict: bool = Field(default=True, description="False: keep them, predict with the next ones.")


class GridAnswer(BaseModel):
    """What the bytes of an answer are; its header ``X-Labelserver-Answer``. `labels`: schema values in the bytes."""

    model_config = ConfigDict(extra="ignore")

    seq: int = 0
    at: int = 0
    ran: bool = True
    whole: bool = Field(default=False, description="True: outside of the box everything is 0.")
    lo: Ijk
    hi: Ijk
    dtype: Literal["uint8", "uint16"] = "uint8"
    labels: dict[str, int]
    unknown: list[str] = Field(description="Labels of the model that the strict schema lacks; their voxels are 0.")
    undoable: int = 0
    redoable: int = 0
    prompts: int = 0
    model_version: str = ""
    seconds: dict[str, float] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)


class GridSession(BaseModel):
    """A session as a page sees it."""

    model_config = ConfigDict(extra="ignore")

    id: str
    task: str
    image: str | None
    dims: Ijk
    at: int
    labels: dict[str, int] = Field(description="Names of the model -> values of the schema.")
    unknown: list[str]
    prompt_kinds: list[PromptKind]
    undoable: int
    redoable: int
    prompts: int
    model_version: str

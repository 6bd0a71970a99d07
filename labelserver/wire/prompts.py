"""Prompts as clients write them: numbers whose frame is said, masks as bits."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.errors import InvalidPrompt
from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import MAX_POINTS, MaskBox, Prompt, PromptFrame, PromptKind, to_voxels
from labelserver.wire.mask_box import MAX_AXIS

Index = Annotated[int, Field(ge=-MAX_AXIS, le=MAX_AXIS)]


class PromptMask(BaseModel):
    """Voxels of a box of the image: `bits` in C order (k fastest), the first in the highest bit of a byte, base64."""

    model_config = ConfigDict(extra="forbid")

    lo: tuple[Index, Index, Index] = Field(description="The box's first voxel.")
    shape: tuple[Index, Index, Index]
    bits: str


class PromptIn(BaseModel):
    """One hint: a point is one point, a box two corners (both inside), scribble and lasso are points or a mask."""

    model_config = ConfigDict(extra="forbid")

    kind: PromptKind
    label: str = Field(default="", max_length=200, description="What it is about; default the model's first label.")
    positive: bool = Field(default=True, description="False: what is marked does not belong to the label.")
    points: list[list[float]] | None = Field(default=None, max_length=MAX_POINTS)
    frame: PromptFrame | None = Field(
        default=None, description="What the numbers of `points` are: voxel (indices), ras or lps (mm). Never guessed."
    )
    mask: PromptMask | None = None

    def to_domain(self, grid: Grid) -> Prompt:
        """On the image's grid. Raises `InvalidPrompt`."""
        points = np.zeros((0, 3))
        if self.points:
            if self.frame is None:
                raise InvalidPrompt(
                    "Say with 'frame' what the numbers of 'points' are: voxel (indices of the stored image), ras or "
                    "lps (millimetres)."
                )
            points = to_voxels(self.points, self.frame, grid)
        if self.mask is not None and self.points:
            raise InvalidPrompt("A prompt has points or a mask, not both.")
        mask = None
        if self.mask is not None:
            document: dict[str, Any] = self.mask.model_dump()
            mask = MaskBox.from_json({**document, "lo": list(self.mask.lo), "shape": list(self.mask.shape)})
        return Prompt(self.kind, self.label, self.positive, points, mask)


class MaskParams(BaseModel):
    """What a binary body (`wire.mask_box`) says about the mask that it carries, in its JSON."""

    model_config = ConfigDict(extra="ignore")

    kind: PromptKind = PromptKind.MASK
    label: str = Field(default="", max_length=200)
    positive: bool = True
    predict: bool = Field(default=True, description="False: keep it, predict with the next prompts.")

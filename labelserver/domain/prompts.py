"""A user's hints to an interactive task, as values on the image's voxel grid.

Whatever a client sends (voxel indices, millimetres in RAS or LPS, the peer's lists, a drawn mask) is brought onto the
stored image's grid at the door and is a `Prompt` from then on: indices (i, j, k) as floats, voxel centres at integers.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import InvalidPrompt
from labelserver.domain.geometry import Grid
from labelserver.domain.json_types import JsonObject

Points = NDArray[np.float64]  #: (N, 3), voxel indices

#: how far an index that comes out of millimetres may be from a whole number and still be meant as one: clients send
#: six digits or float32.
_ROUNDING_VOXELS = 1e-4
#: points of one prompt; a scribble drawn by hand has hundreds.
MAX_POINTS = 100_000


class PromptKind(StrEnum):
    """What a person can draw."""

    POINT = "point"  #: one point
    SCRIBBLE = "scribble"  #: voxels that belong (or do not): a line of points, or a mask
    BOX = "box"  #: two opposite corners, both inside; flat along an axis: a 2-D box
    LASSO = "lasso"  #: the outline of a region in one slice as a line of points, or its filled mask
    MASK = "mask"  #: what is known already: an initial mask
    CLASS = "class"  #: only the name of what to find


class PromptFrame(StrEnum):
    """What the numbers of a prompt are."""

    VOXEL = "voxel"  #: indices into the stored image
    RAS = "ras"  #: millimetres, RAS+
    LPS = "lps"  #: millimetres, LPS+ (DICOM, ITK, 3D Slicer files)


@dataclass(frozen=True, slots=True, eq=False)
class MaskBox:
    """A binary mask that is empty outside a box of the grid."""

    lo: tuple[int, int, int]
    voxels: NDArray[np.bool_]  #: (A, B, C)

    @property
    def hi(self) -> tuple[int, int, int]:
        """Exclusive."""
        a, b, c = (start + size for start, size in zip(self.lo, self.voxels.shape, strict=True))
        return (a, b, c)

    def indices(self) -> Points:
        """(N, 3): where it is True, on the grid."""
        return np.argwhere(self.voxels).astype(np.float64) + np.asarray(self.lo, dtype=np.float64)

    def to_json(self) -> JsonObject:
        """Bits packed in C order, most significant first, base64."""
        bits = np.packbits(self.voxels, axis=None)
        return {
            "lo": list(self.lo),
            "shape": list(self.voxels.shape),
            "bits": base64.b64encode(bits.tobytes()).decode(),
        }

    @classmethod
    def from_json(cls, document: JsonObject) -> MaskBox:
        """Raises `InvalidPrompt` if sizes and bits do not agree."""
        try:
            lo, shape = _three(document["lo"]), _three(document["shape"])
            bits = np.frombuffer(base64.b64decode(str(document["bits"]), validate=True), dtype=np.uint8)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidPrompt("A mask in a prompt has 'lo', 'shape' (three integers each) and 'bits'.") from error
        count = shape[0] * shape[1] * shape[2]
        if min(shape) < 1 or (count + 7) // 8 != bits.size:
            raise InvalidPrompt(
                f"A mask of shape {list(shape)} needs {(count + 7) // 8} bytes of bits, not {bits.size}."
            )
        return cls(lo, np.unpackbits(bits, count=count).reshape(shape).astype(bool))


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One hint: `points` or `mask`, as the kind needs. `label` names what it is about ("": the task's first)."""

    kind: PromptKind
    label: str = ""
    positive: bool = True
    points: Points = field(default_factory=lambda: np.zeros((0, 3)))
    mask: MaskBox | None = None

    def to_json(self) -> JsonObject:
        return {
            "kind": self.kind.value,
            "label": self.label,
            "positive": self.positive,
            "points": self.points.tolist(),
            "mask": self.mask.to_json() if self.mask is not None else None,
        }

    @classmethod
    def from_json(cls, document: JsonObject) -> Prompt:
        mask = document.get("mask")
        return cls(
            kind=PromptKind(str(document["kind"])),
            label=str(document.get("label", "")),
            positive=bool(document.get("positive", True)),
            points=np.asarray(document.get("points") or [], dtype=np.float64).reshape(-1, 3),
            mask=MaskBox.from_json(mask) if isinstance(mask, dict) else None,
        )

    @property
    def box(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Rounded bounds [lo, hi) of what was drawn. The prompt must not be empty or a class."""
        if self.mask is not None:
            return self.mask.lo, self.mask.hi
        lo, hi = np.rint(self.points.min(axis=0)).astype(int), np.rint(self.points.max(axis=0)).astype(int) + 1
        return (int(lo[0]), int(lo[1]), int(lo[2])), (int(hi[0]), int(hi[1]), int(hi[2]))


def to_voxels(points: Any, frame: PromptFrame, grid: Grid) -> Points:
    """Points of a client on `grid`.

    Args:
        points: (N, 3) numbers, or (N, 2) for voxel indices of a 2-D image.
        frame: what they are.

    Raises:
        InvalidPrompt: not numbers, not finite, too many, or of another dimension.
    """
    try:
        given = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidPrompt("Points are lists of numbers, for example [[120, 96, 40]].") from error
    if given.ndim != 2 or given.shape[1] not in (2, 3) or (given.shape[1] == 2 and grid.shape[2] != 1):
        need = 2 if grid.shape[2] == 1 else 3
        raise InvalidPrompt(f"Each point needs {need} numbers for this image, given as [[...], ...].")
    if len(given) > MAX_POINTS:
        raise InvalidPrompt(f"A prompt may have {MAX_POINTS} points, not {len(given)}; send a mask instead.")
    if not np.isfinite(given).all():
        raise InvalidPrompt("A point has a number that is not finite.")
    if given.shape[1] == 2:
        given = np.column_stack([given, np.zeros(len(given))])
    if frame is PromptFrame.VOXEL:
        return given
    ras = given * np.array([-1.0, -1.0, 1.0]) if frame is PromptFrame.LPS else given
    inverse = np.linalg.inv(grid.affine)
    result: Points = ras @ inverse[:3, :3].T + inverse[:3, 3]
    nearest = np.rint(result)
    return np.where(np.abs(result - nearest) < _ROUNDING_VOXELS, nearest, result)


def check_on(prompt: Prompt, grid: Grid, accepted: Iterable[PromptKind]) -> None:
    """Whether `prompt` makes sense on `grid` for a task that takes `accepted`.

    Raises:
        InvalidPrompt: of another kind, empty, of no size, or outside the image; the sentence says which.
    """
    known = set(accepted)
    if prompt.kind not in known:
        takes = ", ".join(sorted(kind.value for kind in known)) or "none"
        raise InvalidPrompt(f"This model takes no prompt of the kind {prompt.kind.value!r}. It takes: {takes}.")
    if prompt.kind is PromptKind.CLASS:
        if not prompt.label:
            raise InvalidPrompt("A prompt of the kind 'class' needs the name of a label.")
        return
    shape = np.asarray(grid.shape)
    if prompt.mask is not None:
        if not prompt.mask.voxels.any() and prompt.kind is not PromptKind.MASK:
            raise InvalidPrompt(f"The {prompt.kind.value} is empty: draw at least one voxel.")
        if (np.asarray(prompt.mask.lo) < 0).any() or (np.asarray(prompt.mask.hi) > shape).any():
            raise InvalidPrompt(f"The {prompt.kind.value} reaches beyond the image of {list(grid.shape)} voxels.")
        return
    if prompt.kind is PromptKind.MASK or not len(prompt.points):
        raise InvalidPrompt(f"The {prompt.kind.value} is empty: it needs {_NEEDS[prompt.kind]}.")
    if prompt.kind is PromptKind.POINT and len(prompt.points) != 1:
        raise InvalidPrompt("A prompt of the kind 'point' is one point; send several prompts, or a scribble.")
    if prompt.kind is PromptKind.BOX:
        _check_box(prompt)
    if prompt.kind is PromptKind.LASSO and len(prompt.points) < 3:
        raise InvalidPrompt("A lasso needs at least three points, or a mask.")
    nearest = np.rint(prompt.points)
    outside = (nearest < 0).any(axis=1) | (nearest >= shape).any(axis=1)
    # A box may be drawn over the edge; everything else that lies outside is a mistake of the client.
    if outside.all() if prompt.kind is PromptKind.BOX else outside.any():
        where = [round(float(value), 2) for value in prompt.points[int(outside.argmax())]]
        raise InvalidPrompt(
            f"The {prompt.kind.value} at voxel {where} lies outside the image of {list(grid.shape)} voxels."
        )


_NEEDS = {
    PromptKind.POINT: "one point",
    PromptKind.SCRIBBLE: "points or a mask",
    PromptKind.BOX: "two corners",
    PromptKind.LASSO: "points or a mask",
    PromptKind.MASK: "a mask",
}


def _check_box(prompt: Prompt) -> None:
    if len(prompt.points) != 2:
        raise InvalidPrompt("A box is two opposite corners, both inside it.")
    size = np.abs(np.rint(prompt.points[1]) - np.rint(prompt.points[0]))
    if (size == 0).sum() > 1:
        raise InvalidPrompt("The box has no size: its corners may agree along one axis (a 2-D box), not along more.")


def _three(value: object) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(n, int) for n in value):
        raise ValueError("three integers")
    return (value[0], value[1], value[2])

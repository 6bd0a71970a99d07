"""What clients of nnInteractive's official protocol say beside their arrays, as pydantic models.

JSON bodies and the JSON in the header ``X-Meta``. Unknown fields are tolerated: newer clients send more. Indices are
those of the client's array, boxes half-open. `parsed` is the only way in.
"""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, ValidationError

from labelserver.domain.errors import InvalidParams, InvalidPrompt
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.prompts import MaskBox, PromptKind
from labelserver.wire.mask_box import Box, changed_box

META_HEADER = "X-Meta"
LEASE_HEADER = "X-Lease-Token"
#: what this server speaks; clients show it.
PROTOCOL_VERSION = "2.6.0"

_Index = Annotated[int, Field(ge=-(2**31), lt=2**31)]
_Span = tuple[_Index, _Index]
_Spans = tuple[_Span, _Span, _Span]
_Length = Annotated[FiniteFloat, Field(gt=0)]

_Model = TypeVar("_Model", bound="NniBody")


class NniBody(BaseModel):
    """What a client says; `what` names it in sentences."""

    model_config = ConfigDict(frozen=True)
    what: ClassVar[str] = "The body"


class PromptBody(NniBody):
    """Every prompt. `include_interaction`: it belongs to the object."""

    include_interaction: StrictBool
    run_prediction: StrictBool = True


class PointBody(PromptBody):
    coordinates: tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class BoxBody(PromptBody):
    bbox_coords: _Spans

    def corners(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Both inside the box. Raises `InvalidPrompt` for a box without voxels."""
        if any(lo >= hi for lo, hi in self.bbox_coords):
            raise InvalidPrompt("The box is empty along an axis: each pair is [first, one beyond the last].")
        (a0, a1), (b0, b1), (c0, c1) = self.bbox_coords
        return (a0, b0, c0), (a1 - 1, b1 - 1, c1 - 1)


class MaskMeta(PromptBody):
    """Beside the mask of a scribble or lasso; its place if it is not the whole image's."""

    what: ClassVar[str] = f"The header {META_HEADER}"
    interaction_bbox: _Spans | None = None

    def placed(self, mask: np.ndarray, image_shape: tuple[int, int, int]) -> MaskBox:
        """Where `mask` (three axes) is 1, as a mask of the image. Raises `InvalidPrompt` if it does not fit."""
        spans = self.interaction_bbox
        lo = (0, 0, 0) if spans is None else (spans[0][0], spans[1][0], spans[2][0])
        size = image_shape if spans is None else tuple(hi - start for start, hi in spans)
        if mask.shape != size:
            whose = "the image" if spans is None else "its box"
            raise InvalidPrompt(f"The mask has the shape {list(mask.shape)}, {whose} {list(size)}.")
        beyond = any(start < 0 or start + n > whole for start, n, whole in zip(lo, size, image_shape, strict=True))
        if beyond:
            raise InvalidPrompt(f"The mask's box reaches beyond the image of {list(image_shape)} voxels.")
        return tight(mask == 1, lo)


class SeedMeta(NniBody):
    """Beside an initial mask."""

    what: ClassVar[str] = f"The header {META_HEADER}"
    run_prediction: StrictBool = False


class ImageProperties(NniBody):
    spacing: tuple[_Length, _Length, _Length] | None = None


class ImageMeta(NniBody):
    """Beside an image."""

    what: ClassVar[str] = f"The header {META_HEADER}"
    image_properties: ImageProperties | None = None


class BufferBody(NniBody):
    """Of the array that the client keeps the mask in."""

    shape: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    dtype: Annotated[str, Field(pattern=r"^(bool|u?int(8|16|32|64))$")]


class AutozoomBody(NniBody):
    do_autozoom: StrictBool


def parsed(model: type[_Model], text: str | bytes) -> _Model:
    """`text` as a `model`.

    Raises:
        InvalidParams: not JSON, no object, or a field that is missing or of another type; the sentence names it.
    """
    try:
        document = json.loads(text or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidParams(f"{model.what} is not JSON.") from error
    if not isinstance(document, dict):
        raise InvalidParams(f"{model.what} must be a JSON object.")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidParams(f"{model.what}: {field}: {first['msg']}.") from error


def tight(inside: np.ndarray, lo: tuple[int, int, int] = (0, 0, 0)) -> MaskBox:
    """A mask (A, B, C) at `lo`, cut to the smallest box that holds what is True; one voxel if nothing is."""
    box = changed_box(None, inside) or Box((0, 0, 0), (1, 1, 1))
    begin = (lo[0] + box.lo[0], lo[1] + box.lo[1], lo[2] + box.lo[2])
    return MaskBox(begin, np.ascontiguousarray(inside[box.slices]))


def mask_meta(ran: bool, box: Box | None) -> JsonObject:
    """The header ``X-Meta`` of an answer; without `box` nothing changed."""
    if box is None:
        return {"ran_prediction": ran, "bbox": None}
    spans: list[JsonValue] = [[lo, hi] for lo, hi in zip(box.lo, box.hi, strict=True)]
    return {"ran_prediction": ran, "bbox": spans, "dtype": "uint8", "shape": list(box.shape)}


def capabilities(kinds: frozenset[PromptKind], *, autozoom: bool, license_text: str | None) -> JsonObject:
    """What a task can, in the words of the protocol: a 2-D box is a flat box, so a task takes both or none."""
    boxes = PromptKind.BOX in kinds
    return {
        "supported_interactions": {
            "points": PromptKind.POINT in kinds,
            "bbox2d": boxes,
            "bbox3d": boxes,
            "scribble": PromptKind.SCRIBBLE in kinds,
            "lasso": PromptKind.LASSO in kinds,
        },
        "channel_mapping": {"prev_seg": 0, "bbox": [1, 2], "points": [3, 4], "scribble": [5, 6], "lasso": [7, 8]},
        "num_interaction_channels": 9,
        "supports_initial_label": True,
        "supports_zero_shot_label_refinement": False,
        "preferred_scribble_thickness": [2, 2, 2],
        "interaction_decay": None,
        "inference_session_version": PROTOCOL_VERSION,
        "do_autozoom": autozoom,
        "patch_size": None,
        "license": license_text,
        "supports_undo": True,
    }

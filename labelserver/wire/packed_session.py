"""Calls, answers and steps of interactive sessions as JSON and one block of bytes, for frames and for the log on disk.

Whatever is voxels goes into the block, compressed, and the JSON says where: ``[offset, size]``. Changes of the mask are
packed as in `mask_box`, the masks of prompts as zstd over eight voxels a byte.
"""

from __future__ import annotations

import numpy as np
import zstandard

from labelserver.domain.errors import StoredDataInvalid, UnreadableFile
from labelserver.domain.ids import ImageId
from labelserver.domain.interaction import (
    NOTHING_CHANGED,
    MaskChange,
    SessionAnswer,
    SessionCall,
    SessionVerb,
    Step,
)
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.paths import RootedPath
from labelserver.domain.prompts import MaskBox, Prompt
from labelserver.wire.mask_box import MAX_VOXELS, Box, decode_box, encode_part

Shape = tuple[int, int, int]


class Block:
    """Collects bytes and says where they went."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> list[JsonValue]:
        place: list[JsonValue] = [self._size, len(data)]
        self._parts.append(data)
        self._size += len(data)
        return place

    def bytes(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


def pack_change(change: MaskChange, shape: Shape) -> bytes:
    """`change` of a mask of `shape` as zstd; empty if nothing changed."""
    return b"" if change.empty else encode_part(change.values, shape, Box(change.lo, change.hi))


def unpack_change(data: bytes) -> MaskChange:
    """The inverse of `pack_change`. Raises `UnreadableFile`."""
    if not data:
        return NOTHING_CHANGED
    found = decode_box(data)
    return MaskChange(found.box.lo, found.voxels)


def pack_prompt(prompt: Prompt, block: Block) -> JsonObject:
    """One prompt; its mask goes into `block`."""
    document: JsonObject = {
        "kind": prompt.kind.value,
        "label": prompt.label,
        "positive": prompt.positive,
        "points": prompt.points.tolist(),
    }
    if prompt.mask is not None:
        bits = np.packbits(prompt.mask.voxels, axis=None)
        document["mask"] = {
            "lo": list(prompt.mask.lo),
            "shape": list(prompt.mask.voxels.shape),
            "at": block.add(zstandard.ZstdCompressor(level=1).compress(bits.tobytes())),
        }
    return document


def unpack_prompt(document: JsonObject, data: bytes) -> Prompt:
    """The inverse of `pack_prompt`. Raises `StoredDataInvalid`."""
    mask = document.get("mask")
    plain = Prompt.from_json({**document, "mask": None})
    if not isinstance(mask, dict):
        return plain
    return Prompt(plain.kind, plain.label, plain.positive, plain.points, _mask(mask, data))


def _mask(document: JsonObject, data: bytes) -> MaskBox:
    lo, shape = _integers(document.get("lo"), 3), _integers(document.get("shape"), 3)
    count = shape[0] * shape[1] * shape[2]
    if min(shape) < 1 or count > MAX_VOXELS:
        raise StoredDataInvalid(f"A prompt's mask of the shape {shape} cannot be.")
    size = -(-count // 8)
    try:
        bits = zstandard.ZstdDecompressor().decompress(_cut(document.get("at"), data), max_output_size=size)
    except zstandard.ZstdError as error:
        raise StoredDataInvalid("The mask of a prompt is damaged.") from error
    if len(bits) != size:
        raise StoredDataInvalid("The mask of a prompt is cut short.")
    voxels = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=count).reshape(shape)
    return MaskBox((lo[0], lo[1], lo[2]), voxels.view(np.bool_))


def pack_step(step: Step, shape: Shape | None, block: Block) -> JsonObject:
    """One step; what it changed and the masks of its prompts go into `block`.

    Without the `shape` of the image the step must be packed already.
    """
    packed = step.packed
    if not packed and not step.change.empty:
        assert shape is not None
        packed = pack_change(step.change, shape)
    return {
        "prompts": [pack_prompt(prompt, block) for prompt in step.prompts],
        "change": block.add(packed),
        "version": step.model_version,
        "predicted": step.predicted,
        "cleared": step.cleared,
    }


def unpack_step(document: JsonObject, data: bytes, *, voxels: bool = True) -> Step:
    """The inverse of `pack_step`; without `voxels` the change stays packed. Raises `StoredDataInvalid`."""
    packed = _cut(document.get("change"), data)
    try:
        change = unpack_change(packed) if voxels else NOTHING_CHANGED
    except UnreadableFile as error:
        raise StoredDataInvalid("A step of an interactive session is damaged.") from error
    return Step(
        prompts=tuple(unpack_prompt(prompt, data) for prompt in _objects(document.get("prompts"))),
        change=change,
        model_version=str(document.get("version", "")),
        predicted=bool(document.get("predicted", True)),
        cleared=bool(document.get("cleared", False)),
        packed=packed,
    )


def pack_call(call: SessionCall) -> tuple[JsonObject, bytes]:
    """A call as a frame carries it. The steps of its history must be packed already."""
    block = Block()
    document: JsonObject = {
        "session": call.session,
        "verb": call.verb.value,
        "task": call.task,
        "person": call.person,
        "image_id": call.image_id,
        "image_file": call.image_file.to_json() if call.image_file else None,
        "prompts": [pack_prompt(prompt, block) for prompt in call.prompts],
        "predict": call.predict,
        "params": call.params,
        "history": None if call.history is None else [pack_step(step, None, block) for step in call.history],
        "undone": [pack_step(step, None, block) for step in call.undone],
        "at": call.at,
        "forget": call.forget,
        "ext": call.ext,
        "renumber": call.renumber,
    }
    return document, block.bytes()


def unpack_call(document: JsonObject, data: bytes) -> SessionCall:
    """The inverse of `pack_call`. Raises `StoredDataInvalid`."""
    image_id, history, params = document.get("image_id"), document.get("history"), document.get("params")
    return SessionCall(
        session=str(document["session"]),
        verb=SessionVerb(str(document["verb"])),
        task=str(document["task"]),
        person=str(document.get("person", "")),
        image_id=ImageId(image_id) if isinstance(image_id, str) else None,
        image_file=RootedPath.from_json(document["image_file"]) if document.get("image_file") else None,
        prompts=tuple(unpack_prompt(prompt, data) for prompt in _objects(document.get("prompts"))),
        predict=bool(document.get("predict", True)),
        params=params if isinstance(params, dict) else {},
        history=None if history is None else tuple(unpack_step(step, data) for step in _objects(history)),
        undone=tuple(unpack_step(step, data) for step in _objects(document.get("undone"))),
        at=int(str(document.get("at", 0))),
        forget=bool(document.get("forget", False)),
        ext=str(document.get("ext", ".nii.gz")),
        renumber=bool(document.get("renumber", False)),
    )


def pack_answer(answer: SessionAnswer, shape: Shape) -> tuple[JsonObject, bytes]:
    """An answer as a frame carries it. `shape`: of the session's image."""
    document: JsonObject = {
        "ran": answer.ran,
        "final": answer.final,
        "seconds": dict(answer.seconds),
        "version": answer.model_version,
        "file": answer.file.to_json() if answer.file else None,
        "notes": answer.notes,
    }
    return document, answer.packed or pack_change(answer.change, shape)


def unpack_answer(document: JsonObject, data: bytes) -> SessionAnswer:
    """The inverse of `pack_answer`. Raises `UnreadableFile`."""
    seconds, notes = document.get("seconds"), document.get("notes")
    return SessionAnswer(
        ran=bool(document.get("ran", False)),
        change=unpack_change(data),
        final=bool(document.get("final", True)),
        seconds={str(k): float(str(v)) for k, v in seconds.items()} if isinstance(seconds, dict) else {},
        model_version=str(document.get("version", "")),
        file=RootedPath.from_json(document["file"]) if document.get("file") else None,
        notes=notes if isinstance(notes, dict) else {},
        packed=data,
    )


def _cut(place: JsonValue, data: bytes) -> bytes:
    offset, size = _integers(place, 2)
    if offset < 0 or size < 0 or offset + size > len(data):
        raise StoredDataInvalid("A step of an interactive session refers to bytes that are not there.")
    return data[offset : offset + size]


def _integers(value: JsonValue, count: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise StoredDataInvalid(f"{count} whole numbers were expected in an interactive session's data.")
    numbers = tuple(number for number in value if isinstance(number, int))
    if len(numbers) != count:
        raise StoredDataInvalid(f"{count} whole numbers were expected in an interactive session's data.")
    return numbers


def _objects(value: JsonValue) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

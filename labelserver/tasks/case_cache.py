"""Prepared cases on disk, found again by what they were made from: files' contents, transforms' code and settings.

A case is what a training learns from, or an image alone, as inference and scoring prepare it (`kept_heads`). An entry
is one safetensors file below ``cache/cases/<image>/``: the arrays, and as JSON what stands around them. It is written
whole and never changed; nothing is pickled. The folder of an image goes with the image when that is erased. All
entries together stay within a limit: those not used for longest go first. Processes may share the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import TraceKeys
from safetensors import SafetensorError, safe_open

from labelserver.domain.errors import LabelServerError
from labelserver.domain.ids import folder_key
from labelserver.storage import atomic
from labelserver.storage.checksums import sha256_of
from labelserver.tasks.train_context import Case

logger = logging.getLogger(__name__)

#: counts for the name of every entry; 2: the end of a file's name, by which readers choose, counts, too
FORMAT = 2
_SUFFIX = ".safetensors"
_DIGESTS = "files.json"

#: seconds; a file may change twice within the tick of its clock, so a younger one is read again.
_SETTLED_S = 2.0

#: names of element types (source: the safetensors format description)
_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


class _NotKept(Exception):
    """Something that a file of arrays and JSON cannot hold."""


class _NotWanted(Exception):
    """What was being written is not what it was meant to be any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What one file holds."""

    tensors: dict[str, torch.Tensor]
    structure: str  #: JSON; says where the tensors belong

    def header(self) -> bytes:
        """What stands before the arrays: those of large elements first, so that each lies on a multiple of its own."""
        table: dict[str, Any] = {"__metadata__": {"structure": self.structure}}
        end = 0
        for name, tensor in self.in_order():
            start, end = end, end + tensor.numel() * tensor.element_size()
            table[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(table).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def in_order(self) -> list[tuple[str, torch.Tensor]]:
        return sorted(self.tensors.items(), key=lambda named: -named[1].element_size())

    def write_to(self, stream: BinaryIO, header: bytes) -> None:
        """From the arrays' own memory, without a copy."""
        stream.write(header)
        for _, tensor in self.in_order():
            if tensor.numel():
                stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


class CaseCache:
    """The prepared cases of one store."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """
        Args:
            folder: ``<state>/cache/cases``; made when it is needed.
            limit_bytes: that all entries together never exceed.
        """
        self._folder = folder
        self._limit_bytes = limit_bytes

    def key_of(self, case: Case, image_id: str, code: str, *, in_a_hurry: bool = False) -> str | None:
        """The name of the entry; None if the case holds what cannot be told by its content.

        Args:
            case: paths count by the content of their files.
            image_id: whose folder remembers the files' checksums.
            code: of the transforms (`transform_code.code_hash`).
            in_a_hurry: read no file: one whose checksum nobody remembers has no entry.
        """
        digests = _FileDigests(self._home(image_id) / _DIGESTS, in_a_hurry=in_a_hurry)
        try:
            told = {str(name): _told(value, digests) for name, value in sorted(case.items())}
        except _NotKept:
            return None
        digests.write()
        text = json.dumps([FORMAT, code, told], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def load(self, key: str, image_id: str, case: Case, *, elsewhere: bool = True) -> Any | None:
        """What was kept under `key`, with the paths of `case`; None if there is nothing that can be read.

        `elsewhere`: look through the folders of all images, where one with other names has the same content.
        """
        own = self._home(image_id) / f"{key}{_SUFFIX}"
        file: Path | None = own
        if not own.is_file():
            file = next(self._folder.glob(f"*/{key}{_SUFFIX}"), None) if elsewhere else None
        if file is None:
            return None
        try:
            with safe_open(str(file), framework="pt") as stored:
                structure = json.loads((stored.metadata() or {})["structure"])
                arrays = [stored.get_tensor(str(index)) for index in range(len(stored.keys()))]
            os.utime(file)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            logger.warning("a prepared case cannot be read and is made again", extra={"reason": str(error)})
            file.unlink(missing_ok=True)
            return None
        return _decoded(structure, arrays, {name: str(value) for name, value in _paths(case).items()})

    def save(self, key: str, image_id: str, case: Case, item: Any) -> bool:
        """Keep `item`. False if it cannot be kept: it holds objects, or there is no room."""
        entry = self.entry_of(case, item)
        return entry is not None and self.write(key, image_id, entry)

    def entry_of(self, case: Case, item: Any, *, copy: bool = True) -> Entry | None:
        """`item` as it can be written, unless `copy` with its own arrays; None if it holds what cannot be."""
        arrays: list[torch.Tensor] = []
        try:
            structure = _encoded(item, arrays, {str(value): name for name, value in _paths(case).items()})
        except _NotKept:
            return None
        if copy:
            arrays = [array.clone() for array in arrays]
        return Entry({str(index): array for index, array in enumerate(arrays)}, json.dumps(structure))

    def write(self, key: str, image_id: str, entry: Entry, still: Callable[[], bool] = lambda: True) -> bool:
        """Keep an entry. False if there is no room, or it is not `still` wanted once its bytes are on the disk."""
        header = entry.header()
        size = len(header) + sum(tensor.numel() * tensor.element_size() for tensor in entry.tensors.values())
        if not self._make_room(size):
            return False
        file = self._home(image_id) / f"{key}{_SUFFIX}"
        try:
            with atomic.replacing(file) as stream:
                entry.write_to(stream, header)
                if not still():
                    raise _NotWanted
        except _NotWanted:
            return False
        except LabelServerError as error:  # a full disk costs time, no training
            logger.warning("a prepared case could not be kept", extra={"reason": error.message})
            return False
        return True

    def forget(self, key: str, image_id: str) -> None:
        """Let go of an entry, and of the image's folder if nothing else lies there."""
        home = self._home(image_id)
        (home / f"{key}{_SUFFIX}").unlink(missing_ok=True)
        (home / _DIGESTS).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or gone already
            home.rmdir()

    def _home(self, image_id: str) -> Path:
        return self._folder / folder_key(image_id)

    def _make_room(self, size: int) -> bool:
        """Let go of what was not used for longest. False if it does not fit at all."""
        if size > self._limit_bytes:
            return False
        entries = []
        for file in self._folder.glob(f"*/*{_SUFFIX}"):
            try:
                status = file.stat()
            except FileNotFoundError:  # another process made room
                continue
            entries.append((status.st_mtime_ns, status.st_size, file))
        total = sum(entry[1] for entry in entries)
        for _, entry_size, file in sorted(entries, key=lambda entry: entry[0]):
            if total + size <= self._limit_bytes:
                break
            file.unlink(missing_ok=True)
            total -= entry_size
        return True


@dataclass
class _FileDigests:
    """SHA-256 of files, remembered by size and times beside an image's entries."""

    path: Path
    in_a_hurry: bool = False
    known: dict[str, Any] = field(default_factory=dict)
    changed: bool = False

    def __post_init__(self) -> None:
        try:
            document = json.loads(self.path.read_text())
            self.known = document if isinstance(document, dict) else {}
        except (OSError, ValueError):
            self.known = {}

    def of(self, file: Path) -> str:
        status = file.stat()
        identity = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        entry = self.known.get(str(file))
        if isinstance(entry, list) and entry[:-1] == identity:
            return str(entry[-1])
        if self.in_a_hurry:
            raise _NotKept
        digest = sha256_of(file)
        if time.time() - status.st_mtime > _SETTLED_S:
            self.known[str(file)] = [*identity, digest]
            self.changed = True
        return digest

    def write(self) -> None:
        """Without sync: it can be found out again."""
        if not self.changed:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            half = self.path.with_name(f"{atomic.TEMPORARY_PREFIX}{uuid.uuid4().hex}")
            half.write_text(json.dumps(self.known))
            half.replace(self.path)
        except OSError as error:
            logger.info("checksums could not be kept", extra={"reason": str(error)})


def _paths(case: Case) -> dict[str, str]:
    return {name: os.fspath(value) for name, value in case.items() if isinstance(value, str | PathLike) and value}


def _told(value: Any, digests: _FileDigests) -> Any:
    """A part of a case as JSON that says all about it. Raises `_NotKept`."""
    if isinstance(value, str | PathLike):
        text = os.fspath(value)
        file = Path(text) if isinstance(text, str) and text.startswith("/") and len(text) < 4096 else None
        if file is not None and file.is_file():
            return {"file": digests.of(file), "ends": "".join(file.suffixes[-2:]).lower()}
        if file is not None and file.exists():
            raise _NotKept  # a folder: which of its files are read is the app's secret
        return _told_json(text, digests) if isinstance(text, str) and text.startswith("{") else text
    if isinstance(value, Mapping):
        return {str(name): _told(part, digests) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_told(part, digests) for part in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {"array": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest(), "of": str(value.dtype)}
    raise _NotKept


def _told_json(text: str, digests: _FileDigests) -> Any:
    """Text that is JSON may name further files."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    return {"json": _told(document, digests)}


def _encoded(value: Any, arrays: list[torch.Tensor], paths: Mapping[str, str]) -> Any:
    """`value` as JSON; arrays go into the list. Raises `_NotKept`."""
    if isinstance(value, MetaTensor):
        if value.pending_operations:
            raise _NotKept
        index = _stored(value.as_tensor(), arrays)
        meta = _encoded(dict(value.meta), arrays, paths)
        return {"meta": index, "about": meta, "steps": _encoded(list(value.applied_operations), arrays, paths)}
    if isinstance(value, torch.Tensor):
        return {"tensor": _stored(value, arrays)}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject or value.dtype.kind in "SUVMm":
            raise _NotKept
        native = value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
        try:
            tensor = torch.from_numpy(np.ascontiguousarray(native))
        except TypeError:
            raise _NotKept from None
        return {"array": _stored(tensor, arrays), "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return {"scalar": _encoded(np.asarray(value), arrays, paths)}
    if isinstance(value, str):
        text = str.__str__(value)
        return {"path": paths[text]} if text in paths else {"text": text}
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Mapping):
        return {"dict": [[_encoded(n, arrays, paths), _encoded(part, arrays, paths)] for n, part in value.items()]}
    if isinstance(value, list):
        return [_encoded(part, arrays, paths) for part in value]
    if isinstance(value, tuple) and type(value) is tuple:
        return {"tuple": [_encoded(part, arrays, paths) for part in value]}
    raise _NotKept


def _stored(tensor: torch.Tensor, arrays: list[torch.Tensor]) -> int:
    if tensor.dtype not in _TYPES or tensor.layout is not torch.strided:
        raise _NotKept
    arrays.append(tensor.detach().to("cpu").contiguous())
    return len(arrays) - 1


def _decoded(value: Any, arrays: list[torch.Tensor], paths: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_decoded(part, arrays, paths) for part in value]
    if not isinstance(value, dict):
        return value
    match next(iter(value)):
        case "meta":
            about, steps = (_decoded(value[name], arrays, paths) for name in ("about", "steps"))
            # Of any instance, so that the transforms of this run can invert what those of an earlier one did.
            steps = [{**step, TraceKeys.ID: TraceKeys.NONE} if isinstance(step, dict) else step for step in steps]
            return MetaTensor(arrays[value["meta"]], meta=about, applied_operations=steps)
        case "tensor":
            return arrays[value["tensor"]]
        case "array":
            return arrays[value["array"]].numpy().reshape(value["shape"])
        case "scalar":
            return _decoded(value["scalar"], arrays, paths)[()]
        case "path":
            return paths.get(value["path"], "")
        case "text":
            return value["text"]
        case "float":
            return float(value["float"])
        case "tuple":
            return tuple(_decoded(part, arrays, paths) for part in value["tuple"])
        case _:
            return {_decoded(n, arrays, paths): _decoded(part, arrays, paths) for n, part in value["dict"]}

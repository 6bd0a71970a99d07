"""What a list of transforms does, as a hash over code and settings, so that its results can be kept on disk.

Two lists with the same hash make the same of the same case. Code of installed libraries counts by their version; code
of apps by the content of its source file; code of this package by all that reads and prepares images in it. What cannot
be told apart (an object with hidden state, a function without source) makes the whole list unknown: then nothing is
kept.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import monai
import nibabel
import numpy as np
import torch

from labelserver.storage.checksums import sha256_of

_VERSIONS = {"monai": monai.__version__, "numpy": np.__version__, "torch": torch.__version__, "builtins": sys.version}
_LIBRARIES = ("monai", "numpy", "torch", "builtins", "scipy", "skimage", "nibabel", "pydicom")

#: attributes that transforms of MONAI set while they run
_STATE = frozenset({"_tracing", "R", "rand_state"})
_PLAIN = (str, int, float, bool, bytes, complex, type(None), torch.dtype, np.dtype, torch.device, slice, np.generic)
_DEPTH = 12


class _Unknown(Exception):
    """Something whose behaviour cannot be told from its parts."""


def code_hash(steps: Sequence[Any]) -> str | None:
    """64 hex digits; None if it cannot be told what the steps do."""
    digest = hashlib.sha256(repr((sorted(_VERSIONS.items()), nibabel.__version__)).encode())
    try:
        for step in steps:
            for word in _words(step, _DEPTH):
                digest.update(word.encode("utf-8", "surrogatepass") + b"\0")
    except _Unknown:
        return None
    return digest.hexdigest()


def _words(value: Any, depth: int) -> Iterator[str]:
    """The parts of `value` in order. Raises `_Unknown`."""
    if depth < 0:
        raise _Unknown
    if isinstance(value, Enum):
        yield f"{type(value).__qualname__}.{value.name}"
    elif isinstance(value, _PLAIN):
        yield f"{type(value).__name__}:{value!r}"
    elif isinstance(value, np.ndarray | torch.Tensor):
        yield from _array_words(value)
    elif isinstance(value, Mapping):
        yield f"{type(value).__qualname__}{{"
        for name, part in value.items():
            yield from _words(name, depth - 1)
            yield from _words(part, depth - 1)
        yield "}"
    elif isinstance(value, list | tuple):
        yield f"{type(value).__qualname__}["
        for part in value:
            yield from _words(part, depth - 1)
        yield "]"
    elif isinstance(value, set | frozenset):
        yield repr(sorted(map(repr, value)))
    elif isinstance(value, partial):
        yield from _words((value.func, value.args, value.keywords), depth - 1)
    elif isinstance(value, FunctionType | BuiltinFunctionType | MethodType | type):
        yield from _code_words(value, depth)
    else:
        yield from _object_words(value, depth)


def _array_words(value: Any) -> Iterator[str]:
    array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    if array.dtype.hasobject:
        raise _Unknown
    yield f"{array.dtype}{array.shape}{hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"


def _code_words(value: Any, depth: int) -> Iterator[str]:
    """A function or class: where its code stands, and for a closure what it holds."""
    if isinstance(value, MethodType):
        yield from _words(value.__self__, depth - 1)
        value = value.__func__
    module = str(value.__module__ or "")
    yield f"{module}.{value.__qualname__}"
    if _is_library(module):
        return
    if module.split(".")[0] == "labelserver":
        yield _own_code()
    yield _source_hash(module, value)
    if isinstance(value, type):
        for base in value.__mro__[1:]:
            if not _is_library(base.__module__):
                yield _source_hash(base.__module__, base)
        return
    for cell in getattr(value, "__closure__", None) or ():
        yield from _words(cell.cell_contents, depth - 1)
    for part in (getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None)):
        yield from _words(part, depth - 1)


def _object_words(value: Any, depth: int) -> Iterator[str]:
    """An object is its class and its attributes."""
    yield from _code_words(type(value), depth)
    try:
        attributes = vars(value)
    except TypeError:
        raise _Unknown from None  # built in, with state that nobody sees
    yield from _words({name: part for name, part in attributes.items() if name not in _STATE}, depth - 1)


def _is_library(module: str) -> bool:
    return module.split(".")[0] in _LIBRARIES


@lru_cache(maxsize=1)
def _own_code() -> str:
    """A transform of ours is a few lines that call readers and arithmetic which stand elsewhere."""
    tasks = Path(__file__).parent
    files = sorted(file for room in (tasks, tasks.parent / "imaging") for file in room.rglob("*.py"))
    return hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()


@lru_cache(maxsize=256)
def _source_hash(module: str, code: Any) -> str:
    """Of the whole source file, because code calls what stands beside it."""
    try:
        file = inspect.getsourcefile(code)
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        raise _Unknown
    return f"{module}:{sha256_of(Path(file))}"

"""Keep what the first transforms made of an image, so that the next click does not make it again.

An entry belongs to an image file as it is now (path, size, modification time) and to the values under the hash keys;
it is handed out as a copy. Entries lie in the table of `prepared_images` and count in its budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TraceKeys, ensure_tuple

from labelserver.tasks.prepared_images import shared
from labelserver.tasks.transform_runs import run_transforms

CacheKey: TypeAlias = tuple[Hashable, ...]

#: attributes that transforms of MONAI set while they run
_STATE = frozenset({"_tracing", "R"})


@dataclass(frozen=True, slots=True)
class _Entry:
    values: dict[Hashable, Any]
    expires: float  #: monotonic seconds


def forget_prepared_images() -> None:
    """Empty the cache."""
    shared().clear()


class CacheTransformDatad(Transform):
    """A mark in a list of pre transforms: what stands before it is kept from call to call, the rest always runs.

    Args:
        keys: what to keep of ``data``; empty keeps every tensor and array.
        hash_key: keys whose values (beside the image file's identity) tell entries apart.
        in_memory: accepted for older apps; entries live in memory.
        ttl: seconds an entry is kept.
        reset_applied_operations_id: let the trace of the kept transforms be inverted by newly built ones.
    """

    def __init__(
        self,
        keys: KeysCollection = (),
        hash_key: Sequence[str] = ("image_path", "model"),
        in_memory: bool = True,
        ttl: float = 600,
        reset_applied_operations_id: bool = True,
    ) -> None:
        self.keys = tuple(ensure_tuple(keys))
        self.hash_key = tuple(ensure_tuple(hash_key))
        self.in_memory = in_memory
        self.ttl_s = ttl
        self.reset_applied_operations_id = reset_applied_operations_id
        self.made_by = ""  #: fingerprint of the transforms before this mark, set by `run_behind_cache`

    def key_of(self, data: Mapping[Hashable, Any]) -> CacheKey | None:
        """What the entry of `data` is called; None if there is no image file to tell it by."""
        path = data.get("image_path")
        if not isinstance(path, str):
            return None
        try:
            stat = Path(path).stat()
        except OSError:
            return None
        named = tuple((name, repr(data.get(name))) for name in self.hash_key)
        return ("mark", str(path), stat.st_size, stat.st_mtime_ns, self.made_by, self.keys, *named)

    def load(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any] | None:
        """`data` with the kept values, or None."""
        key = self.key_of(data)
        entry: _Entry | None = shared().find(key) if key is not None else None
        if entry is None or entry.expires < time.monotonic():
            return None
        return {**data, **_copied(entry.values)}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Keep the values of `data`; returns it as it is."""
        result = dict(data)
        key = self.key_of(result)
        if key is None:
            return result
        names = self.keys or tuple(name for name, value in result.items() if hasattr(value, "shape"))
        values = _copied({name: result[name] for name in names if name in result})
        if self.reset_applied_operations_id:
            for value in values.values():
                if isinstance(value, MetaTensor):
                    value.applied_operations = [{**op, TraceKeys.ID: TraceKeys.NONE} for op in value.applied_operations]
        shared().put(key, _Entry(values, time.monotonic() + self.ttl_s))
        return result


def _copied(values: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """Tensors and arrays cloned, so that neither side can change the other's."""
    return {
        name: value.clone() if torch.is_tensor(value) else value.copy() if hasattr(value, "copy") else value
        for name, value in values.items()
    }


def run_behind_cache(data: Any, transforms: list[Callable[..., Any]]) -> Any:
    """Run pre transforms; those before a `CacheTransformDatad` only if it has nothing kept."""
    marks = [index for index, step in enumerate(transforms) if isinstance(step, CacheTransformDatad)]
    mark = transforms[marks[0]] if marks else None
    if isinstance(mark, CacheTransformDatad) and isinstance(data, dict):
        mark.made_by = _fingerprint(transforms[: marks[0]])
        kept = mark.load(data)
        if kept is not None:
            return run_transforms(kept, transforms[marks[0] + 1 :], log_prefix="PRE")
    return run_transforms(data, transforms, log_prefix="PRE")


def _fingerprint(value: Any, depth: int = 6) -> str:
    """Text that differs for transforms of another class or other settings."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name!r}:{_fingerprint(part, depth)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_fingerprint(part, depth) for part in value) + "]"
    if isinstance(value, Transform) and depth > 0:
        cls = type(value)
        options = {name: part for name, part in vars(value).items() if name not in _STATE}
        return f"{cls.__module__}.{cls.__qualname__}({_fingerprint(options, depth - 1)})"
    if isinstance(value, str | int | float | bool | np.ndarray | torch.Tensor | torch.dtype | torch.device | None):
        return repr(value)
    return str(getattr(value, "__qualname__", type(value).__qualname__))

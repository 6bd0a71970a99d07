"""Run transforms one by one: timed, cancellable, and safe from how MONAI reads the names of other keys.

MONAI's ``Spacingd`` takes every key that begins with ``<image key>_`` for a metadata dictionary and updates it, which
fails on the peer's ``image_path`` and on any client option of such a name. Plain values of that kind are therefore set
aside while a transform of MONAI runs, and `ImagePath` survives where an author's transform calls MONAI itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from monai.transforms import Compose, InvertibleTransform

from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import RequestCancelled, TaskFailed

#: What a transforms hook may return: MONAI's Compose, a sequence of callables, or one callable.
Transforms: TypeAlias = "Compose | Sequence[Callable[..., Any]] | Callable[..., Any] | None"


class ImagePath(str):
    """The path of an image as a value of ``data``: text that MONAI may take for metadata without harm."""

    __slots__ = ()

    def update(self, *ignored: Any) -> None:
        """Called by MONAI's Spacingd on every value whose key begins with ``image_``; a path has nothing to merge."""


def stop_if_asked() -> None:
    """Raise `RequestCancelled` if whoever started this work no longer wants it."""
    if current_progress().should_stop():
        raise RequestCancelled("The request was cancelled before it finished.")


def listed(transforms: Transforms) -> list[Callable[..., Any]]:
    """The single transforms in running order; a lazy Compose stays one step because its parts depend on each other."""
    if transforms is None:
        return []
    if isinstance(transforms, Compose):
        if transforms.lazy:
            return [transforms]
        return [step for part in transforms.transforms for step in listed(part)]
    if isinstance(transforms, Sequence):
        return [step for part in transforms for step in listed(part)]
    return [transforms]


def run_transforms(
    data: Any,
    callables: Transforms,
    inverse: bool = False,
    log_prefix: str = "POST",
    log_name: str = "Transform",
    use_compose: bool = False,
) -> Any:
    """Apply `callables` to `data` (or their inverses, in the order given) and return the result.

    Adds ``data["latencies"][log_prefix.lower()][class name]`` in seconds where `data` is a dict.

    Args:
        data: usually the dict of one request; anything the transforms accept.
        callables: a Compose, a sequence, or a single callable.
        inverse: call ``t.inverse(data)`` instead of ``t(data)``.
        log_prefix: name of the stage.
        log_name: accepted for older callers; the class name says it already.
        use_compose: run everything as one Compose, without timing each step.

    Raises:
        TaskFailed: an entry that cannot be called, or has no inverse; the message names it.
        RequestCancelled: the work is no longer wanted.
    """
    steps = [Compose(listed(callables))] if use_compose else listed(callables)
    for step in steps:
        stop_if_asked()
        if not callable(step):
            raise TaskFailed(f"{log_prefix} transforms hold {step!r}, which cannot be called.")
        started = time.perf_counter()
        data = _run_one(data, _inverse_of(step, log_prefix) if inverse else step, step)
        note_latency(data, log_prefix.lower(), type(step).__name__, time.perf_counter() - started)
    return data


def _inverse_of(step: Any, log_prefix: str) -> Callable[[Any], Any]:
    if not isinstance(step, InvertibleTransform):
        raise TaskFailed(f"{type(step).__name__} among the {log_prefix} transforms has no inverse.")
    inverse: Callable[[Any], Any] = step.inverse
    return inverse


def _run_one(data: Any, call: Callable[[Any], Any], step: Any) -> Any:
    if not isinstance(data, dict) or isinstance(step, Compose) or not type(step).__module__.startswith("monai."):
        return call(data)
    named = set(getattr(step, "keys", ()))
    aside = {key: value for key, value in data.items() if _looks_like_metadata(key, value) and key not in named}
    if not aside:
        return call(data)
    result = call({key: value for key, value in data.items() if key not in aside})
    if isinstance(result, dict):
        result.update(aside)
    return result


def _looks_like_metadata(key: Any, value: Any) -> bool:
    plain = isinstance(value, str | int | float | list | tuple) or value is None
    return plain and isinstance(key, str) and key.startswith("image_")


def note_latency(data: Any, stage: str, name: str, duration_s: float) -> None:
    """Add to ``data["latencies"][stage][name]`` where `data` is a dict."""
    if not isinstance(data, dict):
        return
    table = data.setdefault("latencies", {}).setdefault(stage, {})
    if isinstance(table, dict):
        table[name] = round(table.get(name, 0.0) + duration_s, 6)


def transform_latencies(data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Per stage, seconds by transform class, as `run_transforms` noted them."""
    found = data.get("latencies")
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}

"""The first pre transforms always make the same of the same image: run them once and keep what came out.

The *head* of a list of pre transforms are those known to depend on nothing but the image (`known_transforms`). Known
steps in between that read prompts and only look at the image's shape (the clicks of DeepEdit) do not end it: they run
in every call, each with a stand-in that has the shape and metadata which the image had there, without voxels. The first
unknown step ends the head; it and all after it run in every call. A random transform is unknown.

An entry is named by the image's content (`prepared_images.content_of`), by the class and settings of every step, and by
where the in-between steps stand; request options count through the settings of the steps that an app builds from them.
What is not in memory may lie on the disk, made by another process (`kept_heads`).
"""

from __future__ import annotations

import time
from bisect import bisect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor

from labelserver.tasks.kept_heads import Head, code_of, current_shelf, cut_after, stand_in, without_ids
from labelserver.tasks.known_transforms import LEAVES_INPUT, LOOKS_ONLY, SAME_ALWAYS, fingerprint, names_in
from labelserver.tasks.lending import handed_out
from labelserver.tasks.prepared_images import content_of, shared
from labelserver.tasks.transform_code import code_hash
from labelserver.tasks.transform_runs import run_transforms
from labelserver.tasks.transforms.caching import CacheTransformDatad, run_behind_cache

Step = Callable[..., Any]
_FILE_NAME = "filename_or_obj"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a list of steps is split."""

    kept: tuple[int, ...]  #: indices of the steps whose result is kept
    looking: tuple[int, ...]  #: indices of the steps in between
    rest: int  #: index of the first step that runs in every call
    content: Hashable
    key: Hashable


class _ChangedMeanwhile(Exception):
    """The file was written while it was read: what came of it serves this call and is not kept."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head


def run_prepared(data: Any, steps: list[Step], input_key: str) -> Any:
    """Run pre transforms, taking what can be kept from memory.

    A `CacheTransformDatad` is an author's word that everything before it may be kept; it counts where it stands behind
    the head.
    """
    plan = planned(data, steps, input_key) if isinstance(data, dict) else None
    marks = [index for index, step in enumerate(steps) if isinstance(step, CacheTransformDatad)]
    if plan is None or any(index > plan.rest for index in marks):
        return run_behind_cache(data, steps)
    return run_with_head(data, steps, input_key, plan)


def planned(data: dict[str, Any], steps: Sequence[Step], input_key: str) -> Plan | None:
    """How to split `steps` for this call; None if nothing of them may be kept."""
    path = data.get(input_key)
    content = content_of(path) if isinstance(path, str) else None
    if content is None:
        return None
    foreign = set(map(str, data)) - {input_key}
    kept: list[int] = []
    looking: list[int] = []
    words: list[str] = []
    for index, step in enumerate(steps):
        kind = type(step)
        if kind is CacheTransformDatad:
            continue
        names = names_in(step) if kind in SAME_ALWAYS or kind in LOOKS_ONLY else frozenset()
        if kind in LOOKS_ONLY:
            looking.append(index)
            foreign |= names - {input_key}
            words.append(f"look:{kind.__qualname__}")
            continue
        lazy = getattr(step, "lazy", False)  # its work is done later, by a step that may be unknown
        told = fingerprint(step) if kind in SAME_ALWAYS and not lazy and foreign.isdisjoint(names) else None
        if told is None:
            break
        kept.append(index)
        words.append(told)
    if not kept:
        return None
    rest = kept[-1] + 1
    between = tuple(index for index in looking if index < rest)
    shortened = words[: len(kept) + len(between)]
    return Plan(tuple(kept), between, rest, content, ("head", input_key, content, tuple(shortened)))


def run_with_head(data: dict[str, Any], steps: Sequence[Step], input_key: str, plan: Plan) -> Any:
    """Run `steps` on `data`, taking what the kept ones make from memory if it is there."""
    path = str(data[input_key])
    timed: dict[str, Any] = {}

    def make() -> Head:
        head = _found_or_made(steps, input_key, path, plan, timed)
        if content_of(path) != plan.content:
            raise _ChangedMeanwhile(head)
        return head

    try:
        head = shared().get_or_make(plan.key, make)
    except _ChangedMeanwhile as changed:
        head = changed.head
    result = dict(data)
    for stage, table in timed.items():
        result.setdefault("latencies", {})[stage] = dict(table)
    for index, looked_at in zip(plan.looking, head.stand_ins, strict=True):
        result[input_key] = handed_out(plan.key, looked_at, copy=False)
        result = run_transforms(result, [steps[index]], log_prefix="PRE")
    tail = [step for step in steps[plan.rest :] if not isinstance(step, CacheTransformDatad)]
    careful = any(type(step) not in LEAVES_INPUT for step in tail)
    for name, value in head.values.items():
        result[name] = handed_out(plan.key, value, copy=careful)
        if isinstance(value, MetaTensor) and _FILE_NAME in value.meta:
            result[name].meta[_FILE_NAME] = path
    return run_transforms(result, tail, log_prefix="PRE")


def _found_or_made(steps: Sequence[Step], input_key: str, path: str, plan: Plan, timed: dict[str, Any]) -> Head:
    """From the disk, where this image has a place there; what is made anew goes there in its own time."""
    nothing = Head({input_key: path}, ())
    shelf = current_shelf()
    count = cut_after([steps[index] for index in plan.kept])
    kept_code = code_hash([steps[index] for index in plan.kept[:count]]) if shelf is not None and count else None
    if shelf is None or kept_code is None:
        return _made(steps, input_key, plan, nothing, 0, plan.rest, timed)
    cut = plan.kept[count - 1] + 1
    looking = tuple(bisect(plan.kept, index) for index in plan.looking if index < cut)
    code = code_of(kept_code, input_key, count, looking)
    head = shelf.find(input_key, path, code)
    if head is None:
        started = time.perf_counter()
        head = _made(steps, input_key, plan, nothing, 0, cut, timed)
        shelf.keep(input_key, path, code, plan.content, head, time.perf_counter() - started)
    return _made(steps, input_key, plan, head, cut, plan.rest, timed)


def _made(
    steps: Sequence[Step], input_key: str, plan: Plan, begun: Head, start: int, end: int, timed: dict[str, Any]
) -> Head:
    """Run the kept steps on the image alone: no other key is there, so nothing else can get into the result."""
    data: Any = dict(begun.values)
    stand_ins = list(begun.stand_ins)
    for index in range(start, end):
        if index in plan.looking:
            stand_ins.append(_stand_in(data[input_key]))
        elif index in plan.kept:
            data = run_transforms(data, [steps[index]], log_prefix="PRE")
    for stage, table in data.pop("latencies", {}).items():
        timed.setdefault(stage, {}).update(table)
    return Head(without_ids(data), tuple(stand_ins))


def _stand_in(image: Any) -> MetaTensor:
    """Shape, dtype and metadata of `image` around a single voxel."""
    dtype = image.dtype if torch.is_tensor(image) else torch.float32
    meta = dict(image.meta) if isinstance(image, MetaTensor) else {}
    steps = list(image.applied_operations) if isinstance(image, MetaTensor) else []
    return stand_in(tuple(image.shape), dtype, meta, steps)

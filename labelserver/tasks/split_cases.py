"""A training's case in two parts: the image, prepared as inference prepares it, and what belongs to the label.

The fixed transforms of a training mostly do to the image what the infer task of the same network does, and to the label
something of their own. Where that is known, step by step and key by key, the image's part is the very entry that
inference and scoring leave on disk (`kept_heads`) and find there; a new label then costs no decoding. The split holds
up to the first step that is unknown or may look at both; what comes after it sees the case as a whole.

Steps are split in the same way whether or not anything is kept, so that no training depends on what lies on a disk.

MONAI's Spacingd gives a label the shape of its image where the two were nearly, but not quite, of one place. Only where
they are exactly of one place, as the server's own labels are, do the parts not know of each other; else the case is
made as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from monai import transforms as mt
from monai.data import MetaTensor

from labelserver.tasks.faster import Step, faster
from labelserver.tasks.kept_heads import Head, Shelf, code_of, cut_after, without_ids
from labelserver.tasks.known_transforms import names_in
from labelserver.tasks.prepared_images import content_of
from labelserver.tasks.train_context import Case
from labelserver.tasks.transform_code import code_hash
from labelserver.tasks.transforms import LoadVolumed, NormalizeLabeld
from labelserver.tasks.transforms.annotated import LoadAnnotatedd

IMAGE = "image"

#: Do to each of their keys the same and nothing else, apart from `_OF_EACH_KEY`, and do not move voxels.
_VALUES: frozenset[type] = frozenset(
    {
        mt.EnsureChannelFirstd,
        mt.EnsureTyped,
        mt.CastToTyped,
        mt.ToTensord,
        mt.ScaleIntensityd,
        mt.ScaleIntensityRanged,
        mt.ScaleIntensityRangePercentilesd,
        mt.NormalizeIntensityd,
        mt.ShiftIntensityd,
        mt.ThresholdIntensityd,
        mt.GaussianSmoothd,
    }
)
#: As these, and read a file or move voxels.
_PLACES: frozenset[type] = frozenset(
    {
        LoadVolumed,
        mt.LoadImaged,
        mt.Orientationd,
        mt.Spacingd,
        mt.Resized,
        mt.Flipd,
        mt.SpatialPadd,
        mt.DivisiblePadd,
        mt.CenterSpatialCropd,
        mt.ResizeWithPadOrCropd,
    }
)
#: Read and write no key but those that their settings name.
_NAMED_ONLY: frozenset[type] = frozenset(
    {mt.ClassesToIndicesd, mt.FgBgToIndicesd, mt.AsDiscreted, NormalizeLabeld, LoadAnnotatedd}
)
#: Attributes of these classes that hold one value for each key.
_OF_EACH_KEY = frozenset(
    {
        "mode",
        "padding_mode",
        "align_corners",
        "dtype",
        "scale_extent",
        "anti_aliasing",
        "anti_aliasing_sigma",
        "meta_keys",
        "meta_key_postfix",
    }
)
#: In what is kept of a case: what stands beside an image that has an entry of its own.
_BESIDE = "beside the image"


@dataclass(frozen=True, slots=True)
class Made:
    """A prepared case, and what to keep of it."""

    item: Any
    kept: Any


class CaseMaker(Protocol):
    """Prepares cases, from nothing or from what was kept of them."""

    def made(self, case: Case, shelf: Shelf | None) -> Made:
        """From nothing. Raises whatever the transforms raise."""

    def restored(self, case: Case, kept: Any, shelf: Shelf) -> Any:
        """From what `made` said to keep."""


class WholeCases:
    """All steps on the whole case."""

    def __init__(self, transform: Callable[[Any], Any], end: int | None) -> None:
        """`end`: index of the first step of a Compose that is not fixed; None: all are, of whatever `transform` is."""
        self._transform, self._end = transform, end

    def made(self, case: Case, shelf: Shelf | None) -> Made:
        item = self._all_of(dict(case), 0)
        return Made(item, item)

    def restored(self, case: Case, kept: Any, shelf: Shelf) -> Any:
        return kept

    def _all_of(self, data: Any, start: int) -> Any:
        if self._end is None:
            return self._transform(data)
        steps: Any = self._transform  # a Compose
        return steps(data, start=start, end=self._end)


class SplitCases(WholeCases):
    """The image's steps on the image, the others on the rest, what is left on both."""

    def __init__(self, split: Split, transform: mt.Compose, end: int) -> None:
        """
        Args:
            split: of the fixed steps. If none is left after it, the parts are kept apart.
            transform: of which they are the first.
            end: index of the first that is not fixed.
        """
        super().__init__(transform, end)
        self._split, self._apart = split, split.end == end
        code = code_hash(split.head)
        self._code = code_of(code, IMAGE, len(split.head), ()) if code is not None else None

    def made(self, case: Case, shelf: Shelf | None) -> Made:
        path = _file_of(case)
        if path is None:
            return super().made(case, shelf)
        image = self._image(path, shelf, keep=self._apart)
        beside: Any = {name: value for name, value in case.items() if name != IMAGE}
        for index, step in enumerate(self._split.beside):
            if index == self._split.coupled_at and not self._are_of_one_place(image, beside):
                return super().made(case, shelf)
            beside = step(beside)
        item = self._joined(case, image, beside)
        if not self._apart:
            item = self._all_of(item, self._split.end)
            return Made(item, item)
        return Made(item, {_BESIDE: beside} if self._code is not None else item)

    def restored(self, case: Case, kept: Any, shelf: Shelf) -> Any:
        path = _file_of(case)
        if not isinstance(kept, Mapping) or set(kept) != {_BESIDE} or path is None:
            return kept
        return self._joined(case, self._image(path, shelf, keep=True), kept[_BESIDE])

    def _are_of_one_place(self, image: Mapping[str, Any], beside: Mapping[str, Any]) -> bool:
        return all(_same_place(image[IMAGE], beside.get(name)) for name in self._split.coupled)

    def _image(self, path: str, shelf: Shelf | None, *, keep: bool) -> dict[str, Any]:
        """What the head makes of the image: found, or made and, if it is to be, kept."""
        found = shelf.find(IMAGE, path, self._code) if shelf is not None and self._code is not None else None
        if found is not None:
            return found.values
        content, started = content_of(path), time.perf_counter()
        data: Any = {IMAGE: path}
        for step in self._split.head:
            data = step(data)
        head = Head(without_ids(data), ())
        if keep and shelf is not None and self._code is not None:
            made_s = time.perf_counter() - started
            shelf.keep(IMAGE, path, self._code, content, head, made_s, whatever_it_takes=True)
        return head.values

    def _joined(self, case: Case, image: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
        data: Any = dict(image)
        for step in self._split.tail:
            data = step(data)
        order = dict.fromkeys([*case, *data, *beside])
        both = {**beside, **data}
        return {name: both[name] for name in order if name in both}


@dataclass(frozen=True, slots=True)
class Split:
    """Fixed steps, as far as they can be split."""

    head: tuple[Step, ...]  #: of the image, up to the last that costs much; as an infer task has them
    tail: tuple[Step, ...]  #: of the image, after that
    beside: tuple[Step, ...]  #: of all other keys
    end: int  #: index of the first step that sees the whole case
    coupled: tuple[str, ...]  #: keys whose shape MONAI takes from the image if both are nearly of one place
    coupled_at: int  #: index in `beside` of the first step that does; -1 for none


def split_of(steps: Sequence[Any]) -> Split | None:
    """How far `steps` can be split; None if not even the image's file can be read apart."""
    image: list[Step] = []
    beside: list[Step] = []
    coupled: dict[str, None] = {}
    moving: list[frozenset[str]] = []  #: keys of the steps that read files or move voxels
    end, coupled_at = 0, -1
    for step in steps:
        kind, names = type(step), tuple(map(str, getattr(step, "keys", ())))
        if getattr(step, "lazy", False):
            break
        if kind in _VALUES or kind in _PLACES:
            others = [name for name in names if name != IMAGE]
            if kind is mt.Spacingd and IMAGE in names and others:
                if names[0] != IMAGE or any(keys != frozenset(names) for keys in moving):
                    break
                coupled_at = len(beside) if coupled_at < 0 else coupled_at
                coupled |= dict.fromkeys(others)
            if kind in _PLACES:
                moving.append(frozenset(names))
            if IMAGE in names:
                image.append(faster(_only(step, [IMAGE])))
            if others:
                beside.append(_only(step, others) if IMAGE in names else step)
        elif _is_beside(step, kind):
            beside.append(step)
        elif kind is mt.SelectItemsd and IMAGE in names and len(names) > 1:
            beside.append(_only(step, [name for name in names if name != IMAGE]))
        else:
            break
        end += 1
    cut = cut_after(image)
    if not cut or type(image[0]) not in (LoadVolumed, mt.LoadImaged):
        return None
    return Split(tuple(image[:cut]), tuple(image[cut:]), tuple(beside), end, tuple(coupled), coupled_at)


def _is_beside(step: Any, kind: type) -> bool:
    """Whether the step leaves the image alone: it names its keys, and the image is none of them."""
    known = kind in _NAMED_ONLY or vars(kind).get("leaves_other_keys") is True
    return known and IMAGE not in names_in(step)


def _only(step: Any, keys: Sequence[str]) -> Any:
    """The step for some of its keys."""
    chosen = [step.keys.index(key) for key in keys]
    part = copy(step)
    for name, value in vars(step).items():
        if name in _OF_EACH_KEY and isinstance(value, tuple) and len(value) == len(step.keys):
            setattr(part, name, tuple(value[index] for index in chosen))
    part.keys = tuple(keys)
    return part


def _file_of(case: Case) -> str | None:
    value = case.get(IMAGE)
    path = fspath(value) if isinstance(value, str | PathLike) else None
    return path if isinstance(path, str) and Path(path).is_file() else None


def _same_place(image: Any, other: Any) -> bool:
    """Whether the two were read from one grid, to the last bit."""
    if not isinstance(image, MetaTensor) or not isinstance(other, MetaTensor):
        return False
    told = [(one.meta.get("original_affine"), one.meta.get("spatial_shape")) for one in (image, other)]
    if any(part is None for pair in told for part in pair):
        return False
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(*told, strict=True))

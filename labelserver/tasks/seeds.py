"""Segmentation from seeds alone, for any image and any object: no weights, no training, no GPU.

Prompts give an intensity model and seeds; tissue that looks like the positive ones is the candidate; a random walker
(scikit-image; Grady, "Random Walks for Image Segmentation", 2006) decides inside it. All prompts of a label are
answered together; of the mask before, a voxel is given up only where a new negative prompt is nearer than any positive
one, so that a correction here does not undo what is right there.

A click becomes a ball as large as the tissue round it is alike, because a single voxel is too weak a seed in 3-D.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import random_walker

from labelserver.domain.errors import InvalidParams
from labelserver.domain.prompts import PromptKind
from labelserver.tasks.auto_zoom import View
from labelserver.tasks.base import Labels
from labelserver.tasks.drawn_voxels import ROUGH
from labelserver.tasks.hints import Hint
from labelserver.tasks.patch_task import PatchTask
from labelserver.tasks.windows import Patch, PatchMask

_LARGE = ndimage.generate_binary_structure(3, 3)
_SMALL = ndimage.generate_binary_structure(3, 1)

#: seeds as the random walker takes them
_OUT, _FREE, _OBJECT, _REST = -1, 0, 1, 2

#: What follows was found on abdominal CT and phantoms with the simulated user; lengths are in patch voxels.
_FIRST_BLUR = 0.7
_TISSUE_BLUR = 1.2  #: within alike tissue only, so edges stay
_RANGE = 4.0  #: spreads by which tissue may differ from the prompts' and still be looked at
_ALIKE = 0.08  #: likelihood, 1 at the prompts' own intensities, from which on a voxel is a candidate
_LARGEST_BALL = 20
_OBJECT_BALL, _REST_BALL = 0.9, 0.7  #: radius of a seed as share of the alike ball round its click
_SMALL_HOLE = 60  #: voxels
_ENOUGH_SAMPLES = 40  #: marked voxels from which on those beside them are not needed to learn the object's intensities
_WITHOUT_NEGATIVES = 0.2  #: added to the walker's probability while no negative prompt says where to stop
_BETA = 500.0  #: how strongly edges hold the walker back
_CLIPPED = 5.0  #: spreads beyond which an intensity counts as simply different


class Seeds(PatchTask):
    """Clicks, scribbles, boxes and lassos to a mask, without any training: for any image and any object"""

    def __init__(
        self, labels: Labels, *, roi: int = 64, description: str = "", config: Mapping[str, Any] | None = None
    ) -> None:
        """Describe the task.

        Args:
            labels: names in order, or name -> value.
            roi: voxels a side of the window that is solved at once: the price of a click.
            description: for people.
            config: options with their defaults; ``edge_weight`` is how strongly edges hold a mask back.
        """
        super().__init__(labels, description=description, config={"edge_weight": _BETA, **(config or {})})
        self.roi = roi

    def is_valid(self) -> bool:
        return True

    def engine(self, prepared: Any, params: Mapping[str, Any]) -> SeedsEngine:
        try:
            beta = float(params["edge_weight"])
        except (TypeError, ValueError):
            beta = -1.0
        if not 0 < beta < 1e6:
            raise InvalidParams(f"edge_weight is a number above 0, for example {_BETA:g}.")
        return SeedsEngine(roi=self.roi, beta=beta)


@dataclass(frozen=True, slots=True)
class SeedsEngine:
    """Answers a view. `roi` bounds the cost: 64 takes a fraction of a second on one core."""

    roi: int = 64
    max_zoom: float = 8.0
    max_tiles: int = 4
    looks_at_all: bool = True
    corrects_locally: bool = False
    beta: float = _BETA

    def answer(self, view: View) -> Patch:
        """Probability of the object at each patch voxel."""
        hints, known = _with_known_mask(view)
        marks = _Marks.of(hints, view.image.shape)
        sample = marks.sample | (known & view.on_image if not marks.sample.any() else False)
        if not sample.any():
            return np.zeros(view.image.shape, dtype=np.float32)
        tissue = _Tissue.of(view.image, sample & view.on_image, view.on_image)
        if view.refining:
            return _refined(view, tissue, marks, self.beta)
        candidate = _candidate(tissue, marks, view.on_image)
        seeds = _seeds(tissue, candidate, marks)
        if known.any():
            _add_known(seeds, candidate, known, marks)
        lift = 0.0 if marks.rest.any() or marks.rest_clicks else _WITHOUT_NEGATIVES
        return _kept(_walked(tissue, candidate, seeds, self.beta, lift), view)


@dataclass(frozen=True, slots=True, eq=False)
class _Marks:
    """Prompts by what they do."""

    object: PatchMask  #: certainly the object
    rest: PatchMask  #: certainly not
    outside: PatchMask  #: not the object, and no sample of other tissue: beyond a box
    object_clicks: list[tuple[int, ...]]
    rest_clicks: list[tuple[int, ...]]
    sample: PatchMask  #: where the object's intensities are learned

    @classmethod
    def of(cls, hints: list[Hint], shape: tuple[int, ...]) -> _Marks:
        marked, rest, outside, rough = (np.zeros(shape, dtype=bool) for _ in range(4))
        clicks: dict[bool, list[tuple[int, ...]]] = {True: [], False: []}
        # A later mark wins over an earlier one where they meet, and only there: a person corrects with the newest. But
        # a box or lasso, which is drawn roughly, never overrules a click or scribble.
        for hint in hints:
            if not hint.positive:
                marked[hint.region] = False
                rough[hint.region] = hint.kind in ROUGH
            elif hint.kind in ROUGH:
                rest[hint.region & rough] = False
            else:
                rest[hint.region] = False
                clicks[False] = [at for at in clicks[False] if not hint.region[at]]
            if hint.kind is PromptKind.POINT:
                clicks[hint.positive].append(_one_voxel(hint.region))
            elif hint.kind is PromptKind.BOX and hint.positive:
                outside |= _beyond_box(hint)
                clicks[True].append(_one_voxel(hint.region))
            elif hint.kind is PromptKind.LASSO and hint.positive:
                inner = _eroded_in_plane(hint.region)
                marked |= inner if inner.any() else hint.region
            else:
                (marked if hint.positive else rest)[hint.region] = True
        sample = marked.copy()
        for click in clicks[True]:
            sample[click] = True
        few = (
            sample.sum() < _ENOUGH_SAMPLES
        )  # many would reach beyond the object's edge, where they were drawn along it
        near = ndimage.binary_dilation(sample, structure=_SMALL, iterations=2) if few else sample
        for click in clicks[False]:
            near[click] = False
        return cls(marked, rest, outside & ~marked, clicks[True], clicks[False], near & ~rest)


@dataclass(frozen=True, slots=True, eq=False)
class _Tissue:
    """Smoothed intensities and how alike they are to the object's."""

    smooth: Patch
    alike: Patch  #: 0 to 1
    middle: float
    spread: float

    @classmethod
    def of(cls, image: Patch, sample: PatchMask, on_image: PatchMask) -> _Tissue:
        blurred = ndimage.gaussian_filter(image, _FIRST_BLUR)
        noise = 1.4826 * float(np.median(np.abs(image - blurred)[sample])) / 0.9
        values = blurred[sample]
        tiny = 1e-6 * max(1.0, float(np.abs(values).max()))
        spread = max(_spread(values), 0.4 * noise, tiny)
        low, high = np.percentile(values, [5, 95])
        broad = (blurred > low - _RANGE * spread) & (blurred < high + _RANGE * spread) & on_image
        # Normalised convolution: a mean over alike tissue only, so fat beside an organ does not darken its edge.
        weight = ndimage.gaussian_filter(broad.astype(np.float32), _TISSUE_BLUR)
        mean = ndimage.gaussian_filter(np.where(broad, image, np.float32(0)), _TISSUE_BLUR) / np.maximum(weight, 1e-3)
        smooth = np.where(broad, mean, blurred).astype(np.float32)
        own = np.sort(smooth[sample])
        own = own[:: max(1, len(own) // 64)]
        width = max(_spread(own), 0.5 * noise, tiny)
        bins = np.linspace(own[0] - 6 * width, own[-1] + 6 * width, 256)
        kernel = np.exp(-0.5 * ((bins[:, None] - own[None]) / (1.2 * width)) ** 2).max(axis=1)
        alike = np.interp(smooth, bins, kernel, left=0.0, right=0.0) * broad
        return cls(smooth, alike.astype(np.float32), float(np.median(own)), width)


def _with_known_mask(view: View) -> tuple[list[Hint], PatchMask]:
    """The drawn hints, and the mask that they correct: an initial one, or what is there if no hint is positive."""
    drawn = [hint for hint in view.hints if hint.kind is not PromptKind.MASK]
    known = np.zeros(view.image.shape, dtype=bool)
    for hint in view.hints:
        if hint.kind is PromptKind.MASK:
            known = hint.region if hint.positive else known & ~hint.region
    if not known.any() and not any(hint.positive for hint in drawn):
        known = view.previous > 0.5
    return drawn, known


def _candidate(tissue: _Tissue, marks: _Marks, on_image: PatchMask) -> PatchMask:
    """Where the object may be: alike tissue without specks and holes, inside boxes, in touch with what is marked."""
    flat = 1 in tissue.alike.shape
    found = tissue.alike > _ALIKE
    grown = _thick(marks.object, marks.object_clicks)
    found = (found if flat else ndimage.binary_opening(found)) | grown
    found = ndimage.gaussian_filter(found.astype(np.float32), 0.8) > 0.5
    holes, _ = ndimage.label(~found)
    sizes = np.bincount(holes.ravel())
    sizes[0] = 0
    found |= (sizes[holes] < _SMALL_HOLE) & (holes > 0)
    mask: PatchMask = (found | grown) & on_image & ~marks.outside & ~marks.rest
    return mask


def _seeds(tissue: _Tissue, candidate: PatchMask, marks: _Marks) -> NDArray[np.int8]:
    """`_OBJECT`, `_REST` or `_FREE` at each voxel."""
    seeds = np.zeros(candidate.shape, dtype=np.int8)
    seeds[marks.object] = _OBJECT
    seeds[marks.rest] = _REST
    rest_points = np.array([*marks.rest_clicks, *_few(marks.rest)]).reshape(-1, 3)
    object_points = np.array([*marks.object_clicks, *_few(marks.object)]).reshape(-1, 3)
    for click in marks.rest_clicks:
        alike = np.abs(tissue.smooth - tissue.smooth[click]) < 2.5 * tissue.spread
        _paint_ball(seeds, click, _REST_BALL * _alike_radius(alike, click, strict=True), object_points, _REST)
    for click in marks.object_clicks:
        _paint_ball(seeds, click, _OBJECT_BALL * _alike_radius(candidate, click), rest_points, _OBJECT)
    for click in marks.rest_clicks:
        seeds[click] = _REST
    return seeds


def _alike_radius(alike: PatchMask, click: tuple[int, ...], *, strict: bool = False) -> int:
    """Radius of the largest ball round `click` that is nearly all `alike`: 9 in 10 of it, and 4 in 5 of its shell."""
    reach = 12 if strict else _LARGEST_BALL
    part = tuple(slice(max(0, at - reach), at + reach + 1) for at in click)
    local = alike[part]
    inner = tuple(at - piece.start for at, piece in zip(click, part, strict=True))
    if strict:
        padded = np.pad(local, [(1, 1) if size > 1 else (0, 0) for size in local.shape])
        place = tuple(at + (1 if size > 1 else 0) for at, size in zip(inner, local.shape, strict=True))
        return int(ndimage.distance_transform_edt(padded)[place])
    away = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(np.ogrid[_whole(local.shape)], inner, strict=True)))
    shell = np.minimum(away.ravel().astype(int), reach)
    count = np.maximum(np.bincount(shell, minlength=reach + 1), 1)
    good = np.bincount(shell, weights=local.ravel().astype(float), minlength=reach + 1)
    bad = np.flatnonzero((good / count < 0.8) | (np.cumsum(good) / np.cumsum(count) < 0.9))
    return int(bad[0]) if bad.size else reach


def _paint_ball(
    seeds: NDArray[np.int8], click: tuple[int, ...], radius: float, others: NDArray[np.int_], value: int
) -> None:
    """A ball of at least one voxel, at most half way to the nearest of the `others`."""
    if len(others):
        radius = min(radius, 0.5 * float(np.sqrt(((others - np.asarray(click)) ** 2).sum(axis=1).min())))
    reach = max(1, int(np.ceil(radius)))
    part = tuple(slice(max(0, at - reach), at + reach + 1) for at in click)
    local = seeds[part]
    inner = tuple(at - piece.start for at, piece in zip(click, part, strict=True))
    away = sum((axis - at) ** 2 for axis, at in zip(np.ogrid[_whole(local.shape)], inner, strict=True))
    local[np.asarray(away) <= max(radius, 1.0) ** 2] = value


def _add_known(seeds: NDArray[np.int8], candidate: PatchMask, known: PatchMask, marks: _Marks) -> None:
    """The inside of a known mask is the object and what is far from it is not, except near a correction."""
    reach = max(3, int(0.15 * max(known.shape)))
    rest = _thick(marks.rest, marks.rest_clicks)
    objects = _thick(marks.object, marks.object_clicks)
    near_rest = _near(rest, reach)
    core = ndimage.binary_erosion(known, structure=_SMALL, iterations=1) if 1 not in known.shape else known
    core = core if core.any() else known
    candidate |= ndimage.binary_dilation(known) & ~marks.rest
    free = seeds == _FREE
    seeds[core & free & ~near_rest] = _OBJECT
    beyond = ~ndimage.binary_dilation(known, structure=_LARGE, iterations=2) & ~_near(objects, reach)
    seeds[beyond & free] = _REST


def _refined(view: View, tissue: _Tissue, marks: _Marks, beta: float) -> Patch:
    """Decide only the edge of a coarse answer."""
    before = view.previous > 0.5
    width = int(np.ceil(view.refining)) + 1
    structure = _LARGE if 1 not in before.shape else _SMALL
    core = ndimage.binary_erosion(before, structure=structure, iterations=width, border_value=1)
    reach = ndimage.binary_dilation(before, structure=structure, iterations=width)
    seeds = np.zeros(before.shape, dtype=np.int8)
    seeds[core | marks.object] = _OBJECT
    seeds[~reach | marks.rest | marks.outside] = _REST
    for click in marks.rest_clicks:
        seeds[click] = _REST
    # In doubt tissue that is not alike stays what the coarse answer made of it, unless it is alike and next to it.
    candidate = reach & ((tissue.alike > 0.5 * _ALIKE) | before | core)
    found = _walked(tissue, candidate, seeds, beta, 0.0)
    result: Patch = 0.5 * found + 0.5 * view.previous
    return result


def _kept(found: Patch, view: View) -> Patch:
    """`found`, with what was there before wherever no new negative prompt is the nearest."""
    lost = (view.previous > 0.5) & (found <= 0.5)
    if not lost.any() or any(hint.kind is PromptKind.MASK and hint.new for hint in view.hints):
        return found
    marks = {True: np.zeros(found.shape, dtype=bool), False: np.zeros(found.shape, dtype=bool)}
    for hint in view.hints:
        if hint.kind is PromptKind.BOX and hint.positive:
            continue
        if hint.positive or hint.new:
            marks[hint.positive] |= hint.region
    if not marks[False].any():
        kept = lost
    elif not marks[True].any():
        return found
    else:
        away = {sign: ndimage.distance_transform_edt(~region) for sign, region in marks.items()}
        kept = lost & (away[False] > away[True])
    return np.where(kept, np.maximum(view.previous, found), found).astype(np.float32)


def _walked(tissue: _Tissue, candidate: PatchMask, seeds: NDArray[np.int8], beta: float, lift: float) -> Patch:
    """Probability that a walker from each candidate voxel reaches the object's seeds before the rest's."""
    inside = (candidate & (seeds != _REST)) | (seeds == _OBJECT)
    parts, _ = ndimage.label(inside)
    touched = np.unique(parts[seeds == _OBJECT])
    inside = np.isin(parts, touched[touched > 0])
    labels = np.full(candidate.shape, _OUT, dtype=np.int32)
    labels[ndimage.binary_dilation(inside) & ~inside] = _REST
    labels[inside] = _FREE
    labels[inside & (seeds == _OBJECT)] = _OBJECT
    certain: Patch = (labels == _OBJECT).astype(np.float32)
    if not (labels == _FREE).any() or not (labels == _OBJECT).any():
        return certain
    if not (labels == _REST).any():
        return np.where(labels >= 0, np.float32(1), certain)
    clipped = np.clip((tissue.smooth - tissue.middle) / tissue.spread, -_CLIPPED, _CLIPPED)
    found = _solve(clipped, labels, beta)
    return np.where(labels == _FREE, np.clip(found + lift, 0, 1), certain).astype(np.float32)


def _solve(values: NDArray[np.floating[Any]], labels: NDArray[np.int32], beta: float) -> NDArray[np.float64]:
    """The random walker's probability of label 1, on the box that is not out."""
    used = labels != _OUT
    part = ndimage.find_objects(used.astype(np.uint8))[0]
    with warnings.catch_warnings():
        # It says so where a piece of tissue touches no seed at all; such voxels get the other label's probability.
        warnings.simplefilter("ignore", UserWarning)
        shape = values[part].shape
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
        data, marks = np.squeeze(values[part], axes).copy(), np.squeeze(labels[part], axes)
        if not np.ptp(data):
            data.flat[0] += 1e-3  # the solver divides by the spread of an image that has none
        found = random_walker(data, marks, beta=beta, mode="cg_j", tol=1e-2, return_full_prob=True)
    result = np.zeros(values.shape, dtype=np.float64)
    result[part] = np.nan_to_num(np.asarray(found[0], dtype=np.float64)).reshape(shape)
    return result


def _spread(values: NDArray[np.floating[Any]]) -> float:
    """Standard deviation of the bulk (1.4826 times the median distance from the median)."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in shape)


def _one_voxel(region: PatchMask) -> tuple[int, ...]:
    """The voxel of a click; the middle of a box."""
    voxels = np.argwhere(region)
    middle = voxels[np.abs(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
    return tuple(int(at) for at in middle)


def _few(region: PatchMask) -> list[tuple[int, ...]]:
    """At most 200 voxels of `region`, evenly picked."""
    voxels = np.argwhere(region)
    return [tuple(int(at) for at in voxel) for voxel in voxels[:: max(1, len(voxels) // 200)]]


def _thick(region: PatchMask, clicks: list[tuple[int, ...]]) -> PatchMask:
    """`region` and `clicks` with their neighbours."""
    found = region.copy()
    for click in clicks:
        found[click] = True
    grown: PatchMask = ndimage.binary_dilation(found, structure=_SMALL) if found.any() else found
    return grown


def _near(region: PatchMask, reach: int) -> PatchMask:
    if not region.any():
        return region
    near: PatchMask = ndimage.distance_transform_edt(~region) <= reach
    return near


def _beyond_box(hint: Hint) -> PatchMask:
    """Outside a box; for a 2-D box outside within its slice."""
    if hint.flat_axis is None:
        return ~hint.region
    others = tuple(axis for axis in range(3) if axis != hint.flat_axis)
    in_slice = hint.region.any(axis=others, keepdims=True)
    beyond: PatchMask = in_slice & ~hint.region
    return beyond


def _eroded_in_plane(region: PatchMask) -> PatchMask:
    """Without its edge, along the axes in which it has an extent."""
    filled = np.array([np.ptp(index) for index in np.nonzero(region)])
    structure = _SMALL.copy()
    for axis in np.flatnonzero(filled == 0):
        keep = [slice(None)] * 3
        keep[axis] = slice(1, 2)
        only = np.zeros_like(structure)
        only[tuple(keep)] = structure[tuple(keep)]
        structure = only
    eroded: PatchMask = ndimage.binary_erosion(region, structure=structure)
    return eroded

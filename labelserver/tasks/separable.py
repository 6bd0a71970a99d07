"""Class scores stretched axis by axis and turned into labels a plane at a time: no scores at the image's size.

Linear interpolation between two grids that share their axes is separable: a target plane is the mean of two source
planes, each stretched once. Two classes need one such volume, the difference of their scores; more are compared one by
one. Where no score around a voxel speaks for a class above 0, no mean of them does either, so only the box round the
others is looked at. The result lies in memory with the first axis fastest, as NIfTI and NRRD store it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from labelserver.tasks.transform_runs import stop_if_asked

#: planes that are looked at together
_PLANES_AT_ONCE = 16
#: scores of a slab, and its rows: enough for whole cache lines of bytes, few enough to stay near the processor
_SLAB_VALUES = 2**19
_FEWEST_ROWS, _MOST_ROWS = 8, 64


@dataclass(frozen=True, slots=True)
class Axis:
    """How positions along one target axis read one source axis: two neighbours and the weight of the second.

    `first` to `last` (exclusive) are the positions that the source reaches; beyond them there is no class but 0.
    """

    source: int  #: 0, 1 or 2
    lower: torch.Tensor  #: (n,) int64
    upper: torch.Tensor  #: (n,) int64
    weight: torch.Tensor  #: (n,) float32
    first: int
    last: int

    @property
    def size(self) -> int:
        return len(self.lower)

    def part(self, start: int, stop: int, origin: int) -> Axis:
        """Positions start..stop, reading a source that begins at `origin`."""
        lower, upper = self.lower[start:stop] - origin, self.upper[start:stop] - origin
        return Axis(self.source, lower, upper, self.weight[start:stop], 0, stop - start)

    def changes_nothing(self, source_size: int) -> bool:
        """Whether each position reads the voxel of its own number, and all `source_size` voxels are read."""
        if self.size != source_size:
            return False
        same = torch.equal(self.lower, torch.arange(self.size, device=self.lower.device))
        return same and not bool(self.weight.any())

    def only_picks(self) -> bool:
        """Whether each position reads one voxel, nothing in between, and all positions are reached."""
        return self.first == 0 and self.last == self.size and not bool(self.weight.any())

    def picked(self, values: NDArray[np.generic], place: int) -> NDArray[np.generic]:
        """What the positions read along axis `place` of `values`; only where `only_picks`."""
        index = self.lower.cpu().numpy()
        if len(index) == values.shape[place]:
            straight = np.arange(len(index))
            if np.array_equal(index, straight):
                return values
            if np.array_equal(index, straight[::-1]):
                return np.flip(values, place)
        return np.take(values, index, axis=place)

    def flipped(self) -> Axis:
        """The same axis counted from its other end."""
        first, last = self.size - self.last, self.size - self.first
        return Axis(self.source, self.lower.flip(0), self.upper.flip(0), self.weight.flip(0), first, last)

    def to(self, device: torch.device) -> Axis:
        tensors = (self.lower.to(device), self.upper.to(device), self.weight.to(device))
        return Axis(self.source, *tensors, self.first, self.last)


@dataclass(frozen=True, slots=True)
class Rule:
    """How scores become labels: the class of the highest score (the first of equals), or 1 from a logit on."""

    from_logit: float | None = None  #: None: the highest score; else the single channel's logit that counts as 1
    inclusive: bool = True  #: whether a score equal to `from_logit` counts


def labels_on_axes(scores: torch.Tensor, axes: Sequence[Axis], rule: Rule) -> torch.Tensor:
    """Labels on the target grid.

    Args:
        scores: (C, a, b, c) float, on any device; with `rule.from_logit` C is 1, else at least 2.
        axes: one for each of the three target axes, each reading another source axis.
        rule: see `Rule`.

    Returns:
        (I, J, K) uint8, or int32 beyond 256 classes, on the CPU, first axis fastest in memory.
    """
    with one_thread(scores.device):
        if all(axis.only_picks() for axis in axes):
            return _picked(scores, axes, rule)
        shape = tuple(axis.size for axis in reversed(axes))
        result = torch.from_numpy(np.zeros(shape, np.uint8 if scores.shape[0] <= 256 else np.int32)).permute(2, 1, 0)
        box = _box_of_interest(scores, rule)
        if box is not None:
            order = [next(place for place, axis in enumerate(axes) if axis.source == source) for source in range(3)]
            by_source = [axes[place] for place in order]
            spans = [_target_span(axis, *span) for axis, span in zip(by_source, box, strict=True)]
            parts = [
                axis.part(start, stop, span[0]).to(scores.device)
                for axis, (start, stop), span in zip(by_source, spans, box, strict=True)
            ]
            if all(part.size for part in parts):
                view = result.permute(order)[tuple(slice(*span) for span in spans)]
                read = scores[(slice(None), *(slice(lo, hi) for lo, hi in box))]
                if bool(parts[2].weight.any()):
                    back = [axis.source for axis in reversed(axes)]
                    turned = read.permute(0, *(source + 1 for source in back))
                    _fill_planes(view.permute(back), turned, [parts[source] for source in back], rule)
                else:
                    _fill_slabs(view, read, parts, rule)
    return result


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Run the small steps of this block on the calling thread: handing each to others costs more than it takes."""
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _deciding(scores: torch.Tensor, rule: Rule) -> torch.Tensor | None:
    """The one volume whose sign decides, if there is one: a logit beyond its threshold, or two classes' difference."""
    if rule.from_logit is not None:
        return scores[0].float() - rule.from_logit
    return torch.sub(scores[1], scores[0]).float() if len(scores) == 2 else None


def _wins(values: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Where the deciding volume says 1."""
    return values >= 0 if rule.from_logit is not None and rule.inclusive else values > 0


def _above_zero(scores: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Where the scores speak for a class above 0."""
    deciding = _deciding(scores, rule)
    if deciding is not None:
        return _wins(deciding, rule)
    best = scores[1]
    for channel in scores[2:]:
        best = torch.maximum(best, channel)
    return best > scores[0]


def _picked(scores: torch.Tensor, axes: Sequence[Axis], rule: Rule) -> torch.Tensor:
    """Labels where nothing is interpolated: those of the source's voxels, turned while they are few, and picked.

    What shrinks is picked first; of what grows the fastest axis first, so that the others copy whole rows.
    """
    turned = _classes(scores, rule).cpu().permute([axis.source for axis in reversed(axes)])
    labels = turned.contiguous().numpy()
    places = [(place, axis, labels.shape[place]) for place, axis in enumerate(reversed(axes))]
    for place, axis, _ in sorted(places, key=lambda found: (found[1].size >= found[2], -found[0])):
        labels = axis.picked(labels, place)
    return torch.from_numpy(np.ascontiguousarray(labels)).permute(2, 1, 0)


def _classes(scores: torch.Tensor, rule: Rule) -> torch.Tensor:
    """(a, b, c) the label of each voxel."""
    if rule.from_logit is not None:
        return _wins(scores[0].float() - rule.from_logit, rule).view(torch.uint8)
    if len(scores) == 2:
        return torch.gt(scores[1], scores[0]).view(torch.uint8)
    return _best(list(scores))


def _box_of_interest(scores: torch.Tensor, rule: Rule) -> list[tuple[int, int]] | None:
    """Spans of source voxels outside of which every voxel and all its neighbours are of class 0."""
    seen = [torch.zeros(size, dtype=torch.bool, device=scores.device) for size in scores.shape[1:]]
    for start in range(0, scores.shape[1], _PLANES_AT_ONCE):
        part = slice(start, start + _PLANES_AT_ONCE)
        above = _above_zero(scores[:, part], rule).view(torch.uint8)  # bytes, because their maximum is vectorised
        seen[0][part] = above.amax((1, 2)).bool()
        plane = above.amax(0).bool()
        seen[1] |= plane.any(1)
        seen[2] |= plane.any(0)
    spans = []
    for hits in seen:
        places = hits.nonzero()
        if not len(places):
            return None
        spans.append((max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, len(hits))))
    return spans


def _target_span(axis: Axis, lo: int, hi: int) -> tuple[int, int]:
    """Target positions that read only source voxels lo..hi; all others read at least one outside, and are 0.

    A position at the box's edge reads one voxel inside and one outside. The box has a margin of one voxel, so the one
    inside is margin, and both speak for class 0.
    """
    within = (torch.minimum(axis.lower, axis.upper) >= lo) & (torch.maximum(axis.lower, axis.upper) < hi)
    places = within[axis.first : axis.last].nonzero()
    return (axis.first + int(places[0]), axis.first + int(places[-1]) + 1) if len(places) else (0, 0)


def _fill_slabs(view: torch.Tensor, scores: torch.Tensor, parts: Sequence[Axis], rule: Rule) -> None:
    """Write the labels into `view` (a, b, c on the target grid), some rows of a at a time; c is not stretched.

    `scores` (C, a, b, c) are cut to what `parts` read. The scores stay as they lie, so that whole rows of c are
    stretched; only the labels are turned, as bytes.
    """
    first, second, third = parts
    rows = max(_FEWEST_ROWS, min(_MOST_ROWS, _SLAB_VALUES // (second.size * scores.shape[3])))
    turned = view.permute(2, 0, 1)
    for start in range(0, first.size, rows):
        stop_if_asked()
        stop = min(start + rows, first.size)
        labels = _slab(scores, first.part(start, stop, 0), second, rule)
        labels = labels.reshape(-1, labels.shape[2]).t().index_select(0, third.lower)
        turned[:, start:stop] = labels.view(third.size, stop - start, second.size)


def _slab(scores: torch.Tensor, first: Axis, second: Axis, rule: Rule) -> torch.Tensor:
    """(a, b, c) labels at some positions of the first axis, with all source voxels of c."""
    low = int(torch.minimum(first.lower, first.upper).min())
    high = int(torch.maximum(first.lower, first.upper).max()) + 1
    read = scores[:, low:high]
    first = first.part(0, first.size, low)
    deciding = _deciding(read, rule)
    if deciding is not None:
        return _wins(lerp_along(lerp_along(deciding, first, 0), second, 1), rule).view(torch.uint8)
    return _best([lerp_along(lerp_along(channel.float(), first, 0), second, 1) for channel in read])


def _best(channels: Sequence[torch.Tensor]) -> torch.Tensor:
    """The number of the channel with the highest value, the first of equals."""
    best = channels[0].clone()
    classes = torch.zeros(best.shape, dtype=torch.uint8 if len(channels) <= 256 else torch.int32, device=best.device)
    for number, channel in enumerate(channels[1:], start=1):
        claim(classes, channel > best, number)
        torch.maximum(best, channel, out=best)
    return classes


def claim(classes: torch.Tensor, wins: torch.Tensor, number: int) -> None:
    """Write `number`, which is above all that are there, where `wins`; a maximum of bytes takes a tenth of a fill."""
    if classes.dtype is torch.uint8:
        torch.maximum(classes, wins.view(torch.uint8).mul_(number), out=classes)
    else:
        classes.masked_fill_(wins, number)


def _fill_planes(view: torch.Tensor, turned: torch.Tensor, parts: Sequence[Axis], rule: Rule) -> None:
    """Write the labels into `view` (k, j, i), plane by plane; `turned` (C, k, j, i) is cut to what they read.

    A source plane is stretched once however many target planes lie between two of them.
    """
    planes, rows, columns = parts
    single = rule.from_logit is not None or len(turned) == 2
    sources = [turned] if single else [turned[index : index + 1] for index in range(len(turned))]
    stretched = [_Stretched(source, rows, columns, rule) for source in sources]
    lower, upper, weight = planes.lower.tolist(), planes.upper.tolist(), planes.weight.tolist()
    for index in range(planes.size):
        if index % _PLANES_AT_ONCE == 0:
            stop_if_asked()
        taps = (lower[index], upper[index], weight[index])
        found = stretched[0].plane(*taps)
        if single:
            view[index] = _wins(found, rule)
            continue
        best = found.clone()
        classes = torch.zeros(best.shape, dtype=view.dtype, device=best.device)
        for number, channel in enumerate(stretched[1:], start=1):
            found = channel.plane(*taps)
            claim(classes, found > best, number)
            torch.maximum(best, found, out=best)
        view[index] = classes


class _Stretched:
    """One volume, its planes stretched along j and i when they are asked for; the last two are kept.

    Planes are cut out several at a time, because the scores may have them along their fastest axis.
    """

    def __init__(self, turned: torch.Tensor, rows: Axis, columns: Axis, rule: Rule) -> None:
        self._turned, self._rows, self._columns, self._rule = turned, rows, columns, rule
        self._same_rows = rows.changes_nothing(turned.shape[2])
        self._same_columns = columns.changes_nothing(turned.shape[3])
        self._kept: dict[int, torch.Tensor] = {}
        self._mean = torch.empty((rows.size, columns.size), device=turned.device)
        self._block: tuple[int, torch.Tensor] = (-1, torch.empty(0))

    def plane(self, lower: int, upper: int, weight: float) -> torch.Tensor:
        """(j, i) between two source planes; valid until the next call."""
        for index in [kept for kept in self._kept if kept not in (lower, upper)]:
            del self._kept[index]
        first = self._source(lower)
        if weight == 0.0 or lower == upper:
            return first
        return torch.lerp(first, self._source(upper), weight, out=self._mean)

    def _source(self, index: int) -> torch.Tensor:
        if index not in self._kept:
            number, offset = divmod(index, _PLANES_AT_ONCE)
            if self._block[0] != number:
                self._block = (number, self._cut_out(number * _PLANES_AT_ONCE))
            plane = self._block[1][offset]
            plane = plane if self._same_columns else lerp_along(plane, self._columns, 1)
            self._kept[index] = plane if self._same_rows else lerp_along(plane, self._rows, 0)
        return self._kept[index]

    def _cut_out(self, start: int) -> torch.Tensor:
        part = self._turned[:, start : start + _PLANES_AT_ONCE]
        deciding = _deciding(part, self._rule)
        return (part[0].float() if deciding is None else deciding).contiguous()


def lerp_along(values: torch.Tensor, axis: Axis, dimension: int) -> torch.Tensor:
    """Linear interpolation along one dimension."""
    if axis.changes_nothing(values.shape[dimension]):
        return values
    lower = values.index_select(dimension, axis.lower)
    if not bool(axis.weight.any()):
        return lower
    upper = values.index_select(dimension, axis.upper)
    weight = axis.weight.view([-1 if d == dimension else 1 for d in range(values.ndim)])
    return lower.lerp_(upper, weight.expand_as(lower))

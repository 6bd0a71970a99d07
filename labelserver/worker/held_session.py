"""One interactive session in a worker's memory: the mask, the prompts in force, and how to go back.

Each step keeps, packed, what it wrote and what was there before (its pre-image), so that undo and redo cost as much as
the box they touch. A change is made inside `changing`: whatever is written there is taken back if it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from labelserver.domain.geometry import Grid
from labelserver.domain.interaction import NOTHING_CHANGED, LabelMap, MaskChange, Step
from labelserver.domain.prompts import Prompt
from labelserver.wire.mask_box import Box, changed_box
from labelserver.wire.packed_session import Shape, pack_change, unpack_change

Ijk = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Done:
    """A step that was made: `packed` is the box's new content, `before` what was there."""

    prompts: tuple[Prompt, ...]
    predicted: bool
    cleared: bool
    packed: bytes
    before: bytes


@dataclass(slots=True)
class Draft:
    """A step under way: the mask is written already, pre-images are kept."""

    mask: LabelMap
    shown: Box | None = None  #: where coarse answers were shown: the final one covers it
    _before: list[tuple[Ijk, LabelMap]] = field(default_factory=list)

    def write(self, lo: Ijk, values: LabelMap) -> None:
        """Make `values` the content of the box at `lo`; nothing is kept if they are that already."""
        hi = tuple(a + n for a, n in zip(lo, values.shape, strict=True))
        there = self.mask[_cut(lo, hi)]
        box = changed_box(there, values) if values.size else None
        if box is None:
            return
        inner = there[box.slices]
        self._before.append(((lo[0] + box.lo[0], lo[1] + box.lo[1], lo[2] + box.lo[2]), inner.copy()))
        inner[...] = values[box.slices]

    def show(self, lo: Ijk, values: LabelMap) -> MaskChange:
        """What a coarse answer would change; the mask stays."""
        hi = tuple(a + n for a, n in zip(lo, values.shape, strict=True))
        box = changed_box(self.mask[_cut(lo, hi)], values) if values.size else None
        if box is None:
            return NOTHING_CHANGED
        start = (lo[0] + box.lo[0], lo[1] + box.lo[1], lo[2] + box.lo[2])
        end = (lo[0] + box.hi[0], lo[1] + box.hi[1], lo[2] + box.hi[2])
        self.shown = _around([*([self.shown] if self.shown else []), Box(start, end)])
        return MaskChange(start, values[box.slices].copy())

    def take_back(self) -> None:
        for lo, values in reversed(self._before):
            self.mask[_box_of(lo, values).slices] = values
        self._before.clear()

    def result(self) -> tuple[MaskChange, MaskChange]:
        """The new content of the smallest box round everything written or shown, and what was there."""
        boxes = [_box_of(lo, values) for lo, values in self._before] + ([self.shown] if self.shown else [])
        if not boxes:
            return NOTHING_CHANGED, NOTHING_CHANGED
        box = _around(boxes)
        after = self.mask[box.slices].copy()
        before = after.copy()
        for lo, values in reversed(self._before):
            start = tuple(a - b for a, b in zip(lo, box.lo, strict=True))
            before[_cut(start, tuple(a + n for a, n in zip(start, values.shape, strict=True)))] = values
        return MaskChange(box.lo, after), MaskChange(box.lo, before)


class HeldSession:
    """See the module. One call at a time; the server sees to that."""

    def __init__(self, task: str, path: str, grid: Grid, at: int) -> None:
        self.task = task
        self.path = path
        self.grid = grid
        self.at = at  #: changes so far, as the server counts them
        self.mask: LabelMap = np.zeros(grid.shape, dtype=np.uint8)
        self._done: list[_Done] = []
        self._undone: list[_Done] = []

    @property
    def shape(self) -> Shape:
        return self.grid.shape

    @property
    def nbytes(self) -> int:
        """For the memory budget."""
        return int(self.mask.nbytes) + sum(len(s.packed) + len(s.before) for s in (*self._done, *self._undone))

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """In force, oldest first: those after the last clearing."""
        found: list[Prompt] = []
        for step in self._done:
            found = [] if step.cleared else [*found, *step.prompts]
        return tuple(found)

    @property
    def waiting(self) -> int:
        """How many of `prompts`, at the end, no prediction has seen yet."""
        count = 0
        for step in reversed(self._done):
            if step.predicted or step.cleared:
                break
            count += len(step.prompts)
        return count

    @contextmanager
    def changing(self) -> Iterator[Draft]:
        """Write into the mask inside the block; an exception takes it all back."""
        draft = Draft(self.mask)
        try:
            yield draft
        except BaseException:
            draft.take_back()
            raise

    def commit(self, draft: Draft, prompts: Sequence[Prompt], *, predicted: bool, cleared: bool = False) -> bytes:
        """Make the draft a step. Returns its change, packed."""
        after, before = draft.result()
        step = _Done(
            tuple(prompts), predicted, cleared, pack_change(after, self.shape), pack_change(before, self.shape)
        )
        self._done.append(step)
        self._undone.clear()
        self.at += 1
        return step.packed

    def undo(self) -> bytes:
        """Take back the last step. Returns the change that does it, packed. There must be one."""
        step = self._done.pop()
        self._paste(step.before)
        self._undone.append(step)
        self.at += 1
        return step.before

    def redo(self) -> bytes:
        """Make the last undone step again. Returns its change, packed. There must be one."""
        step = self._undone.pop()
        self._paste(step.packed)
        self._done.append(step)
        self.at += 1
        return step.packed

    @property
    def can_undo(self) -> bool:
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        return bool(self._undone)

    def clear(self, *, forget: bool) -> bytes:
        """Empty the mask; with `forget` no way back is kept. Returns the change, packed."""
        with self.changing() as draft:
            touched = _around([box for s in self._done if (box := _packed_box(s.packed)) is not None] or [_NOWHERE])
            draft.write(touched.lo, np.zeros(touched.shape, dtype=np.uint8))
            packed = self.commit(draft, (), predicted=False, cleared=True)
        if forget:
            self._done.clear()
        return packed

    def replay(self, history: Sequence[Step], undone: Sequence[Step]) -> None:
        """Come to the state of a log without running anything: its steps, then those that redo brings back."""
        for step in (*history, *undone):
            with self.changing() as draft:
                change = step.change
                draft.write(change.lo, change.values)
                self._done.append(self._replayed(step, draft))
        for _ in undone:
            self._paste((last := self._done.pop()).before)
            self._undone.append(last)

    def _replayed(self, step: Step, draft: Draft) -> _Done:
        after, before = draft.result()
        packed = step.packed or pack_change(after, self.shape)
        return _Done(step.prompts, step.predicted, step.cleared, packed, pack_change(before, self.shape))

    def _paste(self, packed: bytes) -> None:
        change = unpack_change(packed)
        if not change.empty:
            self.mask[_cut(change.lo, change.hi)] = change.values


_NOWHERE = Box((0, 0, 0), (0, 0, 0))


def _packed_box(packed: bytes) -> Box | None:
    if not packed:
        return None
    change = unpack_change(packed)
    return Box(change.lo, change.hi)


def _box_of(lo: Ijk, values: LabelMap) -> Box:
    return Box(lo, (lo[0] + values.shape[0], lo[1] + values.shape[1], lo[2] + values.shape[2]))


def _around(boxes: Sequence[Box]) -> Box:
    lo = [min(box.lo[axis] for box in boxes) for axis in range(3)]
    hi = [max(box.hi[axis] for box in boxes) for axis in range(3)]
    return Box((lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2]))


def _cut(lo: Sequence[int], hi: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))

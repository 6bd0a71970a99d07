"""Interactive sessions without a worker: each point paints a ball, every step can be undone, memory can be lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from labelserver.domain.errors import SessionNotHeld
from labelserver.domain.interaction import (
    NOTHING_CHANGED,
    LabelMap,
    MaskChange,
    SessionAnswer,
    SessionCall,
    SessionVerb,
    Step,
)
from labelserver.domain.paths import Root, Roots
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.imaging.volumes import read_grid, write_volume
from labelserver.wire.mask_box import EXTENSION, changed_box, encode_box
from labelserver.wire.packed_session import unpack_change

RADIUS = 2  #: voxels


def with_ball(mask: LabelMap, prompt: Prompt, value: int) -> LabelMap:
    """`mask` after one prompt: a ball round each of its points, painted or wiped; a mask taken over."""
    result = mask.copy()
    if prompt.mask is not None:
        box = tuple(slice(a, b) for a, b in zip(prompt.mask.lo, prompt.mask.hi, strict=True))
        result[box][prompt.mask.voxels] = value if prompt.positive else 0
        return result
    grid = np.indices(mask.shape)
    for point in prompt.points:
        away = sum((axis - center) ** 2 for axis, center in zip(grid, point, strict=True))
        result[away <= RADIUS**2] = value if prompt.positive else 0
    return result


class FakeSessions:
    """What a worker does with sessions, on tiny images."""

    def __init__(self, image_of: Callable[[SessionCall], Path], roots: Roots) -> None:
        self._image_of = image_of
        self._roots = roots
        self._held: dict[str, tuple[LabelMap, list[tuple[Step, LabelMap]], list[tuple[Step, LabelMap]], int]] = {}
        self.calls: list[SessionCall] = []
        self.partials = False
        self.label_value = 1

    def forget(self) -> None:
        """As if the worker had died."""
        self._held.clear()

    def answer(self, call: SessionCall, on_partial: Callable[[SessionAnswer], None] | None) -> SessionAnswer:
        self.calls.append(call)
        match call.verb:
            case SessionVerb.PREFETCH:
                return SessionAnswer(ran=False)
            case SessionVerb.OPEN:
                self._open(call)
                return SessionAnswer(ran=False, seconds={"load": 0.001, "pre": 0.001})
            case SessionVerb.CLOSE:
                self._held.pop(call.session, None)
                return SessionAnswer(ran=False)
        if call.session not in self._held or self._held[call.session][3] != call.at:
            self._held.pop(call.session, None)
            raise SessionNotHeld("This worker does not hold the session.")
        return self._change(call, on_partial)

    def _open(self, call: SessionCall) -> None:
        mask = np.zeros(read_grid(self._image_of(call)).shape, dtype=np.uint8)
        done: list[tuple[Step, LabelMap]] = []
        for step in call.history or ():
            done.append((step, mask))
            mask = _applied(mask, step)
        undone, later = [], mask
        for step in call.undone:
            undone.append((step, later := _applied(later, step)))
        self._held[call.session] = (mask, done, undone[::-1], call.at)

    def _change(self, call: SessionCall, on_partial: Callable[[SessionAnswer], None] | None) -> SessionAnswer:
        mask, done, undone, at = self._held[call.session]
        after, ran = mask, True
        match call.verb:
            case SessionVerb.WRITE:
                path = self._roots.state / "spool" / f"mask-{len(self.calls)}{call.ext}"
                if call.ext == EXTENSION:
                    path.write_bytes(encode_box(mask, changed_box(None, mask)))
                else:
                    write_volume(path, mask, read_grid(self._image_of(call)).affine, compress=True)
                return SessionAnswer(ran=False, file=self._roots.relative(path, Root.STATE))
            case SessionVerb.PROMPT:
                ran = call.predict
                for prompt in call.prompts:
                    if call.predict or prompt.kind is PromptKind.MASK:
                        after = with_ball(after, prompt, self.label_value)
                if self.partials and on_partial is not None:
                    on_partial(SessionAnswer(ran=True, change=_change_of(mask, after), final=False))
                done, undone = [*done, (Step(call.prompts, _change_of(mask, after)), mask)], []
            case SessionVerb.UNDO:
                step, after = done[-1]
                done, undone = done[:-1], [*undone, (step, mask)]
            case SessionVerb.REDO:
                step, after = undone[-1]
                done, undone = [*done, (step, mask)], undone[:-1]
            case _:
                after = np.zeros_like(mask)
                step = Step((), _change_of(mask, after), cleared=True)
                done, undone = ([] if call.forget else [*done, (step, mask)]), []
        self._held[call.session] = (after, done, undone, at + 1)
        return SessionAnswer(
            ran=ran, change=_change_of(mask, after), seconds={"forward": 0.001}, model_version="7" if ran else ""
        )


def _applied(mask: LabelMap, step: Step) -> LabelMap:
    change = unpack_change(step.packed) if step.packed else step.change
    result = mask.copy()
    result[tuple(slice(a, b) for a, b in zip(change.lo, change.hi, strict=True))] = change.values
    return result


def _change_of(before: LabelMap, after: LabelMap) -> MaskChange:
    box = changed_box(before, after)
    return NOTHING_CHANGED if box is None else MaskChange(box.lo, after[box.slices].copy())


def masks_of(answers: Sequence[SessionAnswer], shape: tuple[int, int, int]) -> LabelMap:
    """The mask that a client has after these answers."""
    mask = np.zeros(shape, dtype=np.uint8)
    for answer in answers:
        change = answer.change
        mask[tuple(slice(a, b) for a, b in zip(change.lo, change.hi, strict=True))] = change.values
    return mask

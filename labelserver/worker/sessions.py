"""Interactive sessions in a worker: from a `SessionCall` to a `SessionAnswer`.

Decoded images, what tasks prepared of them, and the sessions themselves live in the one memory budget of this process
(`tasks.prepared_images`); whatever was not used for longest goes first. A session that went is rebuilt from the
server's log, an image from its file, so that nothing that was drawn depends on this memory.

The calls of one session come one after another (the server sees to that), those of several sessions from several
threads; shared values are never written into.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import (
    GridsDiffer,
    ImageNotFound,
    InvalidParams,
    InvalidPrompt,
    RequestCancelled,
    SessionNotHeld,
    TaskFailed,
)
from labelserver.domain.geometry import Grid
from labelserver.domain.interaction import LabelMap, SessionAnswer, SessionCall, SessionVerb
from labelserver.domain.paths import Root, Roots
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.imaging.volumes import write_volume
from labelserver.tasks.base import numbered_labels
from labelserver.tasks.image_places import kept_as
from labelserver.tasks.prepared_images import shared
from labelserver.tasks.prompted_images import image_of, prepared_of
from labelserver.tasks.prompting import ClickState, PromptTask, clipped, painted
from labelserver.wire.mask_box import EXTENSION, changed_box, encode_box
from labelserver.wire.packed_session import Shape
from labelserver.worker.held_session import Draft, HeldSession

logger = logging.getLogger(__name__)

OnPartial = Callable[[SessionAnswer, Shape], None]

#: sessions used last, which are held whatever the budget says, so that a large one can be clicked in at all.
ALWAYS_HELD = 4
#: formats of a whole mask.
MASK_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".bmp", EXTENSION)


@dataclass(frozen=True, slots=True)
class AppTasks:
    """What the sessions need of the app."""

    task: Callable[[str], PromptTask]  #: raises `TaskNotFound`
    image_path: Callable[[str], str]  #: of an image id; "" if it is unknown
    model_version: Callable[[str], str]  #: of a task, "" without one
    cache_home: Callable[[], str] = lambda: ""  #: where what is made of images may lie; "": nowhere


class Sessions:
    """The sessions that this worker holds."""

    def __init__(self, app: AppTasks, roots: Roots) -> None:
        self._app = app
        self._roots = roots
        self._tasks: dict[str, PromptTask] = {}
        self._latest: OrderedDict[str, HeldSession] = OrderedDict()
        self._lock = threading.Lock()  # of `_latest`; held for moments

    def answer(self, call: SessionCall, on_partial: OnPartial) -> tuple[SessionAnswer, Shape]:
        """Carry out `call`. Returns the answer, packed, and the shape of the image it belongs to.

        Raises:
            SessionNotHeld: the session is not here, or not in the state that the server thinks of.
            RequestCancelled: the caller has left; nothing was changed.
            Whatever the task raises; then nothing was changed either.
        """
        image_id = "" if call.image_file is not None else call.image_id or ""
        with kept_as(image_id, self._app.cache_home()):
            return self._answered(call, on_partial)

    def _answered(self, call: SessionCall, on_partial: OnPartial) -> tuple[SessionAnswer, Shape]:
        clock = _Clock()
        if call.verb is SessionVerb.PREFETCH:
            self._ready(call, clock)
            return SessionAnswer(ran=False, seconds=clock.laps), (1, 1, 1)
        if call.verb is SessionVerb.OPEN:
            held = self._opened(call, clock)
            return SessionAnswer(ran=False, seconds=clock.laps), held.shape
        if call.verb is SessionVerb.CLOSE:
            self._forget(call)
            return SessionAnswer(ran=False), (1, 1, 1)
        held = self._held(call)
        return self._changed(call, held, clock, on_partial), held.shape

    def _changed(self, call: SessionCall, held: HeldSession, clock: _Clock, on_partial: OnPartial) -> SessionAnswer:
        if call.verb is SessionVerb.WRITE:
            return self._written(call, held)
        if call.verb is SessionVerb.PROMPT:
            answer = self._prompted(call, held, clock, on_partial)
        elif call.verb is SessionVerb.UNDO:
            answer = SessionAnswer(ran=False) if not held.can_undo else _moved(held.undo())
        elif call.verb is SessionVerb.REDO:
            answer = SessionAnswer(ran=False) if not held.can_redo else _moved(held.redo())
        else:
            answer = _moved(held.clear(forget=call.forget))
        self._hold(call, held)  # its size is another
        return answer

    def _hold(self, call: SessionCall, held: HeldSession) -> None:
        shared().put(_key(call), held)
        with self._lock:
            self._latest[call.session] = held
            self._latest.move_to_end(call.session)
            if len(self._latest) > ALWAYS_HELD:
                self._latest.popitem(last=False)

    def _forget(self, call: SessionCall) -> None:
        shared().forget(_key(call))
        with self._lock:
            self._latest.pop(call.session, None)

    def _held(self, call: SessionCall) -> HeldSession:
        held = shared().find(_key(call))
        if held is None:
            with self._lock:
                held = self._latest.get(call.session)
        if not isinstance(held, HeldSession) or held.at != call.at:
            self._forget(call)
            raise SessionNotHeld("This worker does not hold the session.")
        return held

    def _opened(self, call: SessionCall, clock: _Clock) -> HeldSession:
        path, grid = self._ready(call, clock)
        steps = (*(call.history or ()), *call.undone)
        if any((np.asarray(step.change.hi) > np.asarray(grid.shape)).any() for step in steps):
            raise GridsDiffer(
                f"The image's file was replaced since this session was opened: it has {list(grid.shape)} voxels now, "
                "fewer than what was drawn on. Open a new session."
            )
        held = HeldSession(call.task, path, grid, call.at)
        held.replay(call.history or (), call.undone)
        self._hold(call, held)
        return held

    def _ready(self, call: SessionCall, clock: _Clock) -> tuple[str, Grid]:
        """Read and prepare the image, unless that was done already."""
        task, path = self._task(call.task), self._path(call)
        image = image_of(path, voxels=not task.reads_path)
        clock.lap("load")
        prepared_of(task, path)
        clock.lap("pre")
        return path, image.grid

    def _prompted(self, call: SessionCall, held: HeldSession, clock: _Clock, on_partial: OnPartial) -> SessionAnswer:
        task = self._task(call.task)
        labels = numbered_labels(task.labels)
        with held.changing() as draft:
            for prompt in call.prompts:
                if prompt.kind is PromptKind.MASK and prompt.mask is not None:
                    _take_over(draft, prompt, prompt.mask, labels)
            notes: dict[str, Any] = {}
            if call.predict:
                prompts = (*held.prompts, *call.prompts)
                state = ClickState(
                    prompts=prompts,
                    new=held.waiting + len(call.prompts),
                    mask=_read_only(held.mask),
                    label_values=labels,
                    params=call.params,
                )
                image = image_of(held.path, voxels=not task.reads_path)
                if not held.grid.same_place(image.grid):
                    raise _replaced(held.grid, image.grid)
                clock.lap("load")
                prepared = prepared_of(task, held.path)
                clock.lap("pre")
                notes = self._predict(task, prepared, state, draft, held.shape, on_partial)
                clock.lap("forward")
            packed = held.commit(draft, call.prompts, predicted=call.predict)
        clock.lap("post")
        version = self._app.model_version(call.task) if call.predict else ""
        return replace(_moved(packed), ran=call.predict, seconds=clock.laps, notes=notes, model_version=version)

    def _predict(
        self,
        task: PromptTask,
        prepared: Any,
        state: ClickState,
        draft: Draft,
        shape: Shape,
        on_partial: OnPartial,
    ) -> dict[str, Any]:
        """Let the task answer; write its last prediction, show those before. Returns its notes."""
        last = None
        for prediction in task.predict(prepared, state):
            if current_progress().should_stop():
                raise RequestCancelled("The request was cancelled; nothing was changed.")
            if last is not None:
                shown = draft.show(*clipped(last, shape))
                on_partial(SessionAnswer(ran=True, change=shown, final=False, notes=dict(last.notes)), shape)
            last = prediction
            if not prediction.final:
                shown = draft.show(*clipped(prediction, shape))
                on_partial(SessionAnswer(ran=True, change=shown, final=False, notes=dict(prediction.notes)), shape)
                last = None
        if last is None and not state.prompts:
            raise InvalidPrompt("There is nothing to predict from yet: draw something first.")
        if last is None:
            raise TaskFailed(f"{type(task).__name__}.predict gave no final answer.")
        draft.write(*clipped(last, shape))
        return dict(last.notes)

    def _written(self, call: SessionCall, held: HeldSession) -> SessionAnswer:
        if call.ext not in MASK_EXTENSIONS:
            raise InvalidParams(
                f"A mask cannot be written as {call.ext[:20]!r}. Use one of {', '.join(MASK_EXTENSIONS)}."
            )
        mask = held.mask
        if call.renumber:
            values = sorted(value for value in numbered_labels(self._task(call.task).labels).values() if value > 0)
            table = np.zeros(256, dtype=np.uint8)
            table[values] = np.arange(1, len(values) + 1, dtype=np.uint8)
            mask = table[mask]
        path = self._roots.state / "spool" / f"mask-{uuid.uuid4().hex}{call.ext}"
        if call.ext == EXTENSION:
            path.write_bytes(encode_box(mask, changed_box(None, mask)))
        else:
            write_volume(path, mask, held.grid.affine, compress=True)
        return SessionAnswer(ran=False, file=self._roots.relative(path, Root.STATE))

    def _task(self, name: str) -> PromptTask:
        if name not in self._tasks:
            self._tasks[name] = self._app.task(name)
        return self._tasks[name]

    def _path(self, call: SessionCall) -> str:
        if call.image_file is not None:
            return str(self._roots.resolve(call.image_file))
        path = self._app.image_path(call.image_id or "")
        if not path or not Path(path).is_file():
            raise ImageNotFound(f"There is no image {call.image_id!r} any more.", image_id=call.image_id)
        return path


def _replaced(before: Grid, now: Grid) -> GridsDiffer:
    return GridsDiffer(
        f"The image's file was replaced since this session was opened: {before.difference(now)}. Open a new session."
    )


class _Clock:
    """Seconds of the stages of a call."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(self.laps.get(name, 0.0) + now - self._last, 6)
        self._last = now


def _key(call: SessionCall) -> tuple[str, str]:
    return ("session", call.session)


def _moved(packed: bytes) -> SessionAnswer:
    return SessionAnswer(ran=True, packed=packed)


def _read_only(mask: LabelMap) -> LabelMap:
    view = mask.view()
    view.flags.writeable = False
    return view


def _take_over(draft: Draft, prompt: Prompt, mask: MaskBox, labels: dict[str, int]) -> None:
    """Make an initial mask the label's content in its box."""
    value = labels.get(prompt.label) or next((v for v in labels.values() if v > 0), 1)
    if prompt.positive:
        draft.write(mask.lo, painted(draft.mask, mask.lo, mask.voxels, value))
    else:
        box = tuple(slice(a, b) for a, b in zip(mask.lo, mask.hi, strict=True))
        there = draft.mask[box].copy()
        there[mask.voxels & (there == value)] = 0
        draft.write(mask.lo, there)

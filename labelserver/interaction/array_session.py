"""A session on an image that a client sent as an array, seen through one label: what nnInteractive's clients know.

Such a client keeps the mask of one object and is told what changed in a box of it. `ArraySession` keeps the same mask
on the server (a byte a voxel, of which the system only provides what was touched), so that the box it answers is the
smallest one that brings the client's copy to the state of the session, also after an answer that got lost.

One call at a time for each object: its owner holds a lock. Everything that must survive is in the session's log, in the
hands of `Interactions`; `to_json` is the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import InvalidPrompt, StoredDataInvalid, TaskNotFound
from labelserver.domain.interaction import MaskChange, OpenSession, SessionAnswer
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import RootedPath
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind, check_on
from labelserver.imaging.volumes import read_volume
from labelserver.interaction.described import DescribedTask
from labelserver.wire.mask_box import Box, changed_box

Mask = NDArray[np.uint8]  #: (I, J, K), 0 or 1

#: prompts that may wait for a prediction.
MAX_WAITING = 500


class Sessions(Protocol):
    """What is used of `Interactions`; see there."""

    async def open(
        self,
        person: str,
        task: str,
        *,
        image_file: RootedPath | None = None,
        params: JsonObject | None = None,
    ) -> OpenSession: ...

    async def get(self, session_id: str, person: str) -> OpenSession: ...

    async def prompt(
        self, session_id: str, person: str, prompts: Sequence[Prompt], *, predict: bool = True
    ) -> SessionAnswer: ...

    async def undo(self, session_id: str, person: str) -> SessionAnswer: ...

    async def reset(self, session_id: str, person: str, *, forget: bool = False) -> SessionAnswer: ...

    async def mask_file(self, session_id: str, person: str, *, ext: str = ".nii.gz") -> Path: ...

    async def close(self, session_id: str, person: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Mount:
    """A task, and the label of it that a client draws."""

    task: DescribedTask
    label: str

    @property
    def value(self) -> int:
        """Of the label in the task's masks."""
        return self.task.label_values.get(self.label, 1)


def mount_of(task: DescribedTask, label: str | None) -> Mount:
    """`label`, or the task's first in the order of values (NI-04); "" for a task that names none.

    Raises:
        TaskNotFound: the task has no such label; with those it has.
    """
    names = sorted(task.label_values, key=lambda name: task.label_values[name])
    if label is None:
        return Mount(task, names[0] if names else "")
    if label not in names:
        raise TaskNotFound(
            f"The model {task.name!r} has no label {label[:100]!r}. It has: {', '.join(names) or 'none'}."
        )
    return Mount(task, label)


@dataclass(frozen=True, slots=True)
class Answer:
    """`box`: where the client's copy may be out of date now; None: nowhere."""

    ran: bool
    box: Box | None = None


class ArraySession:
    """See the module. `opened` makes one, `woken` brings one back."""

    def __init__(self, sessions: Sessions, mount: Mount, session: OpenSession, base: int) -> None:
        """`base`: steps of the log that undo does not take back (an initial mask)."""
        self._sessions = sessions
        self._session = session
        self._base = base
        self._waiting: list[Prompt] = []
        self._stale: Box | None = None  # where the client's copy may differ from the mask
        self._unsure = False  # an answer was lost, so the mask may differ from the session's
        self.mount = mount
        self.shape = session.grid.shape
        self.mask: Mask = np.zeros(self.shape, dtype=np.uint8)

    @classmethod
    async def opened(
        cls, sessions: Sessions, mount: Mount, person: str, image: RootedPath, params: JsonObject | None = None
    ) -> Self:
        """Open `image`, a file that becomes the session's. Raises as `Interactions.open`."""
        session = await sessions.open(person, mount.task.name, image_file=image, params=params)
        return cls(sessions, mount, session, 0)

    @classmethod
    async def woken(cls, sessions: Sessions, mount: Mount, document: JsonObject) -> Self:
        """The inverse of `to_json`, with the mask that the session has now.

        Raises:
            SessionNotFound: it has expired. StoredDataInvalid: not such a document. Else as `Interactions.mask_file`.
        """
        try:
            session_id, person, base = str(document["session"]), str(document["person"]), int(str(document["base"]))
        except (KeyError, ValueError) as error:
            raise StoredDataInvalid("The record of a client's session is damaged.") from error
        session = await sessions.get(session_id, person)
        found = cls(sessions, mount, session, base)
        if session.undoable:
            found.mask = await found._current()
        # Whether the client got the last answer before the rest, nobody knows: the next one tells it everything.
        found._stale = Box((0, 0, 0), found.shape)
        return found

    def to_json(self) -> JsonObject:
        """What finds the session again."""
        return {"session": self._session.session_id, "person": self._session.person, "base": self._base}

    async def add(self, prompt: Prompt, *, predict: bool) -> Answer:
        """Take a prompt; without `predict` it waits for the next one.

        Raises:
            InvalidPrompt: it makes no sense here; nothing was changed. Else as `Interactions.prompt`.
        """
        check_on(prompt, self._session.grid, self._session.prompt_kinds)
        if not predict:
            if len(self._waiting) >= MAX_WAITING:
                raise InvalidPrompt(f"{MAX_WAITING} prompts are waiting for a prediction already.")
            self._waiting.append(prompt)
            return Answer(ran=False)
        return await self._predicted((*self._waiting, prompt))

    async def predict(self) -> Answer:
        """Predict with the prompts that wait; `ran` is false if there are none."""
        return await self._predicted(tuple(self._waiting)) if self._waiting else Answer(ran=False)

    async def seed(self, mask: MaskBox, *, predict: bool) -> Answer:
        """Begin anew with what is known already. The client has written it into its own copy."""
        prompt = Prompt(PromptKind.MASK, self.mount.label, mask=mask)
        check_on(prompt, self._session.grid, self._session.prompt_kinds)
        await self.reset()
        if not mask.voxels.any():
            return Answer(ran=False)
        self._stale = Box(mask.lo, mask.hi)  # until the session has taken it over
        taken = await self._call(self._sessions.prompt(*self._key, (prompt,), predict=False))
        self._take(taken.change)
        self._base = 1
        if np.array_equal(self.mask[_slices(mask.lo, mask.voxels.shape)], mask.voxels):
            self._stale = None
        return await self._predicted(()) if predict else Answer(ran=False)

    async def undo(self) -> Answer:
        """Take back the last step: a prompt that waits, which changes nothing to see, or the last prediction."""
        if self._waiting:
            self._waiting.pop()
            return Answer(ran=True, box=self._stale)
        if (await self._sessions.get(*self._key)).undoable <= self._base:
            return Answer(ran=False)
        answer = await self._call(self._sessions.undo(*self._key))
        self._take(answer.change)
        return Answer(answer.ran, self._stale)

    async def reset(self) -> None:
        """Forget prompts, undo and mask. The client empties its own copy."""
        self._waiting.clear()
        await self._call(self._sessions.reset(*self._key, forget=True))
        self.mask = np.zeros(self.shape, dtype=np.uint8)
        self._base, self._stale = 0, None

    def emptied_copy(self) -> None:
        """The client has a new, empty copy: whatever is in the mask is news to it."""
        self._stale = changed_box(None, self.mask)

    def delivered(self, answer: Answer) -> None:
        """The client has what `answer` said. Until this is called, each further answer covers its box as well."""
        if answer.box == self._stale:
            self._stale = None

    async def close(self) -> None:
        """Forget the session for good. Raises `SessionNotFound`."""
        await self._sessions.close(*self._key)

    @property
    def _key(self) -> tuple[str, str]:
        return self._session.session_id, self._session.person

    async def _predicted(self, prompts: tuple[Prompt, ...]) -> Answer:
        answer = await self._call(self._sessions.prompt(*self._key, prompts, predict=True))
        self._waiting.clear()
        self._take(answer.change)
        return Answer(answer.ran, self._stale)

    async def _call(self, asking: Awaitable[SessionAnswer]) -> SessionAnswer:
        """`asking`, unless its answer is lost on the way: then the mask is compared before the next one."""
        try:
            return await asking
        except asyncio.CancelledError:
            self._unsure = True
            raise

    async def agree(self) -> None:
        """Before each use: after a call whose answer was lost, find out what it did."""
        if not self._unsure:
            return
        now = await self._current()
        found = changed_box(self.mask, now)
        self.mask, self._unsure = now, False
        if found is not None:
            self._stale = _union(self._stale, found)

    async def _current(self) -> Mask:
        """The mask as the session has it."""
        file = await self._sessions.mask_file(*self._key, ext=".nrrd")
        try:
            return await asyncio.to_thread(_one_label, file, self.mount.value)
        finally:
            file.unlink(missing_ok=True)

    def _take(self, change: MaskChange) -> None:
        """Bring the mask to the state of the session and remember where it differs from the client's copy."""
        if change.empty:
            return
        slices = _slices(change.lo, change.values.shape)
        new = (change.values == self.mount.value).astype(np.uint8)
        inside = changed_box(self.mask[slices], new)
        if inside is None:
            return
        self.mask[slices] = new
        self._stale = _union(self._stale, _moved(inside, change.lo))


def _one_label(file: Path, value: int) -> Mask:
    mask: Mask = (read_volume(file).voxels == value).astype(np.uint8)
    return mask


def _slices(lo: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(lo, shape, strict=True))


def _moved(box: Box, by: tuple[int, int, int]) -> Box:
    lo, hi = ([int(a + b) for a, b in zip(corner, by, strict=True)] for corner in (box.lo, box.hi))
    return Box((lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2]))


def _union(one: Box | None, other: Box) -> Box:
    if one is None:
        return other
    lo = [min(a, b) for a, b in zip(one.lo, other.lo, strict=True)]
    hi = [max(a, b) for a, b in zip(one.hi, other.hi, strict=True)]
    return Box((lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2]))

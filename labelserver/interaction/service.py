"""Interactive sessions: who has which image open, and how a prompt becomes a mask that cannot get lost.

The server keeps the truth, each session's log (`session_log`); a worker keeps image, tensors and mask and may forget
them at any time: it is then told the log. One change at a time for each session (its lock), in the order of arrival;
reading needs no lock. A session of somebody else is as unknown as one that never was.

    open -> prompt, undo, redo, reset ... -> accept (a label revision) -> close, or expiry after `keep_days`
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.engine import Engine
from labelserver.domain.annotation import AnnotatedPart
from labelserver.domain.errors import (
    ImageNotFound,
    InvalidPrompt,
    LabelServerError,
    NoImageGiven,
    Refused,
    SessionNotHeld,
    WorkerNotReady,
)
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.interaction import (
    OpenSession,
    SessionAnswer,
    SessionCall,
    SessionVerb,
    Step,
)
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import Expected, Revision
from labelserver.domain.paths import Root, RootedPath, Roots
from labelserver.domain.prompts import Prompt, check_on
from labelserver.imaging.formats import is_picture
from labelserver.interaction.accepting import Accepting
from labelserver.interaction.described import described_task
from labelserver.interaction.held_sessions import HeldSession, HeldSessions
from labelserver.interaction.session_files import SessionFiles
from labelserver.wire.mask_box import EXTENSION

logger = logging.getLogger(__name__)

#: prompts in one call.
MAX_PROMPTS = 1000

OnPartial = Callable[[SessionAnswer], None]


class Interactions:
    """See the module. All methods belong to the event loop; disk work goes to threads."""

    def __init__(
        self,
        engine: Engine,
        datastore: Callable[[], Datastore],
        roots: Roots,
        *,
        keep_days: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`datastore`: the one in use now. `keep_days`: since the last use; 0: for ever."""
        self._engine = engine
        self._datastore = datastore
        self._roots = roots
        self._files = SessionFiles(roots.state / "sessions")
        self.held = HeldSessions(self._files, keep_days * 86400.0, clock)

    async def open(
        self,
        person: str,
        task: str,
        *,
        image_id: ImageId | None = None,
        image_file: RootedPath | None = None,
        params: JsonObject | None = None,
        hold_person: bool = True,
    ) -> OpenSession:
        """Open an image for prompts; the worker reads and prepares it now.

        Args:
            person: whose it is.
            task: name of a model in ``/info/``.
            image_id: an image of the datastore.
            image_file: another one; a file below the state folder, which becomes the session's.
            params: the task's options.
            hold_person: only `person` may use it. False: whoever knows the id.

        Raises:
            TaskNotFound: no such model, or one that takes no prompts.
            ImageNotFound, UnreadableFile: no image there. Refused: of a dimension that the model does not take.
            QueueFull: too many open sessions of this person. Else as `Engine.interact`.
        """
        described = described_task(self._engine.description(), task)
        if (image_id is None) == (image_file is None):
            raise NoImageGiven("Name the image of a session: one of the datastore by its id, or an upload.")
        if described is None:
            raise WorkerNotReady(f"{self._engine.readiness().reason} Try again later.".strip())
        kept, folder = await asyncio.to_thread(
            self._files.make,
            person=person,
            hold_person=hold_person,
            described=described,
            image_id=image_id,
            image=await asyncio.to_thread(self._image_path, image_id, image_file),
            params=dict(params or {}),
            now=self.held.clock(),
        )
        held = self.held.add(kept, folder)
        try:
            answer = await self._engine.interact(self._call(held, SessionVerb.OPEN))
        except BaseException:
            await self.held.withdraw(held)
            raise
        return replace(self.held.shown(held), seconds=answer.seconds)

    async def prefetch(self, task: str, image_id: ImageId, person: str = "") -> None:
        """Let a worker read and prepare an image that somebody will open soon. Raises as `open`."""
        if described_task(self._engine.description(), task) is not None:
            await self._engine.interact(
                SessionCall(session="", verb=SessionVerb.PREFETCH, task=task, person=person, image_id=image_id)
            )

    async def get(self, session_id: str, person: str) -> OpenSession:
        """Raises `SessionNotFound`."""
        return self.held.shown(await self.held.of(session_id, person))

    async def list(self, person: str, *, image_id: str = "") -> builtins.list[OpenSession]:
        """The sessions of `person` (on one image), the latest used first."""
        return [self.held.shown(held) for held in await self.held.list(person, image_id)]

    async def prompt(
        self,
        session_id: str,
        person: str,
        prompts: Sequence[Prompt],
        *,
        predict: bool = True,
        on_partial: OnPartial | None = None,
    ) -> SessionAnswer:
        """Take `prompts` (on the session's grid) and answer what changed.

        Args:
            prompts: may be empty: predict with those that wait.
            predict: False: keep them for the next prediction; an initial mask is taken over at once.
            on_partial: gets coarse answers meanwhile.

        Raises:
            InvalidPrompt: one of them makes no sense; none was taken.
            SessionNotFound. QueueFull: too many calls wait for this session. Else as `Engine.interact`.
        """
        held = await self.held.of(session_id, person)
        if len(prompts) > MAX_PROMPTS:
            raise InvalidPrompt(f"At most {MAX_PROMPTS} prompts may come at once, not {len(prompts)}.")
        if not prompts and not predict:
            raise InvalidPrompt("There is nothing to do: no prompt was given, and no prediction asked for.")
        for prompt in prompts:
            check_on(prompt, held.kept.grid, held.kept.prompt_kinds)
            if prompt.label and prompt.label not in held.kept.label_values:
                known = ", ".join(held.kept.label_values) or "none"
                raise InvalidPrompt(f"This model has no label {prompt.label[:100]!r}. It has: {known}.")

        async def do() -> SessionAnswer:
            call = self._call(held, SessionVerb.PROMPT, prompts=tuple(prompts), predict=predict)
            answer = await self._ask(held, call, on_partial)
            step = Step(tuple(prompts), answer.change, answer.model_version, answer.ran, packed=answer.packed)
            return await self._noted(held, answer, lambda: held.log.add(step))

        return await held.in_turn(do)

    async def undo(self, session_id: str, person: str) -> SessionAnswer:
        """Take back the last step; `ran` is false if there is none. Raises as `prompt`."""
        held = await self.held.of(session_id, person)

        async def do() -> SessionAnswer:
            if not held.log.undoable:
                return SessionAnswer(ran=False, before=held.log.at, at=held.log.at)
            answer = await self._ask(held, self._call(held, SessionVerb.UNDO))
            return await self._noted(held, answer, held.log.undo)

        return await held.in_turn(do)

    async def redo(self, session_id: str, person: str) -> SessionAnswer:
        """Make the last undone step again; `ran` is false if there is none. Raises as `prompt`."""
        held = await self.held.of(session_id, person)

        async def do() -> SessionAnswer:
            if not held.log.redoable:
                return SessionAnswer(ran=False, before=held.log.at, at=held.log.at)
            answer = await self._ask(held, self._call(held, SessionVerb.REDO))
            return await self._noted(held, answer, held.log.redo)

        return await held.in_turn(do)

    async def reset(self, session_id: str, person: str, *, forget: bool = False) -> SessionAnswer:
        """Empty the mask and put all prompts out of force, as a step that undo takes back; with `forget`, for good.

        Raises as `prompt`.
        """
        held = await self.held.of(session_id, person)

        async def do() -> SessionAnswer:
            answer = await self._ask(held, self._call(held, SessionVerb.RESET, forget=forget))
            if forget:
                return await self._noted(held, answer, held.log.clear)
            step = Step((), answer.change, predicted=False, cleared=True, packed=answer.packed)
            return await self._noted(held, answer, lambda: held.log.add(step))

        return await held.in_turn(do)

    async def mask_file(self, session_id: str, person: str, *, ext: str = ".nii.gz") -> Path:
        """The whole mask as a file on the image's grid, in the spool; the caller deletes it. Raises as `prompt`."""
        held = await self.held.of(session_id, person)
        return await held.in_turn(lambda: self._written(held, ext))

    async def mask_at(self, session_id: str, person: str) -> tuple[Path, int]:
        """As `mask_file`, the mask as a packed box, and how many changes it has seen."""
        held = await self.held.of(session_id, person)

        async def do() -> tuple[Path, int]:
            return await self._written(held, EXTENSION), held.log.at

        return await held.in_turn(do)

    async def accept(
        self,
        session_id: str,
        person: str,
        tag: Tag,
        *,
        client: str = "",
        info: JsonObject | None = None,
        expected: Expected = None,
        annotated: AnnotatedPart | None = None,
    ) -> tuple[str, Revision | None]:
        """Make the mask a label of the image. The session stays open.

        Returns:
            The label's id, and its revision where the store keeps them.

        Raises:
            Refused: the image is none of the datastore. Else as `mask_file` and `RevisionStore.accept_label`.
        """
        held = await self.held.of(session_id, person)
        if held.kept.image_id is None:
            raise Refused("This session's image is not in the datastore, so it can hold no label there.")

        async def do() -> tuple[str, Revision | None]:
            image = await asyncio.to_thread(self._image_path, held.kept.image_id, None)
            file = await self._written(held, ".png" if is_picture(image.suffix) else ".nii.gz", renumber=True)
            try:
                accepting = Accepting(held.kept, held.log, person, tag, client, dict(info or {}), expected, annotated)
                return await asyncio.to_thread(accepting.into, self._datastore(), file)
            finally:
                file.unlink(missing_ok=True)

        return await held.in_turn(do)

    async def close(self, session_id: str, person: str) -> None:
        """Forget the session and its log. Raises `SessionNotFound`."""
        held = await self.held.of(session_id, person)
        await self.held.remove(held)
        try:
            await self._engine.interact(self._call(held, SessionVerb.CLOSE))
        except LabelServerError as error:  # the worker forgets it by itself when it needs the memory
            logger.info("a closed session was not told to its worker", extra={"error": error.message})

    def _image_path(self, image_id: ImageId | None, image_file: RootedPath | None) -> Path:
        """Blocks. Raises `ImageNotFound`."""
        if image_file is not None:
            return self._roots.resolve(image_file)
        path = self._datastore().get_image_uri(image_id or "")
        if not path or not Path(path).is_file():
            raise ImageNotFound(f"There is no image {image_id!r}. List the ids with GET /datastore/?output=all.")
        return Path(path)

    async def _ask(self, held: HeldSession, call: SessionCall, on_partial: OnPartial | None = None) -> SessionAnswer:
        """Ask the worker; tell it the log first if it does not hold the session."""
        try:
            return await self._engine.interact(call, on_partial)
        except SessionNotHeld:
            logger.info("a session is rebuilt from its log", extra={"steps": held.log.undoable})
        done, undone = await asyncio.to_thread(held.log.read)
        rebuild = self._call(held, SessionVerb.OPEN)
        await self._engine.interact(replace(rebuild, history=tuple(done), undone=tuple(undone)))
        return await self._engine.interact(call, on_partial)

    def _call(
        self,
        held: HeldSession,
        verb: SessionVerb,
        *,
        prompts: tuple[Prompt, ...] = (),
        predict: bool = True,
        forget: bool = False,
        ext: str = ".nii.gz",
        renumber: bool = False,
    ) -> SessionCall:
        kept = held.kept
        file = kept.image_name
        return SessionCall(
            session=kept.session_id,
            verb=verb,
            task=kept.task,
            person=kept.person,
            image_id=kept.image_id,
            image_file=self._roots.relative(held.folder / file, Root.STATE) if file else None,
            prompts=prompts,
            predict=predict,
            params=kept.params,
            at=held.log.at,
            forget=forget,
            ext=ext,
            renumber=renumber,
        )

    async def _noted(self, held: HeldSession, answer: SessionAnswer, write: Callable[[], None]) -> SessionAnswer:
        """`answer` once its change is in the log, with the count of changes before and after it."""
        before = held.log.at
        await self.held.log(held, write)
        return replace(answer, before=before, at=held.log.at)

    async def _written(self, held: HeldSession, ext: str, *, renumber: bool = False) -> Path:
        answer = await self._ask(held, self._call(held, SessionVerb.WRITE, ext=ext, renumber=renumber))
        assert answer.file is not None
        return self._roots.resolve(answer.file)

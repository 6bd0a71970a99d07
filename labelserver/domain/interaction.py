"""An interactive session as values: what is asked of a worker, and what it answers.

A session belongs to one person, one image and one task. The server keeps its log (each step's prompts and what they
changed); a worker keeps the decoded image, what the task prepared from it, and the current mask. A worker that does not
know a session (a restart, memory given back) answers `SessionNotHeld` and is asked again with the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import RootedPath
from labelserver.domain.prompts import Prompt, PromptKind

#: values of the task's labels, (A, B, C)
LabelMap = NDArray[np.uint8]


class SessionVerb(StrEnum):
    """What a worker can be asked about a session."""

    PREFETCH = "prefetch"  #: read and prepare the image for whoever opens it next; makes no session
    OPEN = "open"  #: read and prepare the image, and take over `SessionCall.history`
    PROMPT = "prompt"  #: take prompts and predict
    UNDO = "undo"
    REDO = "redo"
    RESET = "reset"  #: forget prompts and mask, keep the image; undo brings them back unless `SessionCall.forget`
    WRITE = "write"  #: the whole mask as a file on the image's grid
    CLOSE = "close"


@dataclass(frozen=True, slots=True, eq=False)
class MaskChange:
    """The content of a box of the label map: it *replaces* what was there. Empty box: nothing changed."""

    lo: tuple[int, int, int]
    values: LabelMap  #: (A, B, C)

    @property
    def hi(self) -> tuple[int, int, int]:
        """Exclusive."""
        a, b, c = (start + size for start, size in zip(self.lo, self.values.shape, strict=True))
        return (a, b, c)

    @property
    def empty(self) -> bool:
        return self.values.size == 0


NOTHING_CHANGED = MaskChange((0, 0, 0), np.zeros((0, 0, 0), dtype=np.uint8))


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a session's log that is in force: prompts and what they made of the mask."""

    prompts: tuple[Prompt, ...]
    change: MaskChange
    model_version: str = ""
    predicted: bool = True  #: False: the prompts wait for the next prediction
    cleared: bool = False  #: a reset: prompts before it are out of force, `change` empties the mask
    packed: bytes = b""  #: `change` as `wire.mask_box` packs it; whoever only hands a step on need not unpack it


@dataclass(frozen=True, slots=True)
class SessionCall:
    """One question to a worker. Exactly one of `image_id` and `image_file` is given."""

    session: str
    verb: SessionVerb
    task: str
    person: str
    image_id: ImageId | None = None
    image_file: RootedPath | None = None  #: an image outside the datastore (an array that a client sent, as NIfTI)
    prompts: tuple[Prompt, ...] = ()
    predict: bool = True  #: False: keep the prompts, predict with the next ones
    params: JsonObject = field(default_factory=dict)  #: the task's options
    history: tuple[Step, ...] | None = None  #: of OPEN: to rebuild the session from
    undone: tuple[Step, ...] = ()  #: of OPEN: what redo brings back, next first
    at: int = 0  #: changes of the session so far; a worker that counted others answers `SessionNotHeld`
    forget: bool = False  #: of RESET: nothing can be undone afterwards
    ext: str = ".nii.gz"  #: of WRITE: the file's format
    renumber: bool = False  #: of WRITE: labels as 1..N in the order of their values


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """What a worker answers. A coarse answer may come before the final one."""

    ran: bool  #: False: nothing was predicted (nothing to undo, or prompts that only wait)
    change: MaskChange = NOTHING_CHANGED
    final: bool = True
    seconds: dict[str, float] = field(default_factory=dict)  #: load, pre, forward, post
    model_version: str = ""
    file: RootedPath | None = None  #: of `SessionVerb.WRITE`; belongs to the receiver
    notes: JsonObject = field(default_factory=dict)  #: memory step, zoom, conversions
    packed: bytes = b""  #: `change` as `wire.mask_box` packs it (zstd, no params); empty if it never was
    before: int = 0  #: changes of the session before this one; the server counts
    at: int = 0  #: and after it


@dataclass(frozen=True, slots=True, eq=False)
class OpenSession:
    """A session as its person sees it."""

    session_id: str  #: cannot be guessed
    person: str
    task: str
    image_id: ImageId | None  #: None: an image outside the datastore
    grid: Grid
    label_values: dict[str, int]  #: name -> value in the mask, background (0) left out
    prompt_kinds: frozenset[PromptKind]
    conversions: dict[str, str]  #: kinds that are turned into others, and how
    params: JsonObject
    created_ts: float  #: Unix seconds
    expires_ts: float  #: Unix seconds; each use puts it off
    undoable: int = 0  #: steps
    redoable: int = 0
    prompts: int = 0  #: in force
    model_version: str = ""  #: of the last prediction
    seconds: dict[str, float] = field(default_factory=dict)  #: what opening took
    at: int = 0  #: changes so far

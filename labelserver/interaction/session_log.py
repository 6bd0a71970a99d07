"""What was done in a session, on disk: appended before the person sees the answer, so that nothing drawn is lost.

    session.json   who, which image and task, the grid (written whole, once; its modification time is the last use)
    log.jsonl      one line for each change: a step with its prompts and the packed box it changed, an undo, a redo,
                   a clearing; the server alone appends

The state is the fold of the lines. A step after an undo ends the branch that redo would have brought back; its lines
are dropped by rewriting the file once they are the larger part of it. A line is in the operating system's hands when
the answer goes out (it survives the death of every process) and on the disk within `SYNC_AFTER_S`. Not for threads:
the session's owner calls one method at a time.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.interaction import Step
from labelserver.domain.json_types import JsonObject
from labelserver.storage import atomic
from labelserver.storage.append import append_json_line, read_json_lines
from labelserver.wire.packed_session import Block, Shape, pack_step, unpack_step

#: seconds until a line that was written is synced, too; what a power cut may cost.
SYNC_AFTER_S = 1.0
#: bytes of dropped lines below which a log is not rewritten.
COMPACT_FROM_BYTES = 256 * 2**10

LOG_NAME = "log.jsonl"


@dataclass(frozen=True, slots=True)
class StepNote:
    """What the server remembers of a step without its voxels."""

    prompts: int
    predicted: bool
    cleared: bool
    model_version: str
    size: int  #: bytes of its line, about


class SessionLog:
    """The log of one session. May block on the disk."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self._path = folder / LOG_NAME
        self._shape = shape
        self._done: list[StepNote] = []
        self._undone: list[StepNote] = []  # next to redo last
        self._dropped = 0
        self.at = 0  #: changes so far; never the same number for another content
        for line in read_json_lines(self._path):
            self._fold(line)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def undoable(self) -> int:
        return len(self._done)

    @property
    def redoable(self) -> int:
        return len(self._undone)

    @property
    def prompts(self) -> int:
        """In force: those after the last clearing."""
        count = 0
        for note in self._done:
            count = 0 if note.cleared else count + note.prompts
        return count

    @property
    def model_version(self) -> str:
        """Of the last prediction in force."""
        return next((note.model_version for note in reversed(self._done) if note.predicted and not note.cleared), "")

    def add(self, step: Step) -> None:
        """A step was made. Raises `StorageFailed`."""
        block = Block()
        document = pack_step(step, self._shape, block)
        self._append({"step": document, "block": base64.b64encode(block.bytes()).decode()})
        if self._dropped > COMPACT_FROM_BYTES and self._dropped > sum(n.size for n in (*self._done, *self._undone)):
            self._compact()

    def undo(self) -> None:
        self._append({"undo": 1})

    def redo(self) -> None:
        self._append({"redo": 1})

    def clear(self) -> None:
        """Everything is forgotten for good."""
        self._append({"clear": 1})
        self._compact()

    def read(self) -> tuple[list[Step], list[Step]]:
        """Steps in force, oldest first, and those that redo brings back, next first; voxels still packed.

        Raises:
            StoredDataInvalid: the log is damaged in its middle.
        """
        done, undone = self._lines()
        return [_step_of(line) for line in done], [_step_of(line) for line in reversed(undone)]

    def _lines(self) -> tuple[list[JsonObject], list[JsonObject]]:
        done: list[JsonObject] = []
        undone: list[JsonObject] = []
        for line in read_json_lines(self._path):
            if "step" in line:
                done.append(line)
                undone.clear()
            elif "undo" in line and done:
                undone.append(done.pop())
            elif "redo" in line and undone:
                done.append(undone.pop())
            elif "clear" in line:
                done, undone = [], []
        return done, undone

    def _append(self, line: JsonObject) -> None:
        append_json_line(self._path, line, sync=False)
        self._fold(line)

    def _fold(self, line: JsonObject) -> None:
        if "at" in line:
            self.at = int(str(line["at"]))
            return
        self.at += 1
        if "step" in line:
            self._dropped += sum(note.size for note in self._undone)
            self._undone.clear()
            self._done.append(_note_of(line))
        elif "undo" in line and self._done:
            self._undone.append(self._done.pop())
        elif "redo" in line and self._undone:
            self._done.append(self._undone.pop())
        elif "clear" in line:
            self._done, self._undone = [], []

    def _compact(self) -> None:
        done, undone = self._lines()
        kept: list[JsonObject] = [*done, *reversed(undone)]
        kept += [{"undo": 1}] * len(undone)
        kept.append({"at": self.at})
        lines = (json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in kept)
        atomic.write_bytes(self._path, b"".join(lines))
        self._dropped = 0


def _note_of(line: JsonObject) -> StepNote:
    step = line.get("step")
    document = step if isinstance(step, dict) else {}
    prompts = document.get("prompts")
    return StepNote(
        prompts=len(prompts) if isinstance(prompts, list) else 0,
        predicted=bool(document.get("predicted", True)),
        cleared=bool(document.get("cleared", False)),
        model_version=str(document.get("version", "")),
        size=len(str(line.get("block", ""))) + 200,
    )


def _step_of(line: JsonObject) -> Step:
    step = line.get("step")
    try:
        data = base64.b64decode(str(line.get("block", "")), validate=True)
        return unpack_step(step if isinstance(step, dict) else {}, data, voxels=False)
    except (binascii.Error, ValueError, KeyError) as error:
        raise StoredDataInvalid("The log of an interactive session is damaged.") from error

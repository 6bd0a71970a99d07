"""How long work speaks to whoever started it, and hears that it should end.

A job's process installs a `Progress` that writes ``events.jsonl``; a task that runs without a job (a script, a test)
finds `Silent`. Tasks call `current_progress()`, so their signatures stay the app author's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from labelserver.domain.json_types import JsonObject


class Progress(Protocol):
    """What a job offers to the task that runs in it."""

    @property
    def folder(self) -> Path | None:
        """The job's folder, for checkpoints; None without a job."""

    @property
    def job_id(self) -> str:
        """Empty without a job."""

    @property
    def resume(self) -> bool:
        """True if this job was suspended and is taken up again: continue from the checkpoint in `folder`."""

    def report(self, data: JsonObject) -> None:
        """Merge into the job's progress: epoch, total_epochs, step, total_steps, loss, learning_rate, metrics, ..."""

    def epoch_done(self, point: JsonObject) -> None:
        """An epoch ended: one point of the job's curve (epoch, loss, learning_rate, metrics), also reported."""

    def log(self, line: str) -> None:
        """One line for people (the peer's ``details``)."""

    def version_ready(self, model: str, number: int) -> None:
        """A candidate lies complete in the model store."""

    def should_stop(self) -> bool:
        """True once a stop or a suspension was asked for. A task looks at each step, checkpoints and returns."""

    def yield_device(self, device: str) -> None:
        """Return once nobody waits for an answer computed on `device`, or a stop was asked for. Called at each step."""


class Silent:
    """Progress of work that nobody watches."""

    folder: Path | None = None
    job_id: str = ""
    resume: bool = False

    def report(self, data: JsonObject) -> None:
        """Nobody listens."""

    def epoch_done(self, point: JsonObject) -> None:
        """Nobody listens."""

    def log(self, line: str) -> None:
        """Nobody listens."""

    def version_ready(self, model: str, number: int) -> None:
        """Nobody decides."""

    def should_stop(self) -> bool:
        return False

    def yield_device(self, device: str) -> None:
        """Nobody shares it."""


_current: ContextVar[Progress | None] = ContextVar("labelserver_progress", default=None)


def current_progress() -> Progress:
    """The progress of the job this code runs in, else `Silent`."""
    return _current.get() or Silent()


@contextmanager
def watched_by(progress: Progress) -> Iterator[None]:
    """Make `progress` the current one inside the block."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)

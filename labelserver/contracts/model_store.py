"""Versions of trained networks: written by training jobs, decided and published by the server alone.

A training finds its writer through `current_version_writer`, so that the signatures of tasks stay the app author's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from labelserver.domain.json_types import JsonObject
from labelserver.domain.models import CaseMetrics, Decision, ModelEvent, ModelVersion, OutputLabel


class ModelStore(Protocol):
    """``APP/versions``. Every process may read and `add`; all other changes belong to the holder of the app lock.

    Every method that takes a number raises `ModelNotFound` if there is no such version.
    """

    def models(self) -> list[str]: ...

    def versions(self, model: str) -> list[ModelVersion]:
        """Oldest first."""

    def version(self, model: str, number: int) -> ModelVersion: ...

    def current(self, model: str) -> ModelVersion | None: ...

    def decision(self, model: str, number: int) -> Decision: ...

    def weights_file(self, model: str, number: int) -> Path:
        """Absolute path of the weights of record."""

    def published_file(self, model: str, number: int) -> Path:
        """Absolute path of the file of the version that infer tasks read; it never changes."""

    def history(self, model: str) -> list[ModelEvent]:
        """What was done to the versions, oldest first."""

    def is_pinned(self, model: str, number: int) -> bool: ...

    def decide(self, model: str, number: int) -> Decision:
        """Apply the gate to a candidate: publish it if it is not worse, else reject it. Idempotent."""

    def publish(self, model: str, number: int, reason: str, person: str = "") -> Decision:
        """Make `number` current whatever the gate says."""

    def roll_back(self, model: str, reason: str, person: str = "") -> int:
        """Make current what was in use before the current version; returns its number. Raises `Conflict`: none was."""

    def reject(self, model: str, number: int, reason: str, person: str = "") -> Decision:
        """Say that a version shall not be used. Raises `Conflict` for the current one."""

    def pin(self, model: str, number: int, person: str = "", *, pinned: bool = True) -> None:
        """Keep a version (or no longer): it is neither pruned nor deleted, nor replaced by the gate."""

    def delete(self, model: str, number: int, person: str = "") -> None:
        """Remove a version's folder; its number is not given again. Raises `Conflict`: it is current or pinned."""

    def add(self, candidate: Candidate) -> int:
        """As `VersionWriter.add`: for weights that a person hands over."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a training hands over: files to keep, and what its manifest will say (see `ModelVersion`).

    `files[0]` holds the weights of record (safetensors). One named ``model.pt``, if there, is what is copied to
    `publish_path` on publishing. All are moved, not copied: they belong to the store afterwards. `number` is given for
    weights that were there before any version (`domain.models.ADOPTED`), else the next free one is taken.
    """

    model: str
    files: tuple[Path, ...]
    job_id: str = ""
    publish_path: Path | None = None
    key_metric: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    cases: CaseMetrics = field(default_factory=dict)
    baseline_version: int | None = None
    baseline: dict[str, float] = field(default_factory=dict)
    baseline_cases: CaseMetrics = field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    held_out_labels: JsonObject = field(default_factory=dict)
    labels: JsonObject = field(default_factory=dict)
    revisions: JsonObject = field(default_factory=dict)
    network_hash: str = ""
    outputs: tuple[OutputLabel, ...] = ()
    extra: JsonObject = field(default_factory=dict)
    number: int | None = None


class VersionWriter(Protocol):
    """What a training job may do in the model store: read it, and add a candidate. It never publishes."""

    def current(self, model: str) -> ModelVersion | None: ...

    def weights_file(self, model: str, number: int) -> Path: ...

    def versions(self, model: str) -> list[ModelVersion]: ...

    def published_file(self, model: str, number: int) -> Path: ...

    def add(self, candidate: Candidate) -> int:
        """Write a complete version folder and return its number.

        Raises: `DiskFull`, `StorageFailed`, `VersionTaken`; nothing is left behind then.
        """


@dataclass(slots=True)
class WeightsInUse:
    """The version that one request is answered with, whatever is published meanwhile.

    A task that asks `weights_for` reads the version's own file, which never changes, instead of the published copy.
    """

    version: str
    published: Path  #: absolute; what tasks call their weights
    file: Path  #: of the version
    was_read: bool = False


_in_use: ContextVar[WeightsInUse | None] = ContextVar("labelserver_weights_in_use", default=None)


def weights_for(path: str | Path) -> Path:
    """The file to read for a task's weight file `path`: that of the version which this request is answered with."""
    in_use = _in_use.get()
    if in_use is None or Path(path).absolute() != in_use.published:
        return Path(path)
    in_use.was_read = True
    return in_use.file


@contextmanager
def answering_with(in_use: WeightsInUse | None) -> Iterator[None]:
    """Answer the request inside the block with one version."""
    token = _in_use.set(in_use)
    try:
        yield
    finally:
        _in_use.reset(token)


_writer: ContextVar[VersionWriter | None] = ContextVar("labelserver_version_writer", default=None)


def current_version_writer() -> VersionWriter | None:
    """The writer of the job this code runs in; None without a model store: the task then publishes a file itself."""
    return _writer.get()


@contextmanager
def writing_to(writer: VersionWriter) -> Iterator[None]:
    """Make `writer` the current one inside the block."""
    token = _writer.set(writer)
    try:
        yield
    finally:
        _writer.reset(token)

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
from labelserver.domain.models import Decision, ModelVersion


class ModelStore(Protocol):
    """``APP/versions``. Every process may read; `decide` and `publish` belong to the holder of the app lock."""

    def models(self) -> list[str]: ...

    def versions(self, model: str) -> list[ModelVersion]:
        """Oldest first."""

    def version(self, model: str, number: int) -> ModelVersion:
        """Raises `ModelNotFound`."""

    def current(self, model: str) -> ModelVersion | None: ...

    def decision(self, model: str, number: int) -> Decision: ...

    def weights_file(self, model: str, number: int) -> Path:
        """Absolute path. Raises `ModelNotFound`."""

    def decide(self, model: str, number: int) -> Decision:
        """Apply the gate to a candidate: publish it if it is not worse, else reject it. Idempotent."""

    def publish(self, model: str, number: int, reason: str) -> Decision:
        """Make `number` current whatever the gate says (roll back, force)."""

    def add(self, candidate: Candidate) -> int:
        """As `VersionWriter.add`: for weights that a person hands over."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a training hands over: files to keep, and what its manifest will say (see `ModelVersion`).

    `files[0]` holds the weights of record (safetensors). One named ``model.pt``, if there, is what is copied to
    `publish_path` on publishing. All are moved, not copied: they belong to the store afterwards.
    """

    model: str
    files: tuple[Path, ...]
    job_id: str = ""
    publish_path: Path | None = None
    key_metric: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    baseline_version: int | None = None
    baseline: dict[str, float] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    labels: JsonObject = field(default_factory=dict)
    extra: JsonObject = field(default_factory=dict)


class VersionWriter(Protocol):
    """What a training job may do in the model store: read it, and add a candidate. It never publishes."""

    def current(self, model: str) -> ModelVersion | None: ...

    def weights_file(self, model: str, number: int) -> Path: ...

    def add(self, candidate: Candidate) -> int:
        """Write a complete version folder under the next free number and return that.

        Raises: `DiskFull`, `StorageFailed`; nothing is left behind then.
        """


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

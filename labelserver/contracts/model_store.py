"""Versions of trained networks: written by training jobs, decided and published by the server alone."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

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

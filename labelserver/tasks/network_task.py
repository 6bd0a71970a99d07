"""What an inference task knows of its network: which files may hold weights, which one is in use, what is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from labelserver.contracts.model_store import weights_for
from labelserver.domain.errors import InvalidParams, ModelNotFound
from labelserver.tasks.base import InferTask, InferType
from labelserver.tasks.network_cache import NetworkCache, WeightFile


class NetworkTask(InferTask):
    """The part of `labelserver.tasks.infer.BasicInferTask` that finds and loads; its arguments are explained there."""

    path: str | Path | Sequence[str | Path] | None
    network: torch.nn.Module | None
    model_state_dict: str
    load_strict: bool
    train_mode: bool
    _networks: NetworkCache

    def is_valid(self) -> bool:
        return self.network is not None or self.type == InferType.SCRIBBLES or self.get_path() is not None

    def paths(self) -> list[str]:
        """The weight files in order, as text."""
        given = self.path
        if not given:
            return []
        several = [given] if isinstance(given, str | Path) else list(given)
        return [str(path) for path in several if path]

    def get_path(self, validate: bool = True) -> str | None:
        """The last weight file that exists; without `validate` simply the last one."""
        for path in reversed(self.paths()):
            if not validate:
                return path
            if (file := weights_for(path)).exists():
                return str(file)
        return None

    def clear(self) -> None:
        """Forget loaded networks."""
        self._networks.clear()

    def clear_cache(self) -> None:
        """Forget loaded networks."""
        self.clear()

    def _get_network(self, device: str, data: Mapping[str, Any] | None) -> torch.nn.Module | None:
        path = self._weights(data or {})
        if path is None and self.network is None:
            if self.type == InferType.SCRIBBLES:
                return None
            raise ModelNotFound(
                f"{self.description}: there are no weights yet. Train this model, or put a file at "
                f"{', '.join(Path(p).name for p in self.paths()) or 'its path'}."
            )
        weights = WeightFile(
            path=path, state_key=self.model_state_dict, strict=self.load_strict, train_mode=self.train_mode
        )
        return self._networks.get(device, self.network, weights)

    def _weights(self, data: Mapping[str, Any]) -> Path | None:
        """The file in use: the last existing of `path`, or the one the request chose beside the first."""
        chosen = data.get("model_filename")
        chosen = chosen[0] if isinstance(chosen, list | tuple) and chosen else chosen
        paths = self.paths()
        if chosen and paths and "model_filename" in self._config:
            if not isinstance(chosen, str) or Path(chosen).name != chosen:
                raise InvalidParams("model_filename is the name of a file beside the model's weights, without folders.")
            beside = Path(paths[0]).parent / chosen
            if beside.is_file():
                return weights_for(beside)
        found = self.get_path()
        return Path(found) if found else None

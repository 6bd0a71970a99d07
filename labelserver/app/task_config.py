"""A helper for apps with many models: each model's tasks, paths and labels in one class of its own file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from labelserver.tasks.base import InferTask, ScoringMethod, Strategy, TrainTask


class TaskConfig(ABC):
    """Subclass once a model; the app calls `init` and then asks for the tasks."""

    PRE_TRAINED_PATH = "https://github.com/Project-MONAI/MONAILabel/releases/download/pretrained"
    NGC_PATH = "https://api.ngc.nvidia.com/v2/models/nvidia/monaihosting"

    def __init__(self) -> None:
        self.name: str | None = None
        self.model_dir: str | None = None
        self.conf: Mapping[str, str] | None = None
        self.planner: Any = None
        self.kwargs: dict[str, Any] | None = None
        self.network: Any = None
        self.path: Any = None
        self.labels: Any = None
        self.label_colors: Any = None
        self.bundle_path: Any = None

    def init(self, name: str, model_dir: str, conf: Mapping[str, str], planner: Any, **kwargs: Any) -> None:
        """Keep what the app says; a subclass then sets labels, paths and network."""
        self.name = name
        self.model_dir = model_dir
        self.conf = conf
        self.planner = planner
        self.kwargs = kwargs

    @abstractmethod
    def infer(self) -> InferTask | dict[str, InferTask]:
        """One model, or several by name."""

    @abstractmethod
    def trainer(self) -> TrainTask | None:
        """The model's trainer."""

    def strategy(self) -> Strategy | dict[str, Strategy] | None:
        """Strategies that belong to the model."""
        return None

    def scoring_method(self) -> ScoringMethod | dict[str, ScoringMethod] | None:
        """Scoring that belongs to the model."""
        return None

    def auth_token(self) -> str | None:
        """Token for downloads, from ``--conf auth_token``; None if there is none."""
        return (self.conf or {}).get("auth_token") or None

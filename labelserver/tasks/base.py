"""The small classes an app author subclasses; torch-free, so that a strategy or a scoring method never waits for it.

Each class works even if a subclass does not run the base initialiser, and each fills in what an author left out: a
description defaults to the first line of the class's docstring, else to its name.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

from labelserver.contracts.datastore import Datastore

#: What an author may give as labels: names in order, or name -> voxel value in the result.
Labels: TypeAlias = "Sequence[str] | Mapping[str, int]"


class InferType(StrEnum):
    """What kind of answer a model gives; clients choose the panel that shows it by this text."""

    SEGMENTATION = "segmentation"
    ANNOTATION = "annotation"
    CLASSIFICATION = "classification"
    DEEPGROW = "deepgrow"
    DEEPEDIT = "deepedit"
    SCRIBBLES = "scribbles"
    DETECTION = "detection"
    OTHERS = "others"


def describe_class(cls: type) -> str:
    """First line of the docstring that `cls` itself wrote, else its name."""
    own = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    return own.splitlines()[0] if own else cls.__name__


def listed_labels(labels: Labels | str | None) -> list[str] | dict[str, int]:
    """Labels as an author may give them: None is empty, one name is a list of one, list and dict are kept (copied)."""
    if labels is None:
        return []
    if isinstance(labels, str):
        return [labels]
    return dict(labels) if isinstance(labels, Mapping) else list(labels)


def numbered_labels(labels: Labels | str | None) -> dict[str, int]:
    """Name -> voxel value. A dict keeps its numbers; a list counts from 1 and gives ``background`` 0 wherever it is.

    Clients need integers and an order (rules R-09 and R-27 of the HTTP contract).
    """
    known = listed_labels(labels)
    if isinstance(known, dict):
        return {str(name): int(value) for name, value in known.items()}
    foreground = [name for name in known if name.lower() != "background"]
    numbers = {name: value for value, name in enumerate(foreground, start=1)}
    return {name: numbers.get(name, 0) for name in known}


class InferTask(ABC):
    """A computation that answers for one image. Most authors subclass `BasicInferTask` instead."""

    def __init__(
        self,
        type: str = InferType.SEGMENTATION,
        labels: Labels | str | None = None,
        dimension: int = 3,
        description: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.type = type
        self.labels: list[str] | dict[str, int] = listed_labels(labels)
        self.dimension = dimension
        self.description = description or describe_class(self.__class__)
        self._config: dict[str, Any] = dict(config or {})

    def info(self) -> dict[str, Any]:
        """What ``/info/`` shows under ``models``. Subclasses may add keys; clients receive them."""
        return {
            "type": self.type,
            "labels": self.labels,
            "dimension": self.dimension,
            "description": self.description,
            "config": self.config(),
        }

    def config(self) -> dict[str, Any]:
        """Options with their defaults. A list offers choices, the first being the default."""
        return self._config

    def get_path(self, validate: bool = True) -> str | None:
        """The weight file in use, None if there is none."""
        return None

    @abstractmethod
    def is_valid(self) -> bool:
        """Whether the task can run and is to be listed."""

    @abstractmethod
    def __call__(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Answer: a file's path (or None, an array, a dict for pipelines) and a JSON object."""


class _Described:
    """A description that exists although no initialiser ran."""

    _description: str = ""

    @property
    def description(self) -> str:
        return self._description or describe_class(type(self))

    @description.setter
    def description(self, text: str) -> None:
        self._description = text


class TrainTask(_Described, ABC):
    """A computation that learns from the datastore's labels. Most authors subclass `BasicTrainTask` instead."""

    def __init__(self, description: str = "") -> None:
        self._description = description or ""

    def info(self) -> dict[str, Any]:
        """What ``/info/`` shows under ``trainers``."""
        return {"description": self.description, "config": self.config()}

    def config(self) -> dict[str, Any]:
        """Options with their defaults; a request overrides them."""
        return {}

    def stats(self) -> dict[str, Any]:
        """The last run's document, ``{}`` before the first."""
        return {}

    @abstractmethod
    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train and return the statistics."""


class Strategy(_Described, ABC):
    """Chooses the image that a person should label next."""

    def __init__(self, description: str = "") -> None:
        self._description = description or ""

    def info(self) -> dict[str, Any]:
        """What ``/info/`` shows under ``strategies``."""
        return {"description": self.description}

    @abstractmethod
    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | str | None:
        """None when nothing is left, else the image's id, or a dict with ``id`` and free keys for the client."""


class ScoringMethod(_Described, ABC):
    """Writes scores into image or label info, for a strategy to read.

    Keyword arguments of the constructor become attributes, as older apps expect: ``MyScoring(model=path)`` offers
    ``self.model`` and ``self.scoring_model_path``; ``device`` and ``num_samples`` have defaults.
    """

    device: str = "cpu"
    num_samples: int = 10

    def __init__(self, description: str = "", **options: Any) -> None:
        self._description = description or ""
        if "model" in options:
            options.setdefault("scoring_model_path", options["model"])
        for name, value in options.items():
            setattr(self, name, value)

    def info(self) -> dict[str, Any]:
        """What ``/info/`` shows under ``scoring``."""
        return {"description": self.description}

    @abstractmethod
    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Score and return a summary."""

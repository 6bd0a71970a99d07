"""Interactive models that other people made: their package is optional, and their weights have a licence of their own.

Nothing is fetched. A model is offered once three things are there: its package, its weights on this machine, and the
operator's word that the licence of the weights was read. What is missing is said in one sentence, and the rest of the
server does not mind.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from labelserver.domain.errors import ModelNotFound
from labelserver.tasks.base import InferType, Labels, numbered_labels
from labelserver.tasks.devices import device_list

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WeightsLicence:
    """What the makers of some weights allow."""

    name: str
    url: str
    says: str  #: in one sentence


class OptionalModel:
    """Mixed into a task: whether it can be offered, and why not."""

    #: name of the module that must be importable; "" if none is needed
    package: ClassVar[str] = ""
    #: of this project, that installs it
    extra: ClassVar[str] = ""
    licence: ClassVar[WeightsLicence]

    def __init__(self, weights: str | Path | None, *, licence_accepted: bool) -> None:
        self.weights = Path(weights) if weights else None
        self.licence_accepted = licence_accepted
        problem = self.problem()
        if problem:
            logger.warning("%s is not offered: %s", type(self).__name__, problem)

    def problem(self) -> str | None:
        """One sentence about what is missing; None if nothing is."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"The package {self.package} is not installed. Install it: pip install 'labelserver[{self.extra}]'"
        if self.weights is None:
            return "No weights are named; they are not fetched for you."
        if not self.weights.exists():
            return f"The weights {self.weights.name} do not exist."
        if not self.licence_accepted:
            return (
                f"Its weights have the licence {self.licence.name} ({self.licence.url}). {self.licence.says} "
                "Say that you accept it to use them."
            )
        return None

    def require(self) -> Path:
        """The weights. Raises `ModelNotFound` with the sentence of `problem`."""
        problem = self.problem()
        if problem or self.weights is None:
            raise ModelNotFound(f"{type(self).__name__} cannot answer. {problem}")
        return self.weights

    def licence_info(self) -> dict[str, Any]:
        """What ``/info/`` shows, before anybody uses the model."""
        return {"weights_licence": {"name": self.licence.name, "url": self.licence.url, "says": self.licence.says}}


def foreground(labels: Labels) -> dict[str, int]:
    """Name -> value, without background."""
    return {name: value for name, value in numbered_labels(labels).items() if value > 0}


def click_task_options(labels: Labels, description: str, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """What every such task hands to `InferTask`."""
    return {
        "type": InferType.DEEPGROW,
        "labels": foreground(labels),
        "dimension": 3,
        "description": description,
        "config": {"device": device_list(), **(config or {})},
    }

"""labelserver: an interactive active-learning labeling server for medical images.

The names an app author imports. They are resolved when first used (PEP 562), so that importing a server room never
loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelserver.app.label_app import LabelApp
    from labelserver.app.label_app import LabelApp as MONAILabelApp
    from labelserver.contracts.datastore import Datastore, DefaultLabelTag
    from labelserver.tasks.base import InferTask as AbstractInferTask
    from labelserver.tasks.base import InferType, ScoringMethod, Strategy, TrainTask
    from labelserver.tasks.infer import BasicInferTask
    from labelserver.tasks.infer import BasicInferTask as InferTask
    from labelserver.tasks.train import BasicTrainTask, Context

__version__ = "0.1.0"

_HOMES = {
    "LabelApp": ("labelserver.app.label_app", "LabelApp"),
    "MONAILabelApp": ("labelserver.app.label_app", "LabelApp"),
    "Datastore": ("labelserver.contracts.datastore", "Datastore"),
    "DefaultLabelTag": ("labelserver.contracts.datastore", "DefaultLabelTag"),
    "AbstractInferTask": ("labelserver.tasks.base", "InferTask"),
    "InferTask": ("labelserver.tasks.infer", "BasicInferTask"),
    "BasicInferTask": ("labelserver.tasks.infer", "BasicInferTask"),
    "InferType": ("labelserver.tasks.base", "InferType"),
    "TrainTask": ("labelserver.tasks.base", "TrainTask"),
    "BasicTrainTask": ("labelserver.tasks.train", "BasicTrainTask"),
    "Context": ("labelserver.tasks.train", "Context"),
    "Strategy": ("labelserver.tasks.base", "Strategy"),
    "ScoringMethod": ("labelserver.tasks.base", "ScoringMethod"),
}

__all__ = [
    "AbstractInferTask",
    "BasicInferTask",
    "BasicTrainTask",
    "Context",
    "Datastore",
    "DefaultLabelTag",
    "InferTask",
    "InferType",
    "LabelApp",
    "MONAILabelApp",
    "ScoringMethod",
    "Strategy",
    "TrainTask",
    "__version__",
]


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'labelserver' has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)

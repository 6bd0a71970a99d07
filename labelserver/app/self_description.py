"""The ``/info/`` document as far as the app alone knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labelserver.tasks.base import InferTask, Labels
from labelserver.tasks.prompted_infer import interactive_info


def app_info(
    name: str, description: str, version: str, labels: Labels, tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Name, labels and tasks; models that say they are not valid are left out.

    Args:
        name: of the app.
        description: of the app.
        version: of the app.
        labels: the app's own; models' labels follow in order, each name once (R-08, R-13).
        tasks: kind -> name -> task with ``info()``.
    """
    models = {key: _model_info(task) for key, task in tasks["models"].items() if task.is_valid()}
    names = ordered_names(labels)
    for model in models.values():
        names.extend(n for n in ordered_names(model.get("labels") or []) if n not in names and n != "background")
    return {
        "name": name,
        "description": description,
        "version": version,
        "labels": names,
        "models": models,
        "trainers": {key: task.info() for key, task in tasks["trainers"].items()},
        "strategies": {key: task.info() for key, task in tasks["strategies"].items()},
        "scoring": {key: task.info() for key, task in tasks["scoring"].items()},
    }


def _model_info(task: InferTask) -> dict[str, Any]:
    """What a model says about itself, and which prompts it takes in interactive sessions."""
    info = task.info()
    interactive = interactive_info(task)
    return info if interactive is None else {**info, "interactive": interactive}


def ordered_names(labels: Labels) -> list[str]:
    """Names of a list as they stand, of a dict by their value."""
    if isinstance(labels, Mapping):
        return [str(name) for name, _ in sorted(labels.items(), key=lambda item: item[1])]
    return [str(name) for name in labels]

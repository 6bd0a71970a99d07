"""Which trainer writes the versions that a model reads.

A model is a lineage: a trainer and the infer tasks that name its `publish_path` among their weight files belong
together. It bears the name of the infer task; the trainer's own, if one of that name takes part or none does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def link_models(infers: Mapping[str, Any], trainers: Mapping[str, Any]) -> dict[str, str]:
    """Names of trainers and of the infer tasks that read from them -> lineage; trainers learn theirs (``lineage``)."""
    lineages: dict[str, str] = {}
    for trainer_name, trainer in trainers.items():
        published = getattr(trainer, "_publish_path", None)
        readers = [name for name, task in infers.items() if published and _same_file(published, _paths(task))]
        lineage = trainer_name if trainer_name in readers or not readers else readers[0]
        lineages[trainer_name] = lineage
        for reader in readers:
            lineages.setdefault(reader, lineage)
        if hasattr(trainer, "lineage") and not trainer.lineage:
            trainer.lineage = lineage
    return lineages


def lineage_of_infer(model: str, lineages: Mapping[str, str]) -> str:
    """The lineage that a model reads from; "" if no trainer writes it."""
    return lineages.get(model, "")


def _paths(task: Any) -> list[str]:
    given = getattr(task, "path", None)
    several = given if isinstance(given, list | tuple) else [given]
    return [str(path) for path in several if path]


def _same_file(published: Any, paths: list[str]) -> bool:
    target = Path(str(published)).absolute()
    return any(Path(path).absolute() == target for path in paths)

"""A run laid down at a step, and taken up again by another process.

The file holds tensors and plain values only, so it loads with ``weights_only=True``. Random generators are not in it:
their numbers follow from the seed and the step (see `train_seeds`). The cases are in it, because labels may have been
added or removed since; the run goes on with those it began with.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.json_types import JsonObject
from labelserver.domain.models import CaseMetrics
from labelserver.tasks.train_context import BadCase, Case, Context
from labelserver.tasks.train_files import save_torch

FILE_NAME = "training-checkpoint.pt"
FORMAT = 1


@dataclass
class RunState:
    """What a run knows beyond its engines and must not forget."""

    baseline: dict[str, float] = field(default_factory=dict)
    baseline_version: int | None = None
    baseline_cases: CaseMetrics = field(default_factory=dict)
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_cases: CaseMetrics = field(default_factory=dict)
    best_epoch: int = 0  #: 0: nothing saved yet
    best_training_epoch: int = 0
    curves: list[JsonObject] = field(default_factory=list)
    validation_due: bool = False  #: stopped within the validation of the last finished epoch
    loss_so_far: list[float] = field(default_factory=lambda: [0.0, 0])  #: sum and count within the epoch laid down
    seconds_spent: float = 0.0  #: by the processes that ran it before it was laid down


@dataclass(frozen=True, slots=True)
class Resumed:
    """A checkpoint that was read."""

    document: dict[str, Any]
    run_id: str
    seed: int
    cases: dict[str, list[Case]] | None  #: "train" and "val"; None if the app's cases are no JSON
    bad_cases: list[BadCase]
    state: RunState


def stateful_parts(handlers: list[Any]) -> list[Any]:
    """Learning rate schedulers and early stopping among the handlers of a run, in their order."""
    parts = [getattr(handler, "lr_scheduler", handler) for handler in handlers]
    return [part for part in parts if hasattr(part, "state_dict") and hasattr(part, "load_state_dict")]


def write(path: Path, context: Context, parts: list[Any], state: RunState) -> None:
    """Raises `DiskFull`, `StorageFailed`; an earlier checkpoint is then still whole."""
    trainer, evaluator = context.trainer, context.evaluator
    about = {
        "run_id": context.run_id,
        "seed": context.seed,
        "cases": _json_cases(context),
        "bad_cases": [case.to_json() for case in context.bad_cases],
        "state": _plain(vars(state)),
    }
    document = {
        "format": FORMAT,
        "about": json.dumps(about),
        "network": context.network.state_dict(),
        "optimizer": _plain(context.optimizer.state_dict()),
        "scaler": _plain(trainer.scaler.state_dict()) if trainer.scaler is not None else None,
        "parts": [_plain(part.state_dict()) for part in parts],
        "iteration": trainer.state.iteration,
        "epoch_length": trainer.state.epoch_length,
        "engines": [_best_of(engine) for engine in (trainer, evaluator) if engine is not None],
    }
    save_torch(path, document)


def read(path: Path) -> Resumed | None:
    """None if there is no checkpoint. Raises `StoredDataInvalid` if it cannot be read."""
    if not path.is_file():
        return None
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        about = json.loads(document["about"])
        return Resumed(
            document=document,
            run_id=about["run_id"],
            seed=about["seed"],
            cases=about["cases"],
            bad_cases=[BadCase(case["image"], case["reason"]) for case in about["bad_cases"]],
            state=RunState(**about["state"]),
        )
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, LookupError, TypeError, ValueError) as error:
        raise StoredDataInvalid(
            f"The checkpoint {path.name} of this training cannot be read, so it cannot go on. Start a new one."
        ) from error


def restore(resumed: Resumed, context: Context, parts: list[Any]) -> None:
    """Put network, optimizer, schedulers and engines where the checkpoint was written."""
    document, trainer = resumed.document, context.trainer
    context.network.load_state_dict(document["network"])
    context.optimizer.load_state_dict(document["optimizer"])
    if trainer.scaler is not None and document["scaler"] is not None:
        trainer.scaler.load_state_dict(document["scaler"])
    for part, saved in zip(parts, document["parts"], strict=True):
        part.load_state_dict(saved)
    trainer.state.iteration = document["iteration"]
    trainer.state.epoch = document["iteration"] // max(1, document["epoch_length"] or 1)
    for engine, saved in zip((trainer, context.evaluator), document["engines"], strict=False):
        engine.state.best_metric, engine.state.best_metric_epoch = float(saved[0]), int(saved[1])


def _json_cases(context: Context) -> dict[str, list[Case]] | None:
    """The cases as JSON has them. An app may hold arrays in its cases; then a resumed run asks the app again."""
    cases = {"train": context.train_datalist, "val": context.val_datalist}
    try:
        known: dict[str, list[Case]] = json.loads(json.dumps(cases, default=_path_text))
    except TypeError:
        return None
    return known


def _path_text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)


def _best_of(engine: Any) -> list[float]:
    return [float(engine.state.best_metric), int(engine.state.best_metric_epoch)]


def _plain(value: Any) -> Any:
    """Containers, numbers, text and tensors; numpy scalars become Python's, functions and objects are left out."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if not _foreign(part)}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _foreign(value: Any) -> bool:
    known = (dict, list, tuple, bool, int, float, str, torch.Tensor, np.generic)
    return value is not None and not isinstance(value, known)

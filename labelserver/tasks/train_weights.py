"""Where a training starts from, what its result is measured against, and how the result becomes a model version."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from labelserver.contracts.model_store import Candidate, VersionWriter
from labelserver.contracts.progress import Progress
from labelserver.domain.errors import LabelServerError
from labelserver.domain.json_types import JsonObject
from labelserver.storage.checksums import sha256_of
from labelserver.tasks.network_cache import load_into, read_state
from labelserver.tasks.train_checkpoint import RunState
from labelserver.tasks.train_context import Context
from labelserver.tasks.train_files import RunFiles, save_version_files
from labelserver.tasks.train_metrics import plain_numbers

logger = logging.getLogger(__name__)


def last_existing(paths: str | Sequence[str] | None) -> Path | None:
    """The convention for weight paths ``[pretrained, published]``: the last that exists."""
    listed = [paths] if isinstance(paths, str) else list(paths or [])
    return next((Path(path) for path in reversed(listed) if path and Path(path).is_file()), None)


def start_from(network: Any, path: Path, key: str, *, strict: bool) -> int:
    """Load weights to continue from. Without `strict` only those whose name and shape fit are taken.

    Returns:
        How many parameters were taken.

    Raises:
        TaskFailed: no weight file, or it does not fit although `strict`.
    """
    state = read_state(path, key)
    if strict:
        load_into(network, state, True, path.name)
        return len(state)
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    if len(fitting) < len(own):
        logger.warning("weights fit in part", extra={"taken": len(fitting), "of": len(own)})
    return len(fitting)


def measured_baseline(context: Context, evaluator: Any, path: Path | None, key: str) -> dict[str, float]:
    """The metrics of the weights in use on this run's held-out cases; ``{}`` if they do not fit the network.

    Args:
        evaluator: runs the validation once, on `context.network`, without the handlers of the run.
    """
    if path is None:
        return {}
    before = deepcopy(context.network.state_dict())
    try:
        load_into(context.network, read_state(path, key, str(context.device)), True, path.name)
        evaluator.run()
    except LabelServerError as error:
        logger.warning("the weights in use cannot be measured: %s", error.message)
        return {}
    finally:
        context.network.load_state_dict(before)
    return plain_numbers(evaluator.state.metrics)


def label_checksums(context: Context) -> JsonObject:
    """Image id -> SHA-256 of the label file it was trained on."""
    found: JsonObject = {}
    for case in context.train_datalist:
        label = case.get("label")
        if isinstance(label, str) and Path(label).is_file():
            found[context.image_id_of(case)] = sha256_of(Path(label))
    return found


def add_version(
    context: Context,
    run: RunState,
    files: RunFiles,
    writer: VersionWriter,
    progress: Progress,
    *,
    model: str,
    publish_path: Path | None,
    key: str,
) -> int:
    """Hand the best weights of the run to the model store, and tell the server that a candidate is ready."""
    deciding = context.evaluator or context.trainer
    held_out = tuple(sorted({context.image_id_of(case) for case in context.val_datalist}))
    folder = Path(tempfile.mkdtemp(prefix="version-", dir=context.output_dir))
    try:
        number = writer.add(
            Candidate(
                model=model,
                files=save_version_files(folder, _tensors(read_state(files.best, key))),
                job_id=progress.job_id,
                publish_path=publish_path,
                key_metric=deciding.state.key_metric_name or "",
                metrics=run.best_metrics,
                baseline_version=run.baseline_version,
                baseline=run.baseline,
                held_out=held_out if context.evaluator is not None else (),
                labels=label_checksums(context),
                extra=_about(context, run),
            )
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    progress.version_ready(model, number)
    return number


def _tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _about(context: Context, run: RunState) -> JsonObject:
    """Configuration and course of the run."""
    request = {
        name: value
        for name, value in context.request.items()
        if value is None or isinstance(value, bool | int | float | str)
    }
    return {
        "request": request,
        "seed": context.seed,
        "device": str(context.device),
        "network": type(context.network).__name__,
        "parameters": sum(p.numel() for p in context.network.parameters()),
        "best_epoch": run.best_epoch,
        "duration_s": round(time.time() - context.start_ts, 1),
        "curves": run.curves,
        "left_out": [case.to_json() for case in context.bad_cases],
    }

"""Where a training starts from, what its result is measured against, and how the result becomes a model version."""

from __future__ import annotations

import hashlib
import inspect
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
from labelserver.domain.models import CaseMetrics, OutputLabel
from labelserver.storage.checksums import sha256_of
from labelserver.tasks.network_cache import load_into, read_state
from labelserver.tasks.train_cases import values_by_case
from labelserver.tasks.train_checkpoint import RunState
from labelserver.tasks.train_context import Case, Context
from labelserver.tasks.train_files import RunFiles, save_version_files
from labelserver.tasks.train_metrics import plain_numbers
from labelserver.tasks.train_outputs import as_state, counts_differ, grown

logger = logging.getLogger(__name__)

Outputs = Sequence[OutputLabel]


def last_existing(paths: str | Sequence[str] | None) -> Path | None:
    """The convention for weight paths ``[pretrained, published]``: the last that exists."""
    listed = [paths] if isinstance(paths, str) else list(paths or [])
    return next((Path(path) for path in reversed(listed) if path and Path(path).is_file()), None)


def start_from(network: Any, path: Path, key: str, *, strict: bool, before: Outputs = (), after: Outputs = ()) -> int:
    """Load weights to continue from. Without `strict` only those whose name and shape fit are taken.

    Args:
        network: is changed.
        path: the weight file.
        key: where a checkpoint file keeps the state.
        strict: refuse weights that fit only in part, unless it is the classes that changed.
        before: what the channels of the weights stand for; () if nobody knows.
        after: what those of the network stand for. Classes that both know keep their weights.

    Returns:
        How many parameters were taken.

    Raises:
        TaskFailed: no weight file, or it does not fit although `strict`.
    """
    state = read_state(path, key)
    changed = bool(before and after) and counts_differ(before, after)
    if strict and not changed:
        load_into(network, state, True, path.name)
        return len(state)
    own = as_state(network)
    fitting = grown(_tensors(state), own, before, after)
    load_into(network, fitting, strict, path.name)
    if len(fitting) < len(own):
        logger.warning("weights fit in part", extra={"taken": len(fitting), "of": len(own)})
    return len(fitting)


def measured_baseline(
    context: Context, evaluator: Any, path: Path | None, key: str, before: Outputs
) -> tuple[dict[str, float], CaseMetrics]:
    """What the weights in use reach on this run's held-out cases: all metrics, and those of each case.

    Both are empty if the weights do not fit the network. Classes that they do not know are never their answer.

    Args:
        context: with network, cases and what the network's channels stand for.
        evaluator: runs the validation once, on `context.network`, without the handlers of the run.
        path: of the weights.
        key: where a checkpoint file keeps the state.
        before: what the channels of the weights stand for; () if nobody knows.
    """
    if path is None:
        return {}, {}
    kept = deepcopy(context.network.state_dict())
    try:
        state = read_state(path, key, str(context.device))
        if before and context.outputs and counts_differ(before, context.outputs):
            state = dict(grown(_tensors(state), as_state(context.network), before, context.outputs, never_new=True))
        load_into(context.network, state, True, path.name)
        evaluator.run()
    except LabelServerError as error:
        logger.warning("the weights in use cannot be measured: %s", error.message)
        return {}, {}
    finally:
        context.network.load_state_dict(kept)
    return plain_numbers(evaluator.state.metrics), values_by_case(context, evaluator.state)


def label_checksums(context: Context, cases: Sequence[Case]) -> JsonObject:
    """Image id -> SHA-256 of the revision of its label; of the case's file, where the store keeps no revisions."""
    found: JsonObject = {}
    for case in cases:
        image_id, label = context.image_id_of(case), case.get("label")
        if image_id in context.revisions:
            found[image_id] = context.revisions[image_id].sha256
        elif isinstance(label, str) and Path(label).is_file():
            found[image_id] = sha256_of(Path(label))
    return found


def network_hash(network: Any) -> str:
    """64 hex digits over the network's code and the names, shapes and types of its parameters."""
    digest = hashlib.sha256()
    for cls in sorted(
        {type(module) for module in network.modules()}, key=lambda cls: f"{cls.__module__}.{cls.__name__}"
    ):
        digest.update(f"{cls.__module__}.{cls.__qualname__}\0".encode())
        source = inspect.getsourcefile(cls) if cls.__module__ != "__main__" else None
        if source is not None and Path(source).is_file():
            digest.update(sha256_of(Path(source)).encode())
    for name, value in as_state(network).items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\0".encode())
    return digest.hexdigest()


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
    learned = label_checksums(context, context.train_datalist)
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
                cases=run.best_cases,
                baseline_version=run.baseline_version,
                baseline=run.baseline,
                baseline_cases=run.baseline_cases,
                held_out=held_out if context.evaluator is not None else (),
                held_out_labels=label_checksums(context, context.val_datalist),
                labels=learned,
                revisions={
                    image_id: context.revisions[image_id].number
                    for image_id in learned
                    if image_id in context.revisions
                },
                network_hash=network_hash(context.network),
                outputs=context.outputs,
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

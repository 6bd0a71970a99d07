"""TensorBoard and MLflow, when they are installed; neither is needed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from monai.handlers import MLFlowHandler, TensorBoardStatsHandler, from_engine

from labelserver.tasks.train_context import Context

MLFLOW = "mlflow"
NO_TRACKING = "None"

#: steps between two written losses: each one waits for the device.
_STEPS_PER_LOSS = 10


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def tracking_choices(wanted: str | None) -> list[str]:
    """The drop-down of a trainer's config, default first: MLflow only where it is wanted and installed."""
    if not is_installed(MLFLOW):
        return [NO_TRACKING]
    return [MLFLOW, NO_TRACKING] if wanted == MLFLOW else [NO_TRACKING, MLFLOW]


def training_handlers(context: Context) -> list[Any]:
    """Writers of loss and metrics for the trainer."""
    return _handlers(context, "train_loss", from_engine(["loss"], first=True), _STEPS_PER_LOSS)


def validation_handlers(context: Context) -> list[Any]:
    """Writers of metrics for the evaluator, at the trainer's epochs."""
    return _handlers(context, "val", _nothing, 0)


def _handlers(context: Context, tag: str, output: Any, every: int) -> list[Any]:
    found: list[Any] = []
    if is_installed("tensorboard"):
        found.append(
            TensorBoardStatsHandler(
                log_dir=context.events_dir, tag_name=tag, output_transform=output, iteration_log=every or False
            )
        )
    if context.tracking == MLFLOW and is_installed(MLFLOW):
        found.append(
            MLFlowHandler(
                tracking_uri=context.tracking_uri or (Path(context.output_dir) / "mlruns").as_uri(),
                experiment_name=context.tracking_experiment_name or str(context.request.get("model") or "labelserver"),
                run_name=context.tracking_run_name or f"run_{context.run_id}",
                tag_name=tag,
                output_transform=output,
                iteration_log=(lambda engine, step: step % every == 0) if every else False,
            )
        )
    return found


def _nothing(output: Any) -> None:
    """An evaluator's outputs are masks; only its metrics are written."""

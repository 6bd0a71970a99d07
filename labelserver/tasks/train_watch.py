"""What happens beside the arithmetic of a training: progress for people, best weights, statistics, stop and checkpoint.

`StepWatch` looks at each step, `EpochWatch` at each finished epoch, after validation and after the app's own handlers.
A stop is taken between two steps. If it comes within a validation, that is broken off and made up for on resuming.
Reading a loss waits for the device, so on a GPU it is read once a second and at an epoch's end only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import set_track_meta

from labelserver.contracts.progress import Progress
from labelserver.domain.errors import TaskFailed
from labelserver.domain.json_types import JsonObject
from labelserver.storage import atomic
from labelserver.storage.memory import resident_bytes
from labelserver.tasks.train_cases import values_by_case
from labelserver.tasks.train_checkpoint import RunState
from labelserver.tasks.train_context import Context
from labelserver.tasks.train_data import CaseDataset
from labelserver.tasks.train_files import RunFiles, save_torch, state_of, stats_of
from labelserver.tasks.train_metrics import plain_numbers
from labelserver.tasks.train_seeds import mixed, seed_libraries

#: A checkpoint that took a second is followed by so many seconds without one.
_CHECKPOINT_SHARE = 50

#: seconds between two progress reports within an epoch; a bar that moves once a second feels alive.
REPORT_EVERY_S = 1.0


class StepWatch:
    """Seeds each step, sums the loss, reports, and ends the run at a step when that is asked for.

    Args:
        context: with trainer (and evaluator) built.
        progress: who listens.
        lay_down: writes the checkpoint: now and then, and before the run ends at a step.
        every_s: seconds between two checkpoints, what a kill may cost; 0: after each step.
    """

    def __init__(self, context: Context, progress: Progress, lay_down: Callable[[], None], every_s: float) -> None:
        self._context, self._progress, self._lay_down = context, progress, lay_down
        self._every_s = every_s
        self._checkpoint_due = time.monotonic() + every_s
        self.stopped = False
        self.validation_stopped = False
        self._loss_sum: Any = 0.0
        self._loss_count = 0
        self._loss_before: tuple[float, int] = (0.0, 0)  #: of the first epoch's steps before this process took it up
        self._last_report = -math.inf  # the first step is told at once: it shows people that it runs
        self._first_step: tuple[int, float] | None = None

    def attach(self) -> None:
        trainer, evaluator = self._context.trainer, self._context.evaluator
        trainer.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        trainer.add_event_handler(Events.ITERATION_STARTED, self._begin_step)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        if evaluator is not None:
            evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._end_validation_step)

    def take_loss(self) -> float | None:
        """Mean loss of the epoch's steps so far; None if the app's step reports none."""
        return float(self._loss_sum) / self._loss_count if self._loss_count else None

    @property
    def loss_so_far(self) -> tuple[float, int]:
        """Sum and number of the losses of this epoch's steps; (0, 0) between two epochs."""
        state = self._context.trainer.state
        between = state.iteration % max(1, state.epoch_length or 1) == 0
        return (0.0, 0) if between else (float(self._loss_sum), self._loss_count)

    def go_on_from(self, loss_so_far: tuple[float, int]) -> None:
        """The run is taken up within an epoch."""
        self._loss_before = loss_so_far

    def stop(self) -> None:
        """Lay the run down and end it."""
        self.stopped = True
        self._lay_down()
        self._progress.log(f"stopped at step {self._context.trainer.state.iteration}; checkpoint written")
        self._context.trainer.terminate()

    def lay_down_if_due(self) -> None:
        """Write a checkpoint if the last one is old; large ones less often, so that they cost a fiftieth at most."""
        begun = time.monotonic()
        if begun < self._checkpoint_due:
            return
        self._lay_down()
        spent = time.monotonic() - begun
        self._checkpoint_due = begun + spent + (max(self._every_s, _CHECKPOINT_SHARE * spent) if self._every_s else 0.0)

    def _begin_epoch(self, engine: Any) -> None:
        (self._loss_sum, self._loss_count), self._loss_before = self._loss_before, (0.0, 0)
        dataset = getattr(engine.data_loader, "dataset", None)
        if isinstance(dataset, CaseDataset):
            dataset.epoch = engine.state.epoch

    def _begin_step(self, engine: Any) -> None:
        self._progress.yield_device(str(self._context.device))
        seed_libraries(mixed(self._context.seed, engine.state.iteration))
        if self._first_step is None:
            self._first_step = (engine.state.iteration - 1, time.monotonic())

    def _end_step(self, engine: Any) -> None:
        now = time.monotonic()
        due = now - self._last_report >= REPORT_EVERY_S
        loss = _loss_in(engine.state.output)
        if loss is not None:
            self._loss_sum = self._loss_sum + loss
            self._loss_count += 1
            if due or self._context.device.type == "cpu":
                self._check(float(loss), engine.state.iteration)
        if due:
            self._last_report = now
            self._progress.report(self.where())
        last_of_epoch = engine.state.iteration % engine.state.epoch_length == 0
        if last_of_epoch:
            return
        if self._progress.should_stop():
            self.stop()
        else:
            self.lay_down_if_due()

    def _end_validation_step(self, engine: Any) -> None:
        self._progress.yield_device(str(self._context.device))
        if self._progress.should_stop():
            self.validation_stopped = True
            engine.terminate()

    def _check(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise TaskFailed(
                f"The loss is no number any more at step {step}. Lower the learning rate, and look for images with "
                "broken intensities.",
                reason="nan_loss",
            )

    def where(self) -> JsonObject:
        """The progress document: where the run is, and when it will end."""
        context, state = self._context, self._context.trainer.state
        total = (state.epoch_length or 0) * context.max_epochs
        found: JsonObject = {
            "epoch": state.epoch,
            "total_epochs": context.max_epochs,
            "step": state.iteration,
            "total_steps": total,
            "device": str(context.device),
            "memory_bytes": resident_bytes(),
        }
        if context.device.type == "cuda":
            found["device_memory_bytes"] = torch.cuda.max_memory_allocated(context.device)
        loss = self.take_loss()
        if loss is not None and math.isfinite(loss):
            found["loss"] = loss
        groups = getattr(context.optimizer, "param_groups", None)
        if groups:
            found["learning_rate"] = float(groups[0]["lr"])
        if self._first_step is not None and state.iteration > self._first_step[0]:
            begun, since = self._first_step
            per_step = (time.monotonic() - since) / (state.iteration - begun)
            found["time_left_s"] = round(per_step * max(0, total - state.iteration), 1)
        return found


class EpochWatch:
    """Keeps the best weights and tells the world, after each epoch.

    Args:
        publish_path: where a better network is put at once; None if a model store decides about it after the run.
        stats_paths: files that get the statistics document.
    """

    def __init__(
        self,
        context: Context,
        steps: StepWatch,
        progress: Progress,
        files: RunFiles,
        run_state: RunState,
        *,
        publish_path: Path | None,
        stats_paths: list[Path],
    ) -> None:
        self._context, self._steps, self._progress = context, steps, progress
        self._files, self._run_state = files, run_state
        self._publish_path, self._stats_paths = publish_path, stats_paths

    def attach(self) -> None:
        self._context.trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """After an epoch, and once more on resuming if its validation was broken off."""
        self._run_state.validation_due = self._steps.validation_stopped
        if self._steps.validation_stopped:
            self._steps.stop()
            return
        self._save_best()
        self._files.save_checkpoint(self._context.network, engine.state.epoch)
        self.write_stats(finished=False)
        self._tell()
        if engine.state.epoch >= self._context.max_epochs or engine.should_terminate:
            return
        if self._progress.should_stop():
            self._steps.stop()
        else:
            self._steps.lay_down_if_due()

    def write_stats(self, *, finished: bool) -> JsonObject:
        stats = stats_of(self._context, finished=finished)
        for path in self._stats_paths:
            atomic.write_json(path, stats)
        return stats

    def _save_best(self) -> None:
        context, run = self._context, self._run_state
        trainer, epoch = context.trainer.state, context.trainer.state.epoch
        deciding = context.evaluator.state if context.evaluator is not None else trainer
        if deciding.key_metric_name is None or deciding.best_metric_epoch == epoch:
            save_torch(self._files.best, state_of(context.network))
            run.best_epoch = epoch
            run.best_metrics = plain_numbers(deciding.metrics)
            run.best_cases = values_by_case(context, deciding) if context.evaluator is not None else {}
            if self._publish_path is not None:
                atomic.copy_file(self._files.best, self._publish_path)
        if context.evaluator is not None and trainer.best_metric_epoch == epoch:
            save_torch(self._files.best_training, state_of(context.network))
            run.best_training_epoch = epoch

    def _tell(self) -> None:
        context = self._context
        found = self._steps.where()
        numbers = {**plain_numbers(context.trainer.state.metrics), **self._validated()}
        deciding = context.evaluator or context.trainer
        best = plain_numbers({"best": deciding.state.best_metric if self._run_state.best_epoch else None})
        found |= {"metrics": dict(numbers), "best_metric": best.get("best", 0.0)}
        self._progress.epoch_done({**found, "seconds": round(time.time() - context.start_ts, 3)})
        self._run_state.curves.append(
            {key: found[key] for key in ("epoch", "loss", "learning_rate", "metrics") if key in found}
        )
        parts = [f"epoch {found['epoch']}/{found['total_epochs']}"]
        if "loss" in found:
            parts.append(f"loss {found['loss']:.4f}")
        parts += [f"{name} {value:.4f}" for name, value in numbers.items()]
        self._progress.log(", ".join(parts))

    def _validated(self) -> dict[str, float]:
        """The validation's metrics, if this epoch had one."""
        evaluator = self._context.evaluator
        if evaluator is None or evaluator.state.epoch != self._context.trainer.state.epoch:
            return {}
        return plain_numbers(evaluator.state.metrics)


def _loss_in(output: Any) -> Any:
    """The loss in a trainer's output: a tensor in a dict, or a number in each of a list of dicts after decollation."""
    first = output[0] if isinstance(output, list) and output else output
    loss = first.get("loss") if isinstance(first, dict) else None
    return loss.detach() if isinstance(loss, torch.Tensor) else loss


class MetaTracking:
    """Switch MONAI's metadata tracking off inside a block; it is a global of the library."""

    def __init__(self, *, off: bool) -> None:
        self._off = off

    def __enter__(self) -> None:
        if self._off:
            set_track_meta(False)

    def __exit__(self, *_: object) -> None:
        if self._off:
            set_track_meta(True)

"""One run of a bundle's ``train.json``: set up, watched, measured before and after, and kept as a candidate version.

What the bundle in use and what the run reached are both measured here, on the same held-out cases, by the bundle's own
evaluator without its handlers. The bundle's savers write into the run's folder; where a bundle insists on writing over
the weights in use, these are put back, because only the server publishes.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from labelserver.contracts.model_store import Candidate, VersionWriter, current_version_writer
from labelserver.contracts.progress import Progress, current_progress
from labelserver.domain.errors import InvalidParams, LabelServerError, TaskFailed
from labelserver.domain.json_types import JsonObject
from labelserver.storage import atomic
from labelserver.storage.checksums import sha256_of
from labelserver.tasks.bundle_scripts import scripts_of
from labelserver.tasks.network_cache import load_into, read_state
from labelserver.tasks.train_files import save_torch, save_version_files, state_of
from labelserver.tasks.train_metrics import plain_numbers

logger = logging.getLogger(__name__)

#: seconds between two progress reports within an epoch
REPORT_EVERY_S = 1.0


class BundleNames(Protocol):
    """The names of a bundle's parts that a run needs (`BundleConstants`)."""

    def key_train_handlers(self) -> str: ...

    def key_train_dataset_data(self) -> str: ...

    def key_validate_dataset_data(self) -> str: ...

    def key_checkpoint_folder(self) -> str: ...


class TrainedBundle(Protocol):
    """What a run needs of its task (`BundleTrainTask`)."""

    bundle_path: str
    bundle_config_path: str
    bundle_metadata_path: str
    bundle_config: dict[str, Any]
    model_dict_key: str
    lineage: str
    _publish_path: str

    @property
    def const(self) -> BundleNames: ...


class BundleRun:
    """See the module's words.

    Args:
        task: whose bundle it is.
        request: the task's options under what was asked.
        overrides: id -> value, put over the bundle's configuration.
    """

    def __init__(self, task: TrainedBundle, request: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
        self._task = task
        self._request = request
        self._overrides = dict(overrides)
        self._progress: Progress = current_progress()
        self._writer: VersionWriter | None = current_version_writer()
        self._model = task.lineage or str(request.get("model") or Path(task.bundle_path).name)

    def train(self) -> dict[str, Any]:
        """Run. Raises `TaskFailed` for what the bundle's own code raises."""
        bundle, began = Path(self._task.bundle_path), time.time()
        folder = Path(tempfile.mkdtemp(prefix="bundle-", dir=self._progress.folder))
        try:
            with scripts_of(bundle), self._bundle_errors():
                baseline_version, baseline = self._measure_baseline()
                with _kept(Path(self._task._publish_path), folder / "before.pt"):
                    watch = self._run(folder)
                    best = self._best(folder, watch)
                metrics, key_metric = self._measured(best)
            if watch.stopped:
                return {"stopped": True, "model": self._model}
            extra: JsonObject = {
                "request": {k: v for k, v in self._request.items() if isinstance(v, str | int | float | bool)},
                "bundle": bundle.name,
                "duration_s": round(time.time() - began, 1),
                "curves": watch.curves,
            }
            held_out = self._held_out()
            candidate = Candidate(
                model=self._model,
                files=save_version_files(folder, best),
                job_id=self._progress.job_id,
                publish_path=Path(self._task._publish_path),
                key_metric=key_metric,
                metrics=metrics,
                baseline_version=baseline_version,
                baseline=baseline,
                held_out=held_out,
                labels=self._labels(),
                extra=extra,
            )
            return self._kept_version(candidate)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, folder: Path) -> _Watch:
        names = self._task.const
        led_away = {names.key_checkpoint_folder(): str(folder)} if self._has(names.key_checkpoint_folder()) else {}
        workflow = self._workflow(led_away)
        trainer = workflow.trainer
        watch = _Watch(trainer, getattr(workflow, "evaluator", None), self._progress)
        watch.attach()
        self._progress.log(f"training the bundle {Path(self._task.bundle_path).name}")
        workflow.run()
        workflow.finalize()
        return watch

    def _best(self, folder: Path, watch: _Watch) -> dict[str, torch.Tensor]:
        """What the bundle's saver kept as best, else the network as it is at the end."""
        published = Path(self._task._publish_path)
        before = folder / "before.pt"
        for path in (folder / published.name, published):
            changed = path.is_file() and (path != published or not _same(path, before))
            if changed:
                return _tensors(read_state(path, self._task.model_dict_key))
        return state_of(watch.trainer.network)

    def _measure_baseline(self) -> tuple[int | None, dict[str, float]]:
        """The version in use and its metrics on the held-out cases; empty if there is none or it does not fit."""
        current = self._writer.current(self._model) if self._writer is not None else None
        path = Path(self._task._publish_path)
        if current is not None and self._writer is not None:
            path = self._writer.weights_file(current.model, current.number)
        if not path.is_file():
            return None, {}
        try:
            metrics, _ = self._measured(_tensors(read_state(path, self._task.model_dict_key)))
        except LabelServerError as error:
            logger.warning("the weights in use cannot be measured: %s", error.message)
            return None, {}
        return (current.number if current is not None else None), metrics

    def _measured(self, state: Mapping[str, torch.Tensor]) -> tuple[dict[str, float], str]:
        """Metrics of weights on the held-out cases, and which of them decides; empty without an evaluator or cases."""
        if self._cases(self._task.const.key_validate_dataset_data()) == []:
            return {}, ""
        workflow = self._workflow({self._task.const.key_train_handlers(): [], "validate#handlers": []})
        evaluator = getattr(workflow, "evaluator", None)
        if evaluator is None:
            return {}, ""
        load_into(evaluator.network, state, True, self._model)
        evaluator.run()
        return plain_numbers(evaluator.state.metrics), str(evaluator.state.key_metric_name or "")

    def _workflow(self, further: Mapping[str, Any]) -> ConfigWorkflow:
        present = {key: value for key, value in further.items() if self._has(key)}
        overrides = {**deepcopy(self._overrides), **present}
        about = Path(self._task.bundle_metadata_path)
        workflow = ConfigWorkflow(
            config_file=self._task.bundle_config_path,
            meta_file=str(about) if about.is_file() else None,
            logging_file=False,
            run_id=str(self._request.get("run_id") or "run"),
            workflow_type="train",
            tracking=overrides.pop("tracking", None),
            **overrides,
        )
        workflow.initialize()
        return workflow

    def _kept_version(self, candidate: Candidate) -> dict[str, Any]:
        result: dict[str, Any] = {
            "model": self._model,
            "metrics": candidate.metrics,
            "in_use_before": candidate.baseline,
            "held_out": len(candidate.held_out),
        }
        if self._writer is None:  # without a model store the task publishes by itself
            assert candidate.publish_path is not None
            save_torch(candidate.publish_path, _tensors(read_state(candidate.files[1], self._task.model_dict_key)))
            return result
        number = self._writer.add(candidate)
        self._progress.version_ready(self._model, number)
        return {**result, "model_version": number}

    def _cases(self, key: str) -> list[Any] | None:
        found = self._overrides.get(key)
        return list(found) if isinstance(found, list) else None

    def _held_out(self) -> tuple[str, ...]:
        cases = self._cases(self._task.const.key_validate_dataset_data()) or []
        return tuple(sorted(Path(str(case["image"])).name for case in cases if isinstance(case, Mapping)))

    def _labels(self) -> JsonObject:
        """Image file -> SHA-256 of the label it was trained on."""
        cases = self._cases(self._task.const.key_train_dataset_data()) or []
        return {
            Path(str(case["image"])).name: sha256_of(Path(str(case["label"])))
            for case in cases
            if isinstance(case, Mapping) and Path(str(case.get("label", ""))).is_file()
        }

    def _has(self, key: str) -> bool:
        value: Any = self._task.bundle_config
        for part in key.split("#"):
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        return True

    @contextmanager
    def _bundle_errors(self) -> Iterator[None]:
        """The bundle's configuration is not ours: what it names wrongly is said as a sentence."""
        name = Path(self._task.bundle_path).name
        try:
            yield
        except (KeyError, AttributeError, ImportError) as error:
            raise TaskFailed(f"The bundle {name} cannot be trained as it is: {error}.") from error
        except ValueError as error:
            if "run ID" in str(error):
                raise InvalidParams(f"The bundle {name} has no {self._request.get('run_id')!r} to run.") from error
            raise


class _Watch:
    """Progress of a bundle's trainer, its curves, and its stop between two steps."""

    def __init__(self, trainer: Any, evaluator: Any, progress: Progress) -> None:
        self.trainer, self._evaluator, self._progress = trainer, evaluator, progress
        self.stopped = False
        self.curves: list[JsonObject] = []
        self._last_report = time.monotonic()

    def attach(self) -> None:
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)

    def _end_step(self, engine: Any) -> None:
        if self._progress.should_stop():
            self.stopped = True
            engine.terminate()
        loss = self._loss()
        if loss is not None and not math.isfinite(loss):
            raise TaskFailed(
                f"The loss is no number any more at step {engine.state.iteration}. Lower the learning rate, and look "
                "for images with broken intensities.",
                reason="nan_loss",
            )
        if time.monotonic() - self._last_report >= REPORT_EVERY_S:
            self._last_report = time.monotonic()
            self._progress.report(self._where())

    def _end_epoch(self, engine: Any) -> None:
        point = {
            **self._where(),
            "metrics": dict(plain_numbers(getattr(self._evaluator, "state", engine.state).metrics)),
        }
        self.curves.append({key: point[key] for key in ("epoch", "loss", "metrics") if key in point})
        self._progress.report(point)

    def _where(self) -> JsonObject:
        state = self.trainer.state
        length = state.epoch_length or 0
        found: JsonObject = {
            "epoch": state.epoch,
            "total_epochs": state.max_epochs,
            "step": state.iteration,
            "total_steps": length * (state.max_epochs or 0),
        }
        loss = self._loss()
        return found if loss is None else {**found, "loss": loss}

    def _loss(self) -> float | None:
        output = self.trainer.state.output
        first = output[0] if isinstance(output, list) and output else output
        value = first.get("loss") if isinstance(first, Mapping) else None
        return float(value) if value is not None else None


@contextmanager
def _kept(weights: Path, copy: Path) -> Iterator[None]:
    """Whatever the block writes over `weights`, they are as before after it; `copy` holds them meanwhile."""
    existed = weights.is_file()
    if existed:
        atomic.copy_file(weights, copy)
    try:
        yield
    finally:
        if existed and not _same(weights, copy):
            atomic.copy_file(copy, weights)
        elif not existed:
            weights.unlink(missing_ok=True)


def _same(path: Path, other: Path) -> bool:
    return path.is_file() and other.is_file() and sha256_of(path) == sha256_of(other)


def _tensors(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}

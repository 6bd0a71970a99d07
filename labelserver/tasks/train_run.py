"""One run of a trainer, from the request to a model version: in which order hooks are called, and what lies between.

Order: request, cases, network, optimizer, evaluator, trainer, `finalize`, resume or baseline, the epochs, the result.
One process; several GPUs are used by one process each in a later release, so `multi_gpu` picks the first one now.
"""

from __future__ import annotations

import logging
import time
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.labels import SchemaStore
from labelserver.contracts.model_store import current_version_writer
from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import DeviceMemoryFull, LabelNotFound
from labelserver.tasks import train_checkpoint as checkpoint
from labelserver.tasks import train_request as asked
from labelserver.tasks import train_weights as weights
from labelserver.tasks.devices import name_to_device
from labelserver.tasks.hooks import call_hook
from labelserver.tasks.train_context import Case, Context
from labelserver.tasks.train_data import StopAsked, as_transform, header_problem, leave_out
from labelserver.tasks.train_files import RunFiles, save_torch, state_of
from labelserver.tasks.train_metrics import is_better
from labelserver.tasks.train_seeds import EpochSampler, drawn_seed, seed_libraries
from labelserver.tasks.train_watch import EpochWatch, MetaTracking, StepWatch

if TYPE_CHECKING:
    from labelserver.tasks.train import BasicTrainTask

logger = logging.getLogger(__name__)

NO_CASE = "There is no labeled image to train on: submit at least one label, then train again."


class Run:
    """See the module's words.

    Args:
        task: whose hooks are called.
        request: what was asked; the task's config fills the rest.
    """

    def __init__(self, task: BasicTrainTask, request: dict[str, Any]) -> None:
        self._task = task
        self._request = {**deepcopy(task.config()), **request}
        self._request.setdefault("run_id", time.strftime("%Y%m%d_%H%M%S"))
        self._progress = current_progress()
        self._writer = current_version_writer()
        self._context = Context(start_ts=time.time())
        self._state = checkpoint.RunState()
        self._resumed: checkpoint.Resumed | None = None
        self._handlers: list[Any] = []
        publish_path = task._publish_path
        self._publish_path = Path(publish_path) if publish_path else None

    def execute(self, datastore: Datastore) -> dict[str, Any]:
        """Run on the datastore's cases. See `BasicTrainTask.__call__`."""
        task, request = self._task, self._request
        self._read_checkpoint()
        self._context.image_ids = {datastore.get_image_uri(i): i for i in datastore.get_labeled_images()}
        self._context.split_key = _split_key(datastore)
        self._context.label_values = datastore.label_values() if isinstance(datastore, SchemaStore) else {}
        try:
            cases = call_hook(task.pre_process, request, datastore) or []
            return self.train(0, 1, list(cases))
        finally:
            call_hook(task.cleanup, request)

    def train(self, local_rank: int, world_size: int, datalist: list[Case]) -> dict[str, Any]:
        """Run on given cases. Raises as `BasicTrainTask.__call__`."""
        self._fill_context(local_rank, world_size, datalist)
        try:
            return self._train()
        except StopAsked:
            return {"stopped": True, "epoch": 0}
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceMemoryFull(
                "The device ran out of memory while training. Use a smaller train_batch_size or patch, "
                "or train on the CPU (device: cpu).",
                reason="out_of_memory",
            ) from error

    # what the run consists of

    def _read_checkpoint(self) -> None:
        folder = self._progress.folder
        if not (self._progress.resume and folder):
            return
        self._resumed = checkpoint.read(folder / checkpoint.FILE_NAME)
        if self._resumed is not None:
            self._request["run_id"] = self._resumed.run_id

    def _fill_context(self, local_rank: int, world_size: int, datalist: list[Case]) -> None:
        task, request, context = self._task, self._request, self._context
        name = asked.run_name(request, "train_01")
        output_dir = Path(task._model_dir) / name
        output_dir.mkdir(parents=True, exist_ok=True)
        context.request, context.run_id = request, str(request["run_id"])
        context.output_dir = str(output_dir)
        context.cache_dir = call_hook(task.get_cache_dir, request)
        context.events_dir = str(output_dir / f"events_{context.run_id}")
        context.datalist = datalist
        context.train_batch_size = asked.whole_number(request, "train_batch_size", 1, least=1)
        context.val_batch_size = asked.whole_number(request, "val_batch_size", 1, least=1)
        context.max_epochs = asked.whole_number(request, "max_epochs", 50, least=1)
        context.dataset_type = asked.choice(request, "dataset", "CacheDataset")
        context.dataloader_type = asked.choice(request, "dataloader", "DataLoader")
        context.pretrained = asked.truth(request, "pretrained", True)
        context.local_rank, context.world_size = local_rank, world_size
        context.multi_gpu = asked.truth(request, "multi_gpu", True) and world_size > 1
        context.device = torch.device(_device(request))
        tracking = request.get("tracking")
        context.tracking = str(tracking[0] if isinstance(tracking, list) and tracking else tracking)
        for key in ("tracking_uri", "tracking_experiment_name", "tracking_run_name"):
            setattr(context, key, request.get(key) or None)
        seed = request.get("seed")
        context.seed = drawn_seed() if seed in (None, "") else asked.whole_number(request, "seed", 0, least=0)

    def _train(self) -> dict[str, Any]:
        task, context = self._task, self._context
        if self._resumed is not None:
            context.seed, self._state = self._resumed.seed, self._resumed.state
            context.start_ts -= self._state.seconds_spent
        seed_libraries(context.seed)
        self._partition()
        context.network = call_hook(task.network, context).to(context.device)
        if self._resumed is None:
            self._load_start()
        context.optimizer = call_hook(task.optimizer, context)
        self._build_engines()
        call_hook(task.finalize, context)
        files = RunFiles(
            Path(context.output_dir),
            best=task._key_metric_filename,
            final=task._final_filename,
            interval=task._train_save_interval,
            keep=task._n_saved,
        )
        steps = StepWatch(context, self._progress, self._lay_down)
        epochs = EpochWatch(
            context,
            steps,
            self._progress,
            files,
            self._state,
            publish_path=None if self._writer is not None else self._publish_path,
            stats_paths=[Path(context.output_dir) / f"stats_{context.run_id}.json", Path(task._stats_path)],
        )
        steps.attach()
        epochs.attach()
        if self._resumed is not None:
            self._take_up(self._resumed, epochs)
        else:
            self._measure_baseline()
        if not steps.stopped and not _is_complete(context):
            with MetaTracking(off=task._disable_meta_tracking):
                context.trainer.run()
        return self._result(steps, epochs, files)

    def _partition(self) -> None:
        """Cases with readable files, split; on resuming the ones the run began with, if they still exist."""
        context, resumed = self._context, self._resumed
        known = resumed.cases if resumed is not None else None
        if known is not None and resumed is not None and not any(map(header_problem, known["train"] + known["val"])):
            context.train_datalist, context.val_datalist = known["train"], known["val"]
            context.bad_cases = list(resumed.bad_cases)
            return
        good = []
        for case in context.datalist:
            problem = header_problem(case)
            if problem is None:
                good.append(case)
            else:
                leave_out(context, case, problem)
        context.datalist = good
        train, val = call_hook(self._task.partition_datalist, context)
        context.train_datalist, context.val_datalist = list(train), list(val)
        self._require_cases()
        self._progress.log(f"{len(train)} cases to train on, {len(val)} held out, {len(context.bad_cases)} left out")

    def _require_cases(self) -> None:
        """Raises `LabelNotFound` if nothing is left to train on."""
        context = self._context
        if context.train_datalist:
            return
        if not context.bad_cases:
            raise LabelNotFound(NO_CASE, reason="no_data")
        first = context.bad_cases[0]
        raise LabelNotFound(
            f"None of the {len(context.bad_cases)} labeled images can be used. {first.image}: {first.reason} {NO_CASE}",
            reason="bad_data",
        )

    def _load_start(self) -> None:
        task, context = self._task, self._context
        start = call_hook(task.load_path, context.output_dir, context.pretrained)
        path = weights.last_existing(start)
        if path is not None:
            weights.start_from(context.network, path, task._model_dict_key, strict=task._load_strict)
            self._progress.log(f"starting from {path.name}")

    def _build_engines(self) -> None:
        """Evaluator first: train handlers refer to it. Loading the cases may leave none on a side."""
        task, context = self._task, self._context
        if context.val_datalist:
            loader = call_hook(task.val_data_loader, context)
            if context.val_datalist:
                context.evaluator = self._evaluator(loader, call_hook(task.val_handlers, context))
        loader = call_hook(task.train_data_loader, context)
        self._require_cases()
        post = as_transform(call_hook(task.train_post_transforms, context))
        context.trainer = SupervisedTrainer(
            device=context.device,
            max_epochs=context.max_epochs,
            train_data_loader=loader,
            network=context.network,
            optimizer=context.optimizer,
            loss_function=call_hook(task.loss_function, context),
            inferer=call_hook(task.train_inferer, context),
            postprocessing=post,
            key_train_metric=call_hook(task.train_key_metric, context),
            additional_metrics=call_hook(task.train_additional_metrics, context),
            metric_cmp_fn=is_better,
            train_handlers=(handlers := call_hook(task.train_handlers, context)),
            iteration_update=call_hook(task.train_iteration_update, context),
            event_names=_own_list(call_hook(task.event_names, context)),
            amp=task._amp and context.device.type == "cuda",
            decollate=post is not None,
            optim_set_to_none=True,
        )
        self._handlers = list(handlers or [])

    def _evaluator(self, loader: Any, handlers: list[Any] | None) -> Any:
        task, context = self._task, self._context
        return SupervisedEvaluator(
            device=context.device,
            val_data_loader=loader,
            network=context.network,
            inferer=call_hook(task.val_inferer, context),
            postprocessing=as_transform(call_hook(task.val_post_transforms, context)),
            key_val_metric=call_hook(task.val_key_metric, context),
            additional_metrics=call_hook(task.val_additional_metrics, context),
            metric_cmp_fn=is_better,
            val_handlers=handlers,
            iteration_update=call_hook(task.val_iteration_update, context),
            event_names=_own_list(call_hook(task.event_names, context)),
            amp=task._amp and context.device.type == "cuda",
        )

    # stop and go

    def _parts(self) -> list[Any]:
        return checkpoint.stateful_parts([*self._handlers, self._context.early_stopping])

    def _lay_down(self) -> None:
        """Write the checkpoint, if somebody may take the run up again."""
        self._state.seconds_spent = time.time() - self._context.start_ts
        folder = self._progress.folder
        if folder is not None:
            checkpoint.write(folder / checkpoint.FILE_NAME, self._context, self._parts(), self._state)
            self._progress.log(f"stopped at step {self._context.trainer.state.iteration}; checkpoint written")

    def _take_up(self, resumed: checkpoint.Resumed, epochs: EpochWatch) -> None:
        context = self._context
        checkpoint.restore(resumed, context, self._parts())
        trainer = context.trainer
        done = trainer.state.iteration % trainer.state.epoch_length
        sampler = getattr(trainer.data_loader, "sampler", None)
        if isinstance(sampler, EpochSampler):
            sampler.start_at(trainer.state.epoch + 1, done * context.train_batch_size)
        self._progress.log(f"taken up at step {trainer.state.iteration}")
        if self._state.validation_due:
            context.evaluator.run(trainer.state.epoch)
            epochs(trainer)

    def _measure_baseline(self) -> None:
        """Measure what is in use on the same held-out cases, so that the server can compare."""
        task, context = self._task, self._context
        if self._writer is None or context.evaluator is None:
            return
        current = self._writer.current(self._lineage())
        path = weights.last_existing(
            [str(p) for p in (weights.last_existing(task._load_path), self._publish_path) if p]
        )
        if current is not None:
            self._state.baseline_version = current.number
            path = self._writer.weights_file(current.model, current.number)
        evaluator = self._evaluator(context.evaluator.data_loader, None)
        self._state.baseline = weights.measured_baseline(context, evaluator, path, task._model_dict_key)
        if self._state.baseline:
            key = evaluator.state.key_metric_name
            self._progress.log(f"in use now: {key} {self._state.baseline.get(key, 0.0):.4f}")

    def _lineage(self) -> str:
        return self._task.lineage or str(self._request.get("model") or Path(self._task._model_dir).name)

    def _result(self, steps: StepWatch, epochs: EpochWatch, files: RunFiles) -> dict[str, Any]:
        context, state = self._context, self._state
        extra: dict[str, Any] = {"left_out": [case.to_json() for case in context.bad_cases]}
        if steps.stopped:
            return {**epochs.write_stats(finished=False), **extra, "stopped": True}
        if state.best_epoch == 0:
            context.evaluator.run(context.trainer.state.epoch)
            epochs(context.trainer)
        save_torch(files.final, state_of(context.network))
        if self._writer is not None:
            extra["model"] = self._lineage()
            extra["model_version"] = weights.add_version(
                context,
                state,
                files,
                self._writer,
                self._progress,
                model=self._lineage(),
                publish_path=self._publish_path,
                key=self._task._model_dict_key,
            )
        stats = epochs.write_stats(finished=True)
        if self._progress.folder is not None:
            (self._progress.folder / checkpoint.FILE_NAME).unlink(missing_ok=True)
        return {**stats, **extra}


def _is_complete(context: Context) -> bool:
    state = context.trainer.state
    return bool(state.iteration >= (state.epoch_length or 0) * context.max_epochs)


def _own_list(names: list[Any] | None) -> list[Any] | None:
    """The engines append to the list they get."""
    return None if names is None else list(names)


def _device(request: dict[str, Any]) -> str:
    """One device: the one asked for; with a list of GPU indices its first."""
    device = name_to_device(request.get("device"))
    gpus = str(request.get("gpus") or "all")
    first = gpus.split(",")[0].strip()
    return f"cuda:{first}" if device == "cuda" and first.isdecimal() else device


def _split_key(datastore: Datastore) -> bytes:
    """The project's key if the store has one (see `domain.splits`)."""
    key = getattr(datastore, "split_key", b"")
    found = key() if callable(key) else key
    return found.encode() if isinstance(found, str) else bytes(found)

"""One run of a trainer, from the request to a model version: in which order hooks are called, and what lies between.

Order: request, cases, network, optimizer, evaluator, trainer, `finalize`, resume or baseline, the epochs, the result.
Several processes may train together (see `train_ranks`): all go through this page; the first alone speaks and writes.
"""

from __future__ import annotations

import logging
import time
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.model_store import current_version_writer
from labelserver.contracts.progress import current_progress
from labelserver.contracts.ranks import Rank, current_rank, current_rank_starter
from labelserver.domain.errors import DeviceMemoryFull
from labelserver.domain.models import ModelVersion
from labelserver.tasks import train_checkpoint as checkpoint
from labelserver.tasks import train_ranks as ranks
from labelserver.tasks import train_request as asked
from labelserver.tasks import train_weights as weights
from labelserver.tasks.devices import name_to_device
from labelserver.tasks.hooks import call_hook
from labelserver.tasks.train_cases import unseen
from labelserver.tasks.train_context import Case, Context
from labelserver.tasks.train_data import StopAsked
from labelserver.tasks.train_engines import build_engines, evaluator_of
from labelserver.tasks.train_files import RunFiles, save_torch, state_of
from labelserver.tasks.train_labels import with_training_labels
from labelserver.tasks.train_outputs import counts_differ
from labelserver.tasks.train_outputs import described as classes_changed
from labelserver.tasks.train_partition import partition
from labelserver.tasks.train_seeds import EpochSampler, deterministic, drawn_seed, seed_libraries
from labelserver.tasks.train_speed import Speed, lay_out, speed_of, speed_up
from labelserver.tasks.train_split import learn_from_store
from labelserver.tasks.train_watch import EpochWatch, MetaTracking, StepWatch

if TYPE_CHECKING:
    from labelserver.tasks.train import BasicTrainTask

logger = logging.getLogger(__name__)

#: seconds of work that a kill may cost, unless the request says otherwise.
CHECKPOINT_EVERY_S = 60


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
        self._speed: Speed
        publish_path = task._publish_path
        self._publish_path = Path(publish_path) if publish_path else None
        self._meeting: Path | None = None  #: where the ranks meet, if there are several

    def execute(self, datastore: Datastore) -> dict[str, Any]:
        """Run on the datastore's cases. See `BasicTrainTask.__call__`."""
        task, request = self._task, self._request
        self._read_checkpoint()
        self._context.split_key = split_key_of(datastore)
        learn_from_store(self._context, datastore, task._labels)
        rank = current_rank()
        if rank is not None:
            return self._train_as(rank)
        try:
            cases = list(call_hook(task.pre_process, request, datastore) or [])
            stored = task.reads_stored_values
            cases = with_training_labels(self._context, cases, datastore, task._labels, reads_stored=stored)
            return self._train_together(cases)
        finally:
            call_hook(task.cleanup, request)

    def _train_together(self, cases: list[Case]) -> dict[str, Any]:
        """Train with as many processes as are asked for, if somebody can start them."""
        starter, folder = current_rank_starter(), self._progress.folder
        count = ranks.ranks_wanted(self._request)
        if count < 2 or starter is None or folder is None:
            return self.train(0, 1, cases)
        self._meeting = ranks.new_meeting(folder)
        self._progress.log(f"{count} processes train together.")
        with starter.others(count), ranks.joined(Rank(0, count), self._request, self._meeting):
            return self.train(0, count, cases)

    def _train_as(self, rank: Rank) -> dict[str, Any]:
        """Train as one of the further processes: what there is to train on is said by the first."""
        assert self._progress.folder is not None
        self._meeting = ranks.meeting_of(self._progress.folder)
        with ranks.joined(rank, self._request, self._meeting):
            return self.train(rank.number, rank.count, [])

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
        if self._meeting is not None and local_rank > 0:
            output_dir = self._meeting / f"rank_{local_rank}"  # what only the first keeps
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
        context.device = ranks.device_of(local_rank, request) if world_size > 1 else torch.device(_device(request))
        tracking = request.get("tracking")
        context.tracking = str(tracking[0] if isinstance(tracking, list) and tracking else tracking)
        for key in ("tracking_uri", "tracking_experiment_name", "tracking_run_name"):
            setattr(context, key, request.get(key) or None)
        seed = request.get("seed")
        chosen = drawn_seed() if seed in (None, "") else asked.whole_number(request, "seed", 0, least=0)
        context.seed = ranks.seed_of_first(chosen)

    def _train(self) -> dict[str, Any]:
        task, context = self._task, self._context
        if self._resumed is not None:
            context.seed, self._state = self._resumed.seed, self._resumed.state
            context.start_ts -= self._state.seconds_spent
        seed_libraries(context.seed)
        partition(task, context, self._progress, self._resumed, self._meeting)
        context.network = call_hook(task.network, context).to(context.device)
        speed = self._speed = speed_of(self._request, context.device, amp=task._amp)
        lay_out(context.network, speed)
        if self._resumed is None:
            self._load_start()
        speed_up(context.network, speed, context.device, self._progress.log)
        context.optimizer = call_hook(task.optimizer, context)
        self._handlers = build_engines(task, context, amp=speed.scales_loss)
        call_hook(task.finalize, context)
        files = RunFiles(
            Path(context.output_dir),
            best=task._key_metric_filename,
            final=task._final_filename,
            interval=task._train_save_interval,
            keep=task._n_saved,
        )
        every_s = asked.whole_number(self._request, "checkpoint_every_s", CHECKPOINT_EVERY_S, least=0)
        progress = ranks.AgreedProgress(self._progress) if ranks.together() else self._progress
        steps = StepWatch(context, progress, lambda: self._lay_down(steps, files), float(every_s))
        epochs = EpochWatch(
            context,
            steps,
            progress,
            files,
            self._state,
            publish_path=None if self._writer is not None or not ranks.is_first() else self._publish_path,
            stats_paths=self._stats_paths(),
        )
        steps.attach()
        epochs.attach()
        if self._resumed is not None:
            self._take_up(self._resumed, steps, epochs, files)
        else:
            self._measure_baseline()
        if not steps.stopped and not _is_complete(context):
            wanted = asked.truth(self._request, "deterministic", False)
            with MetaTracking(off=task._disable_meta_tracking), deterministic(wanted):
                context.trainer.run()
        return self._result(steps, epochs, files)

    def _stats_paths(self) -> list[Path]:
        context = self._context
        own = Path(context.output_dir) / f"stats_{context.run_id}.json"
        return [own, Path(self._task._stats_path)] if ranks.is_first() else [own]

    def _load_start(self) -> None:
        task, context = self._task, self._context
        start = call_hook(task.load_path, context.output_dir, context.pretrained)
        path = weights.last_existing(start)
        if path is None:
            return
        current = self._current()
        published = self._publish_path is not None and path.absolute() == self._publish_path.absolute()
        before: weights.Outputs = ()
        if current is not None and self._writer is not None and published:
            path, before = self._writer.weights_file(current.model, current.number), current.outputs
        key, strict = task._model_dict_key, task._load_strict
        weights.start_from(context.network, path, key, strict=strict, before=before, after=context.outputs)
        where = f"version {current.number}" if current is not None and published else path.name
        self._progress.log(f"starting from {where}")
        if before and context.outputs and counts_differ(before, context.outputs):
            self._progress.log(classes_changed(before, context.outputs))

    def _current(self) -> ModelVersion | None:
        """The version in use."""
        return self._writer.current(self._lineage()) if self._writer is not None else None

    # stop and go

    def _parts(self) -> list[Any]:
        return checkpoint.stateful_parts([*self._handlers, self._context.early_stopping])

    def _lay_down(self, steps: StepWatch, files: RunFiles) -> None:
        """Write the checkpoint, if somebody may take the run up again."""
        self._state.loss_so_far = list(steps.loss_so_far)
        self._state.seconds_spent = time.time() - self._context.start_ts
        folder = self._progress.folder
        if folder is not None and ranks.is_first():
            files.keep_best(folder)
            checkpoint.write(folder / checkpoint.FILE_NAME, self._context, self._parts(), self._state)

    def _take_up(self, resumed: checkpoint.Resumed, steps: StepWatch, epochs: EpochWatch, files: RunFiles) -> None:
        context = self._context
        loss, count = self._state.loss_so_far
        steps.go_on_from((loss, int(count)))
        if self._progress.folder is not None and ranks.is_first():
            files.restore_best(self._progress.folder)
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
        task, context, state = self._task, self._context, self._state
        if self._writer is None or context.evaluator is None:
            return
        current = self._current()
        path = weights.last_existing(
            [str(p) for p in (weights.last_existing(task._load_path), self._publish_path) if p]
        )
        if current is not None:
            state.baseline_version = current.number
            path = self._writer.weights_file(current.model, current.number)
        evaluator = evaluator_of(task, context, context.evaluator.data_loader, None, amp=self._speed.scales_loss)
        outputs = current.outputs if current is not None else ()
        state.baseline, cases = weights.measured_baseline(context, evaluator, path, task._model_dict_key, outputs)
        state.baseline_cases = unseen(cases, current.labels if current is not None else (), context.sides)
        if state.baseline:
            key = evaluator.state.key_metric_name
            self._progress.log(f"in use now: {key} {state.baseline.get(key, 0.0):.4f}")

    def _measure_what_came_into_use(self) -> None:
        """Somebody may have published another version meanwhile: that is the one to beat."""
        current = self._current()
        if ranks.together():
            return  # the others have gone; without numbers the gate leaves the decision to a person
        if current is not None and current.number != self._state.baseline_version:
            self._progress.log(f"version {current.number} came into use meanwhile; it is measured now")
            self._measure_baseline()

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
        if not ranks.is_first():
            return extra
        save_torch(files.final, state_of(context.network))
        if self._writer is not None:
            self._measure_what_came_into_use()
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
            files.forget_kept(self._progress.folder)
        return {**stats, **extra}


def _is_complete(context: Context) -> bool:
    state = context.trainer.state
    return bool(state.iteration >= (state.epoch_length or 0) * context.max_epochs)


def _device(request: dict[str, Any]) -> str:
    """One device: the one asked for; with a list of GPU indices its first."""
    device = name_to_device(request.get("device"))
    gpus = str(request.get("gpus") or "all")
    first = gpus.split(",")[0].strip()
    return f"cuda:{first}" if device == "cuda" and first.isdecimal() else device


def split_key_of(datastore: Datastore) -> bytes:
    """The project's key if the store has one (see `domain.splits`)."""
    key = getattr(datastore, "split_key", b"")
    found = key() if callable(key) else key
    return found.encode() if isinstance(found, str) else bytes(found)

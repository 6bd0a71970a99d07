"""Supervised training on MONAI engines, made for subclassing: an author gives a network, a loss and transforms.

Every step is a hook that receives the run's `Context` and may be overridden; a hook may leave the argument out. The run
itself lives in `train_run`, so that this page is what an author reads.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import torch
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from monai.data import DataLoader, ThreadDataLoader
from monai.handlers import LrScheduleHandler, ValidationHandler, stopping_fn_from_metric
from monai.inferers import Inferer, SimpleInferer

from labelserver.contracts.datastore import Datastore
from labelserver.tasks import train_metrics as metrics
from labelserver.tasks import train_request as asked
from labelserver.tasks.base import Labels, TrainTask, listed_labels
from labelserver.tasks.devices import device_list
from labelserver.tasks.hooks import call_hook
from labelserver.tasks.train_context import Case, Context
from labelserver.tasks.train_data import (
    CaseDataset,
    DiscreteOutputs,
    as_transform,
    prepare_cases,
    prepared_cases,
)
from labelserver.tasks.train_files import read_stats
from labelserver.tasks.train_memory import memory_left, tell_device_memory
from labelserver.tasks.train_run import Run
from labelserver.tasks.train_sampled_dice import SampledDice
from labelserver.tasks.train_seeds import EpochSampler
from labelserver.tasks.train_speed import options as speed_options
from labelserver.tasks.train_split import held_out_of
from labelserver.tasks.train_tracking import MLFLOW, tracking_choices, training_handlers, validation_handlers
from labelserver.tasks.train_weights import last_existing

__all__ = ["BasicTrainTask", "Context"]

#: What transforms hooks may return.
Transforms = Any  #: a list, a Compose or any callable


class BasicTrainTask(TrainTask):
    """Train a network on the datastore's accepted labels.

    Which cases are held out is fixed for each image or patient when the store first sees it (`domain.splits`), so it
    never changes; ``val_split`` 0 holds none out. A store that fixes no sides has about ``val_split`` of the cases held
    out by their ids: at least one of two or more, none of a single one.
    A request may name other cases by ``train_ds`` and ``val_ds`` (lists, or JSON files below the studies or the app).

    Args:
        model_dir: folder of the run folders, below the app.
        description: shown to people. A network may stand here instead, as older apps do.
        config: options that clients may override, merged over the defaults of `config`.
        amp: numbers of 16 bits on a GPU, unless the request's ``precision`` says otherwise.
        load_path: weights to start from, the last existing of several.
        load_dict: further ``name -> object`` to load from `load_path`; kept for apps, unused here.
        publish_path: the file that infer tasks read; accepted weights arrive there.
        stats_path: statistics of the last run; default ``<model_dir>/train_stats.json``.
        train_save_interval: epochs between two checkpoints.
        val_interval: epochs between two validations.
        n_saved: checkpoints that are kept.
        final_filename: the last weights of a run.
        key_metric_filename: the best weights of a run.
        model_dict_key: where a checkpoint file keeps the network's state.
        find_unused_parameters: for several GPUs.
        load_strict: refuse weights that fit only in part.
        labels: names, or name -> value.
        disable_meta_tracking: switch MONAI's metadata off while the network runs.
        tracking: ``mlflow`` or None; only where it is installed.
        network: the network, for apps that do not override `network`.
    """

    TRAIN_METRIC_MEAN_DICE: ClassVar[str] = metrics.TRAIN_MEAN_DICE
    VAL_METRIC_MEAN_DICE: ClassVar[str] = metrics.VAL_MEAN_DICE
    TRAIN_METRIC_ACCURACY: ClassVar[str] = metrics.TRAIN_ACCURACY
    VAL_METRIC_ACCURACY: ClassVar[str] = metrics.VAL_ACCURACY

    #: True if the transforms understand the values of the project's schema in label files; else they get copies with
    #: the trainer's own values where these differ (see `labelserver.tasks.train_labels`).
    reads_stored_values: ClassVar[bool] = False

    #: The model whose versions this trainer writes; empty: the name it is registered under. The app sets it where an
    #: infer task of another name reads the same `publish_path`.
    lineage: str = ""

    def __init__(
        self,
        model_dir: str | Path,
        description: str | torch.nn.Module | None = None,
        config: Mapping[str, Any] | None = None,
        amp: bool = True,
        load_path: str | Sequence[str] | None = None,
        load_dict: Mapping[str, Any] | None = None,
        publish_path: str | None = None,
        stats_path: str | None = None,
        train_save_interval: int = 20,
        val_interval: int = 1,
        n_saved: int = 5,
        final_filename: str = "checkpoint_final.pt",
        key_metric_filename: str = "model.pt",
        model_dict_key: str = "model",
        find_unused_parameters: bool = False,
        load_strict: bool = False,
        labels: Labels | str | None = None,
        disable_meta_tracking: bool = False,
        tracking: str | None = MLFLOW,
        tracking_uri: str = "",
        tracking_experiment_name: str | None = None,
        network: torch.nn.Module | None = None,
    ) -> None:
        given = description if isinstance(description, torch.nn.Module) else None
        super().__init__("" if given is not None or description is None else str(description))
        chosen = given if given is not None else network
        if chosen is not None or not hasattr(self, "_network"):  # apps set their own before they call this
            self._network = chosen
        self._model_dir = str(model_dir)
        self._amp = amp
        self._load_path = load_path
        self._load_dict = load_dict
        self._publish_path = publish_path
        self._stats_path = stats_path or str(Path(model_dir) / "train_stats.json")
        self._train_save_interval = train_save_interval
        self._val_interval = max(1, val_interval)
        self._n_saved = n_saved
        self._final_filename = final_filename
        self._key_metric_filename = key_metric_filename
        self._model_dict_key = model_dict_key
        self._find_unused_parameters = find_unused_parameters
        self._load_strict = load_strict
        self._labels = listed_labels(labels)
        self._disable_meta_tracking = disable_meta_tracking
        self._config: dict[str, Any] = {
            "name": "train_01",
            "pretrained": True,
            "device": device_list(),
            "max_epochs": 50,
            "early_stop_patience": -1,
            "val_split": 0.2,
            "train_batch_size": 1,
            "val_batch_size": 1,
            "multi_gpu": True,
            "gpus": "all",
            **speed_options(),
            "dataset": ["CacheDataset", "SmartCacheDataset", "PersistentDataset", "Dataset"],
            "dataloader": ["DataLoader", "ThreadDataLoader"],
            "tracking": tracking_choices(tracking),
            "tracking_uri": tracking_uri,
            "tracking_experiment_name": tracking_experiment_name or "",
            **dict(config or {}),
        }

    @property
    def model_dir(self) -> str:
        """As given to the constructor; older apps read it."""
        return self._model_dir

    def info(self) -> dict[str, Any]:
        found = super().info()
        return {**found, "labels": self._labels} if self._labels else found

    def config(self) -> dict[str, Any]:
        return self._config

    def stats(self) -> dict[str, Any]:
        return read_stats(Path(self._stats_path))

    # network, optimisation

    def network(self, context: Context) -> torch.nn.Module:
        """The network to train: a copy of the one given to the constructor."""
        if self._network is None:
            raise NotImplementedError(f"{type(self).__name__} needs a method network(self, context).")
        return deepcopy(self._network)

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        return torch.optim.Adam(context.network.parameters(), lr=1e-4)

    def loss_function(self, context: Context) -> Callable[..., Any]:
        raise NotImplementedError(f"{type(self).__name__} needs a method loss_function(self, context).")

    def lr_scheduler_handler(self, context: Context) -> Any:
        """A handler with an `lr_scheduler`; None: the learning rate stays."""
        scheduler = torch.optim.lr_scheduler.StepLR(context.optimizer, step_size=1000, gamma=0.1)
        return LrScheduleHandler(lr_scheduler=scheduler, print_lr=False)

    # data

    def pre_process(self, request: dict[str, Any], datastore: Datastore) -> list[Case]:
        """The cases to learn from; an app may cut slices or patches here, below `get_cache_dir(request)`."""
        return datastore.datalist()

    def get_cache_dir(self, request: Mapping[str, Any]) -> str:
        name = asked.run_name(request, str(self._config["name"]))
        return str(Path(self._model_dir) / name / f"cache_{request.get('run_id', '')}")

    def cleanup(self, request: Mapping[str, Any]) -> None:
        """Called after the run, however it ended."""
        shutil.rmtree(self.get_cache_dir(request), ignore_errors=True)

    def partition_datalist(self, context: Context, shuffle: bool = False) -> tuple[list[Case], list[Case]]:
        """Cases to train on and cases held out; see the class's words. `shuffle` is accepted and not needed.

        Raises:
            InvalidParams: ``train_ds`` or ``val_ds`` cannot be used.
        """
        request, roots = context.request, asked.allowed_roots(self._model_dir)
        train = asked.listed_cases(request.get("train_ds"), "train_ds", roots) or context.datalist
        val = asked.listed_cases(request.get("val_ds"), "val_ds", roots)
        if val is not None:
            return list(train), val
        share = asked.share(request, "val_split", 0.2)
        ids = [context.image_id_of(case) for case in train]
        chosen = held_out_of(ids, share, context)
        kept = [case for case, image_id in zip(train, ids, strict=True) if image_id not in chosen]
        return kept, [case for case, image_id in zip(train, ids, strict=True) if image_id in chosen]

    def train_pre_transforms(self, context: Context) -> Transforms:
        raise NotImplementedError(f"{type(self).__name__} needs a method train_pre_transforms(self, context).")

    def train_post_transforms(self, context: Context) -> Transforms:
        """From the network's output to what metrics compare: one-hot ``pred`` and ``label``.

        Nothing for a trainer that leaves the metrics of the training to us: they read the network's output as it is.
        """
        return None if self._samples_dice() else DiscreteOutputs()

    def val_pre_transforms(self, context: Context) -> Transforms:
        return self.train_pre_transforms(context)

    def val_post_transforms(self, context: Context) -> Transforms:
        return DiscreteOutputs() if self._samples_dice() else self.train_post_transforms(context)

    def train_data_loader(self, context: Context, num_workers: int = 0, shuffle: bool = True) -> Any:
        dataset = self._dataset(context, context.train_datalist, is_train=True)
        return self._dataloader(context, dataset, context.train_batch_size, num_workers, shuffle)

    def val_data_loader(self, context: Context, num_workers: int = 0) -> Any:
        dataset = self._dataset(context, context.val_datalist, is_train=False)
        return self._dataloader(context, dataset, context.val_batch_size, num_workers)

    def _dataset(
        self, context: Context, datalist: list[Case], is_train: bool, replace_rate: float = 0.25
    ) -> CaseDataset:
        """In memory up to the cap of the run, then from prepared cases on disk; ``Dataset`` keeps nothing."""
        hook = self.train_pre_transforms if is_train else self.val_pre_transforms
        transform = as_transform(call_hook(hook, context))
        if context.dataset_type == "Dataset":
            return CaseDataset(datalist, transform, budget_bytes=0, seed=context.seed)
        left = memory_left(context)
        prepared = prepared_cases(context)
        dataset = CaseDataset(datalist, transform, budget_bytes=left, seed=context.seed, prepared=prepared)
        prepare_cases(context, dataset, "to train on" if is_train else "held out")
        context.memory_left_bytes = left - dataset.cached_bytes
        if is_train:
            tell_device_memory(context, dataset.sample())
        return dataset

    def _dataloader(
        self,
        context: Context,
        dataset: Any,
        batch_size: int,
        num_workers: int,
        shuffle: bool = False,
        repeats: int = 1,
    ) -> Any:
        """`repeats`: how often an epoch visits each case; more than one needs a data set made by `_dataset`."""
        kind = ThreadDataLoader if context.dataloader_type == "ThreadDataLoader" else DataLoader
        sampler = EpochSampler(len(dataset) * repeats, context.seed, shuffle=shuffle)
        return kind(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers)

    # engines

    def train_inferer(self, context: Context) -> Inferer:
        return SimpleInferer()

    def val_inferer(self, context: Context) -> Inferer:
        """Most apps give a `SlidingWindowInferer` here."""
        return SimpleInferer()

    def train_key_metric(self, context: Context) -> dict[str, Any] | None:
        """Name -> metric handler; the first entry decides. None: no metric while training."""
        if self._samples_dice():
            return {self.TRAIN_METRIC_MEAN_DICE: SampledDice()}
        return metrics.mean_dice(self.TRAIN_METRIC_MEAN_DICE)

    def val_key_metric(self, context: Context) -> dict[str, Any]:
        """Name -> metric handler; the first entry decides which weights are best. Larger is better."""
        return metrics.mean_dice(self.VAL_METRIC_MEAN_DICE)

    def train_additional_metrics(self, context: Context) -> dict[str, Any] | None:
        return None

    def val_additional_metrics(self, context: Context) -> dict[str, Any] | None:
        return None

    def _samples_dice(self) -> bool:
        """Nothing of the author's looks at one-hot outputs of training steps."""
        hooks = ("train_post_transforms", "train_key_metric", "train_additional_metrics")
        return all(getattr(type(self), name) is getattr(BasicTrainTask, name) for name in hooks)

    def train_handlers(self, context: Context) -> list[Any]:
        """Learning rate, trackers, and the validation if there are held-out cases."""
        lr_handler = call_hook(self.lr_scheduler_handler, context)
        found = [] if lr_handler is None else [lr_handler]
        if context.local_rank == 0:
            found += training_handlers(context)
        if context.evaluator is not None:
            found.append(ValidationHandler(interval=self._val_interval, validator=context.evaluator))
        return found

    def val_handlers(self, context: Context) -> list[Any] | None:
        """None on every rank but the first."""
        return validation_handlers(context) if context.local_rank == 0 else None

    def train_iteration_update(self, context: Context) -> Callable[..., Any] | None:
        """A replacement of the engine's step; it may call ``engine._iteration`` itself."""
        return None

    def val_iteration_update(self, context: Context) -> Callable[..., Any] | None:
        return None

    def event_names(self, context: Context) -> list[Any] | None:
        """Further events that the engines shall know."""
        return None

    def load_path(self, output_dir: str, pretrained: bool = True) -> str | None:
        """Where to start from: what is published, else the run folder's best, else the constructor's `load_path`.

        None without `pretrained`. Weights that the gate refused are never continued: what is published comes first.
        """
        if not pretrained:
            return None
        load_path = self._load_path
        original = [load_path] if isinstance(load_path, str) else list(load_path or [])
        best = str(Path(output_dir) / self._key_metric_filename)
        found = last_existing([*original, best, *([self._publish_path] if self._publish_path else [])])
        return None if found is None else str(found)

    def finalize(self, context: Context) -> None:
        """Called when everything is built and before it runs; apps hook ignite events here."""
        patience = asked.whole_number(context.request, "early_stop_patience", -1, least=-(2**31))
        if patience > 0 and context.evaluator is not None:
            score = stopping_fn_from_metric(context.evaluator.state.key_metric_name)
            context.early_stopping = EarlyStopping(patience, score, context.trainer)
            context.evaluator.add_event_handler(Events.EPOCH_COMPLETED, context.early_stopping)

    # running

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, publish or hand over a candidate, and return the statistics.

        Returns:
            the statistics, with ``left_out`` (bad cases), ``model_version`` (if a model store took one) and
            ``stopped`` (if it was asked to end; a checkpoint lies in the job's folder then).

        Raises:
            LabelNotFound: no case can be used.
            InvalidParams: an option that makes no sense.
            TaskFailed: the loss became NaN, or weights do not fit.
            DeviceMemoryFull: the device has too little memory.
        """
        return Run(self, dict(request)).execute(datastore)

    def train(self, local_rank: int, world_size: int, request: dict[str, Any], datalist: list[Case]) -> dict[str, Any]:
        """One process's part of a run, on given cases. Called by `__call__`."""
        return Run(self, dict(request)).train(local_rank, world_size, datalist)

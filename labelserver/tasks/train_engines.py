"""MONAI's trainer and evaluator for one run, built from what the task's hooks answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monai.engines import SupervisedEvaluator, SupervisedTrainer

from labelserver.contracts.ranks import Rank
from labelserver.tasks import train_ranks as ranks
from labelserver.tasks.hooks import call_hook
from labelserver.tasks.train_context import Context
from labelserver.tasks.train_data import as_transform
from labelserver.tasks.train_metrics import is_better
from labelserver.tasks.train_partition import require_cases

if TYPE_CHECKING:
    from labelserver.tasks.train import BasicTrainTask


def build_engines(task: BasicTrainTask, context: Context, *, amp: bool) -> list[Any]:
    """Evaluator first: train handlers refer to it. Loading the cases may leave none on a side.

    Returns:
        The trainer's handlers.

    Raises:
        LabelNotFound: nothing is left to train on.
    """
    if context.val_datalist:
        loader = call_hook(task.val_data_loader, context)
        if context.val_datalist:
            handlers = call_hook(task.val_handlers, context)
            context.evaluator = evaluator_of(task, context, loader, handlers, amp=amp)
    loader = _own_share_loader(task, context)
    require_cases(context)
    together, unused = ranks.together(), task._find_unused_parameters
    post = as_transform(call_hook(task.train_post_transforms, context))
    context.trainer = SupervisedTrainer(
        device=context.device,
        max_epochs=context.max_epochs,
        train_data_loader=loader,
        network=ranks.distributed(context.network, find_unused_parameters=unused),
        optimizer=context.optimizer,
        epoch_length=ranks.fewest(len(loader)) if together else None,
        loss_function=call_hook(task.loss_function, context),
        inferer=call_hook(task.train_inferer, context),
        postprocessing=post,
        key_train_metric=call_hook(task.train_key_metric, context),
        additional_metrics=call_hook(task.train_additional_metrics, context),
        metric_cmp_fn=is_better,
        train_handlers=(handlers := call_hook(task.train_handlers, context)),
        iteration_update=call_hook(task.train_iteration_update, context),
        event_names=_own_list(call_hook(task.event_names, context)),
        amp=amp,
        decollate=post is not None,
        optim_set_to_none=True,
    )
    return list(handlers or [])


def evaluator_of(task: BasicTrainTask, context: Context, loader: Any, handlers: list[Any] | None, *, amp: bool) -> Any:
    """An evaluator of the context's network on the loader's cases."""
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
        amp=amp,
    )


def _own_share_loader(task: BasicTrainTask, context: Context) -> Any:
    """The loader of the cases that are this rank's; the context goes on to name all of them."""
    if not ranks.together():
        return call_hook(task.train_data_loader, context)
    everything = context.train_datalist
    context.train_datalist = ranks.share_of(everything, Rank(context.local_rank, context.world_size))
    try:
        return call_hook(task.train_data_loader, context)
    finally:
        bad = {case.image for case in context.bad_cases}
        context.train_datalist = [case for case in everything if context.image_id_of(case) not in bad]


def _own_list(names: list[Any] | None) -> list[Any] | None:
    """The engines append to the list they get."""
    return None if names is None else list(names)

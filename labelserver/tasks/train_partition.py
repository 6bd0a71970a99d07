"""Which cases a run trains on and which are held out: cases with readable files, split, the same for all ranks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from labelserver.contracts.progress import Progress
from labelserver.domain.errors import LabelNotFound
from labelserver.tasks import train_checkpoint as checkpoint
from labelserver.tasks import train_ranks as ranks
from labelserver.tasks import train_request as asked
from labelserver.tasks.base import numbered_labels
from labelserver.tasks.hooks import call_hook
from labelserver.tasks.train_check import CaseCheck
from labelserver.tasks.train_context import Case, Context
from labelserver.tasks.train_data import StopAsked, header_problem, leave_out
from labelserver.tasks.train_labels import ANNOTATED

if TYPE_CHECKING:
    from labelserver.tasks.train import BasicTrainTask

NO_CASE = "There is no labeled image to train on: submit at least one label, then train again."


def partition(
    task: BasicTrainTask,
    context: Context,
    progress: Progress,
    resumed: checkpoint.Resumed | None,
    meeting: Path | None,
) -> None:
    """Fill the context's two lists of cases.

    Args:
        task: whose hook splits them.
        context: `datalist` is what there is.
        progress: may ask to stop.
        resumed: what an interrupted run began with.
        meeting: where the ranks meet, if there are several.

    Raises:
        LabelNotFound: nothing is left to train on.
        StopAsked: before all cases were looked at.
    """
    if ranks.is_first():
        _partition_cases(task, context, progress, resumed)
    if meeting is not None:
        agreed = ranks.cases_of_first(meeting, context.train_datalist, context.val_datalist)
        context.train_datalist, context.val_datalist = agreed


def require_cases(context: Context) -> None:
    """Raises `LabelNotFound` if nothing is left to train on."""
    if context.train_datalist:
        return
    if not context.bad_cases:
        raise LabelNotFound(NO_CASE, reason="no_data")
    first = context.bad_cases[0]
    raise LabelNotFound(
        f"None of the {len(context.bad_cases)} labeled images can be used. {first.image}: {first.reason} {NO_CASE}",
        reason="bad_data",
    )


def _partition_cases(
    task: BasicTrainTask, context: Context, progress: Progress, resumed: checkpoint.Resumed | None
) -> None:
    """Split the usable cases; on resuming take the ones the run began with, if they still exist."""
    known = resumed.cases if resumed is not None else None
    if known is not None and resumed is not None and not any(map(header_problem, known["train"] + known["val"])):
        context.train_datalist, context.val_datalist = known["train"], known["val"]
        context.bad_cases = list(resumed.bad_cases)
        return
    context.datalist = _usable_cases(task, context, progress)
    train, val = call_hook(task.partition_datalist, context)
    context.train_datalist, context.val_datalist = list(train), list(val)
    require_cases(context)
    progress.log(f"{len(train)} cases to train on, {len(val)} held out, {len(context.bad_cases)} left out")


def _usable_cases(task: BasicTrainTask, context: Context, progress: Progress) -> list[Case]:
    """The cases that pass `CaseCheck`; the others are named in the context. Raises `StopAsked`."""
    own = {value for value in numbered_labels(task._labels).values() if value > 0}
    good, last_s = [], time.monotonic()
    for number, case in enumerate(context.datalist, start=1):
        if progress.should_stop():
            raise StopAsked
        check = CaseCheck(
            known_values=own | set(context.label_values.values()) if own else (),
            allow_empty=not asked.truth(context.request, "skip_empty", True) or bool(case.get(ANNOTATED)),
            whole_images=context.dataset_type == "Dataset",
        )
        problem = check.problem(case)
        if problem is None:
            good.append(case)
        else:
            leave_out(context, case, problem)
        if time.monotonic() - last_s > 1:
            last_s = time.monotonic()
            progress.report({"cases_checked": number, "cases": len(context.datalist)})
    return good

"""The labels of a training's cases, as its network counts them and with what was annotated of each.

Label files hold the values of the project's schema, and may have layers. A trainer whose transforms read them as they
are gets copies with its own values where these differ; `SegmentationTrain` reads the schema's values itself. If any
case was annotated in part only, each case has the key `ANNOTATED`, which `transforms.LoadAnnotatedd` understands;
transforms that do not look at it see what they always saw: background where nobody looked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.labels import TrainingLabel, TrainingLabelStore
from labelserver.contracts.progress import current_progress
from labelserver.domain.annotation import region_to_json
from labelserver.domain.errors import LabelServerError
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.schema import channels_of_values
from labelserver.tasks.base import Labels, numbered_labels
from labelserver.tasks.train_context import Case, Context
from labelserver.tasks.train_data import leave_out

#: Key of a case: JSON text about what was annotated, "" for everything. On all cases or on none.
ANNOTATED = "annotated"


def own_numbering(labels: Labels | str | None, stored: Mapping[str, int]) -> dict[int, int]:
    """Stored value -> the value that a trainer with these labels counts in.

    Args:
        labels: of the trainer; none: the contiguous ids 1..N that apps are shown.
        stored: the schema's values by name, in their order.
    """
    numbers = sorted((value, name) for name, value in numbered_labels(labels).items() if value > 0)
    if not numbers:
        return {value: number for number, value in enumerate(stored.values(), start=1)}
    channels = channels_of_values([name for _, name in numbers], stored)
    return {value: numbers[channel - 1][0] for value, channel in channels.items()}


def with_training_labels(
    context: Context, cases: list[Case], datastore: Datastore, labels: Labels | str | None, *, reads_stored: bool
) -> list[Case]:
    """The cases with the label files to train on. What cannot be used is left out and named in the context.

    Args:
        context: its `image_ids` and `label_values` are known.
        cases: as the app made them. One whose label is not the store's own file of its image is left as it is.
        datastore: where they come from.
        labels: of the trainer.
        reads_stored: the trainer's transforms understand the schema's values.
    """
    if not isinstance(datastore, TrainingLabelStore):
        return cases
    numbering = None if reads_stored else own_numbering(labels, context.label_values)
    kept: list[Case] = []
    told: dict[int, TrainingLabel] = {}
    for case in cases:
        image_id = context.image_ids.get(str(case.get("image", "")))
        if image_id is None or str(case.get("label", "")) != datastore.get_label_uri(image_id, FINAL):
            kept.append(case)
            continue
        try:
            found = datastore.training_label(ImageId(image_id), FINAL, numbering)
        except LabelServerError as error:
            leave_out(context, case, error.message)
            continue
        for note in found.notes:
            current_progress().log(f"{image_id}: {note}")
        if not found.is_complete:
            told[len(kept)] = found
        kept.append(case if found.file is None else {**case, "label": str(found.file)})
    if numbering is not None:
        context.label_values = {n: numbering[v] for n, v in context.label_values.items() if v in numbering}
    if not told:
        return kept
    current_progress().log(
        f"{len(told)} of {len(kept)} labels were annotated in part; the rest of them is not trained on."
    )
    return [{**case, ANNOTATED: _text(told.get(index))} for index, case in enumerate(kept)]


def _text(label: TrainingLabel | None) -> str:
    if label is None:
        return ""
    document: dict[str, Any] = {
        "values": None if label.annotated is None else sorted(label.annotated),
        "region": region_to_json(label.region),
        "mask": None if label.mask is None else str(label.mask),
    }
    return json.dumps(document)


def is_partly_annotated(context: Context) -> bool:
    """Whether any case of this run was annotated in part only."""
    return any(ANNOTATED in case for case in (*context.train_datalist, *context.val_datalist))

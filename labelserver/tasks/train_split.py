"""Which of a training's cases are held out, and what the store knows about the labels it learns from."""

from __future__ import annotations

from collections.abc import Sequence

from labelserver.contracts.datastore import Datastore, RevisionStore
from labelserver.contracts.labels import SchemaStore
from labelserver.contracts.progress import current_progress
from labelserver.contracts.splits import CacheStore, SplitStore
from labelserver.domain.errors import LabelNotFound
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.splits import Side, held_out
from labelserver.tasks.base import Labels
from labelserver.tasks.train_context import Context
from labelserver.tasks.train_outputs import outputs_of


def learn_from_store(context: Context, datastore: Datastore, labels: Labels | str | None) -> None:
    """Fill in what the store says about the labelled images: ids, sides, revisions, and where to keep prepared cases.

    Args:
        context: of the run.
        datastore: may offer less than the local one does.
        labels: of the trainer.
    """
    ids = datastore.get_labeled_images()
    context.image_ids = {datastore.get_image_uri(image_id): image_id for image_id in ids}
    if isinstance(datastore, SplitStore):
        datastore.compare_contents(ids)
        context.sides = datastore.sides(ids)
    if isinstance(datastore, RevisionStore):
        for image_id in ids:
            try:
                context.revisions[image_id] = datastore.current_revision(ImageId(image_id), FINAL)
            except LabelNotFound:  # removed since the list was made
                continue
    if isinstance(datastore, CacheStore):
        context.cache_home = datastore.cache_home()
    schema_ids: dict[str, str] = {}
    if isinstance(datastore, SchemaStore):
        context.label_values = datastore.label_values()
        for entry in datastore.schema().entries:
            schema_ids.update(dict.fromkeys((*entry.former_names, entry.name), entry.id))
    context.outputs = outputs_of(labels, schema_ids)


def held_out_of(image_ids: Sequence[str], share: float, context: Context) -> frozenset[str]:
    """The ids to measure on.

    Args:
        image_ids: of the cases. One that the store does not know (an app cut it out of an image) is placed by its id.
        share: 0: none. It decides about ids alone whose side the store has not fixed.
        context: knows sides and split key.
    """
    if share <= 0:
        return frozenset()
    known = [image_id for image_id in image_ids if image_id in context.sides]
    if not known:
        return held_out(image_ids, share, context.split_key)
    chosen = {image_id for image_id in known if context.sides[image_id].side is Side.HELD_OUT}
    chosen |= held_out([image_id for image_id in image_ids if image_id not in context.sides], share, context.split_key)
    if len(chosen) < len(set(image_ids)):
        return frozenset(chosen)
    current_progress().log(
        "All labels so far are of held-out images. They are trained on, because there is nothing else, and the version "
        "cannot be checked: label an image of the other side."
    )
    return frozenset()

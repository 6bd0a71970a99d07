"""A session's mask becomes a label of its image, and the label says which prompts and which model made it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from labelserver.contracts.datastore import Datastore, RevisionStore
from labelserver.domain.annotation import AnnotatedPart
from labelserver.domain.errors import Refused
from labelserver.domain.ids import Tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import Expected, LabelSource, Provenance, Revision
from labelserver.domain.prompts import Prompt
from labelserver.imaging.formats import split_ext
from labelserver.interaction.session_files import KeptSession
from labelserver.interaction.session_log import SessionLog


@dataclass(frozen=True, slots=True)
class Accepting:
    """Who accepts what, under which tag."""

    session: KeptSession
    log: SessionLog
    person: str
    tag: Tag
    client: str
    info: JsonObject
    expected: Expected
    annotated: AnnotatedPart | None  #: None: the model's labels, everywhere

    def into(self, store: Datastore, file: Path) -> tuple[str, Revision | None]:
        """Store `file`, whose labels are 1..N in the order of their values. Blocks.

        Returns:
            The label's id, and its revision where the store keeps them.

        Raises:
            Refused: the image is none of the datastore. Else as `RevisionStore.accept_label`.
        """
        kept = self.session
        if kept.image_id is None:
            raise Refused("This session's image is not in the datastore, so it can hold no label there.")
        names = sorted(kept.label_values, key=lambda name: kept.label_values[name])
        info: JsonObject = {
            **self.info,
            "label_info": [{"name": name, "idx": number} for number, name in enumerate(names, start=1)],
            "prompts": {"count": self.log.prompts, "steps": self.log.undoable, "sha256": digest(self.log)},
            "model": kept.task,
        }
        if not isinstance(store, RevisionStore):
            return store.save_label(kept.image_id, str(file), self.tag, info), None
        revision = store.accept_label(
            kept.image_id,
            file,
            split_ext(file.name)[1],
            self.tag,
            Provenance(self.person, self.client, LabelSource.PROMPTS, kept.task, self.log.model_version),
            info,
            expected=self.expected,
            floats=False,
            annotated=self.annotated or AnnotatedPart(labels=tuple(names) or None),
        )
        return revision.image_id, revision


def digest(log: SessionLog) -> str:
    """SHA-256 over the prompts in force, in order."""
    prompts: list[Prompt] = []
    for step in log.read()[0]:
        prompts = [] if step.cleared else [*prompts, *step.prompts]
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(json.dumps(prompt.to_json(), sort_keys=True).encode())
    return found.hexdigest()

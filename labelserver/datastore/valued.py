"""The part of the local store that knows what label values mean: see `contracts.labels.SchemaStore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labelserver.contracts.labels import TrainingLabel
from labelserver.datastore import audit
from labelserver.datastore.audit import AuditFile
from labelserver.datastore.index import Index
from labelserver.datastore.project import Project
from labelserver.datastore.training_labels import TrainingLabels
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.schema import LabelSchema


class Valued:
    """Names and values. A class of its own, so that the store stays readable; `LocalDatastore` is one."""

    _index: Index
    _audit: AuditFile
    _project: Project
    _training_labels: TrainingLabels

    def schema(self) -> LabelSchema:
        return self._project.schema()

    def set_schema(self, wanted: LabelSchema, *, based_on: int | None = None, person: str = "") -> LabelSchema:
        """See `contracts.labels.SchemaStore`."""
        schema = self._project.replace(wanted, based_on)
        with self._index.writing() as connection:
            audit.record(connection, audit.Act("schema", person, detail={"version": schema.version}))
        self._audit.keep()
        return schema

    def learn_labels(self, names: Sequence[str]) -> None:
        self._project.learn(names)

    def label_values(self) -> dict[str, int]:
        return self._project.schema().values()

    def training_label(self, image_id: ImageId, tag: Tag, numbering: Mapping[int, int] | None = None) -> TrainingLabel:
        """See `contracts.labels.TrainingLabelStore`."""
        return self._training_labels.label(image_id, tag, numbering)

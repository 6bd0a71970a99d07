"""Labels, their revisions and the project's schema on the new routes. Times are Unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.annotation import Annotation
from labelserver.domain.diffs import Ijk, LabelDiff
from labelserver.domain.labels import LabelSource, Revision
from labelserver.domain.schema import LabelSchema, SchemaMode


class Annotated(BaseModel):
    """What was annotated: `labels` by schema id, null for all; `region` of the stored grid, counted in voxels.

    A region is ``{"kind": "whole"}``, ``{"kind": "slices", "axis": 2, "slices": [40, 41]}``, ``{"kind": "boxes",
    "boxes": [[[0, 0, 0], [9, 9, 9]]]}`` (the second corner is the first voxel outside) or ``{"kind": "mask", "sha256",
    "voxels"}``, whose voxels ``?annotated=mask`` fetches.
    """

    model_config = ConfigDict(extra="forbid")

    labels: list[str] | None = None
    region: dict[str, Any] = Field(default_factory=lambda: {"kind": "whole"})

    @classmethod
    def from_domain(cls, annotation: Annotation) -> Self:
        return cls.model_validate(annotation.to_json())


class LabelRevision(BaseModel):
    """One accepted label. `info` is what its saver sent, and what was recorded about its axes and values."""

    model_config = ConfigDict(extra="ignore")

    image: str
    tag: str
    number: int
    current: bool
    parent: int | None
    author: str
    client: str
    created_ts: float
    time: str = Field(description="The same as ISO 8601 in UTC.")
    source: LabelSource
    model: str
    model_version: str
    sha256: str
    etag: str = Field(description="For If-Match.")
    size_bytes: int
    ext: str
    schema_version: int
    annotated: Annotated = Field(description="Which labels and which part of the image were looked at.")
    info: dict[str, Any]

    @classmethod
    def from_domain(cls, revision: Revision, *, current: bool) -> Self:
        made_by = revision.provenance
        return cls(
            image=revision.image_id,
            tag=revision.tag,
            number=revision.number,
            current=current,
            parent=revision.parent,
            author=made_by.person,
            client=made_by.client,
            created_ts=revision.created_ts,
            time=datetime.fromtimestamp(revision.created_ts, tz=UTC).isoformat(timespec="milliseconds"),
            source=made_by.source,
            model=made_by.model,
            model_version=made_by.model_version,
            sha256=revision.sha256,
            etag=f'"{revision.sha256}"',
            size_bytes=revision.size_bytes,
            ext=revision.ext,
            schema_version=revision.schema_version,
            annotated=Annotated.from_domain(revision.annotation),
            info=dict(revision.info),
        )


class RevisionList(BaseModel):
    """Oldest first."""

    revisions: list[LabelRevision]


class ChangedLabel(BaseModel):
    """Voxels of one label before and after; `dice` is their overlap."""

    value: int
    name: str
    before: int
    after: int
    added: int
    removed: int
    dice: float


class ChangedBox(BaseModel):
    """The smallest box of voxel indices that holds every change; both corners belong to it."""

    first: Ijk
    last: Ijk


class RevisionDiff(BaseModel):
    """What changed from revision `before` to revision `after`."""

    before: int
    after: int
    changed_voxels: int
    changed_box_ijk: ChangedBox | None
    labels: list[ChangedLabel]
    compared_voxels: int | None = Field(description="Those that both revisions annotated; null: all.")
    not_compared: list[str] = Field(description="Labels that one of them did not annotate.")

    @classmethod
    def from_domain(cls, diff: LabelDiff) -> Self:
        box = None
        if diff.first_ijk is not None and diff.last_ijk is not None:
            box = ChangedBox(first=diff.first_ijk, last=diff.last_ijk)
        labels = [
            ChangedLabel(
                value=c.value,
                name=c.name,
                before=c.before,
                after=c.after,
                added=c.added,
                removed=c.removed,
                dice=c.dice,
            )
            for c in diff.labels
        ]
        return cls(
            before=diff.before,
            after=diff.after,
            changed_voxels=diff.changed_voxels,
            changed_box_ijk=box,
            labels=labels,
            compared_voxels=diff.compared_voxels,
            not_compared=list(diff.not_compared),
        )


class Term(BaseModel):
    """A concept of a terminology, e.g. ``SCT``, ``10200004``, ``Liver``."""

    model_config = ConfigDict(extra="forbid")

    scheme: str
    value: str
    meaning: str


class SchemaLabel(BaseModel):
    """One label of the schema. What is left out when it is set is chosen: the next free value, a colour, an id."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    value: int | None = None
    name: str
    color: tuple[int, int, int] | None = None
    term: Term | None = None
    former_names: list[str] = []


class Schema(BaseModel):
    """The project's schema; its labels are in the order of their values."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(default=0, description="When it is set: ignored, see `based_on`.")
    mode: SchemaMode = SchemaMode.OPEN
    labels: list[SchemaLabel]
    based_on: int | None = Field(
        default=None, description="When it is set: the version it changes; 409 if not current."
    )

    def to_domain(self) -> LabelSchema:
        """Raises `InvalidParams`."""
        return LabelSchema.from_json(self.model_dump(mode="json", exclude={"based_on", "version"}))

    @classmethod
    def from_domain(cls, schema: LabelSchema) -> Self:
        return cls.model_validate(schema.to_json())


class Draft(BaseModel):
    """Unfinished work of one person on one image. It is no label."""

    model_config = ConfigDict(extra="ignore")

    id: str
    image: str
    tag: str
    updated_ts: float
    ext: str
    size_bytes: int
    sha256: str
    info: dict[str, Any]

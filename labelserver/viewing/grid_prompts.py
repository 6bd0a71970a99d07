"""Prompts and masks between a viewer's grid and the stored file, and model labels in the project's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.contracts.labels import SchemaStore
from labelserver.domain.prompts import MaskBox, Prompt
from labelserver.domain.schema import NamedSegment, SchemaMode
from labelserver.viewing.ras_volumes import Placed
from labelserver.wire.mask_box import Box, Ijk


def prompt_in_file(prompt: Prompt, where: Placed) -> Prompt:
    """A prompt on the grid, in the file's voxels."""
    back, dims = where.change.inverse(), where.grid.shape
    points = back.apply_to_points(prompt.points, dims) if len(prompt.points) else prompt.points
    if prompt.mask is None:
        return replace(prompt, points=points)
    lo, _ = back.apply_to_box(prompt.mask.lo, prompt.mask.hi, dims)
    return replace(prompt, points=points, mask=MaskBox(lo, back.apply(prompt.mask.voxels)))


def change_on_grid(lo: Ijk, values: NDArray[Any], where: Placed) -> tuple[Box, NDArray[Any]]:
    """A box of the file's voxels that begins at `lo`, on the grid."""
    hi = (lo[0] + values.shape[0], lo[1] + values.shape[1], lo[2] + values.shape[2])
    return Box(*where.change.apply_to_box(lo, hi, where.file.shape)), where.change.apply(values)


@dataclass(frozen=True, slots=True)
class SchemaValues:
    """A model's labels in the project's values."""

    labels: dict[str, int]  #: name of the model -> value of the schema
    unknown: tuple[str, ...]  #: names that a strict schema lacks
    table: NDArray[Any]  #: (256,), value in the model's mask -> value of the schema

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """A mask of the model in the schema's values, uint8 or uint16."""
        found: NDArray[Any] = self.table[values]
        return found


def schema_values(store: object, model_values: Mapping[str, int]) -> SchemaValues:
    """Where the model's labels stand in the schema; an open one learns their names. May block.

    Args:
        store: the datastore in use; one without a schema keeps the model's values.
        model_values: name -> value in the model's mask.
    """
    if not isinstance(store, SchemaStore):
        return _values(dict(model_values), dict(model_values), ())
    schema = store.schema()
    missing = [name for name in model_values if schema.find(NamedSegment(name)) is None]
    if missing and schema.mode is SchemaMode.OPEN:
        store.learn_labels(missing)
        schema = store.schema()
    found = {name: schema.find(NamedSegment(name)) for name in model_values}
    labels = {name: entry.value for name, entry in found.items() if entry is not None}
    return _values(dict(model_values), labels, tuple(name for name, entry in found.items() if entry is None))


def _values(model_values: dict[str, int], labels: dict[str, int], unknown: tuple[str, ...]) -> SchemaValues:
    table = np.zeros(256, np.uint8 if max(labels.values(), default=0) <= 255 else np.uint16)
    for name, value in labels.items():
        if 0 < model_values[name] < len(table):
            table[model_values[name]] = value
    return SchemaValues(labels, unknown, table)

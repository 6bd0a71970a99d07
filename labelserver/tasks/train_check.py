"""Every case of a training is looked at before the first epoch, so that no run ends at its last case on a bad file.

Headers tell whether files are there, readable and in the same place; a label's voxels, whether they are labels at all
and whether there is anything to learn from. Images are read to their end only where nothing else reads them before the
first epoch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import LabelServerError, UnsupportedFormat
from labelserver.domain.schema import NOT_ANNOTATED
from labelserver.imaging.volumes import check_whole, read_volume
from labelserver.tasks.train_context import Case
from labelserver.tasks.train_data import header_problem

#: values named in a sentence
_NAMED = 5


@dataclass(frozen=True, slots=True)
class CaseCheck:
    """What is asked of a case.

    Args:
        known_values: values with a meaning for the trainer or in the project; empty: any.
        allow_empty: a label without foreground is a case to learn from.
        whole_images: read image files to their end.
    """

    known_values: Collection[int] = ()
    allow_empty: bool = False
    whole_images: bool = False

    def problem(self, case: Case) -> str | None:
        """What is wrong with the case, as a sentence; None if it can be trained on."""
        found = header_problem(case)
        if found is not None:
            return found
        image, label = _file(case, "image"), _file(case, "label")
        try:
            if image is not None and self.whole_images:
                check_whole(image)
        except UnsupportedFormat:
            pass
        except LabelServerError as error:
            return f"The image cannot be read: {error.message}"
        try:
            return None if label is None else self._label_problem(read_volume(label).voxels)
        except UnsupportedFormat:  # left to the app's own reader
            return None
        except LabelServerError as error:
            return f"The label cannot be read: {error.message}"

    def _label_problem(self, voxels: NDArray[Any]) -> str | None:
        values = _values(voxels)
        if isinstance(values, str):
            return values
        foreground = [value for value in values if value not in (0, NOT_ANNOTATED)]
        if not foreground:
            return None if self.allow_empty else "The label is empty: no voxel of it stands for anything."
        if self.known_values and not set(foreground) & set(self.known_values):
            held = ", ".join(str(value) for value in foreground[:_NAMED])
            known = ", ".join(str(value) for value in sorted(self.known_values)[:_NAMED])
            return f"The label holds the values {held}, and none of them stands for a label here (known: {known})."
        return None


def _values(voxels: NDArray[Any]) -> list[int] | str:
    """The values that occur, or why they are no labels."""
    if voxels.size == 0:
        return "The label has no voxels."
    if voxels.dtype.kind == "f":
        if not np.isfinite(voxels).all():
            return "The label holds values that are no numbers."
        if not (voxels == np.rint(voxels)).all():
            return "The label holds fractions; a label's values are whole numbers."
    elif voxels.dtype.kind not in "iub":
        return f"The label's voxels are of the type {voxels.dtype}; a label's values are whole numbers."
    low, high = int(voxels.min()), int(voxels.max())
    if low < 0:
        return f"The label holds the value {low}; a label's values are 0 or more."
    if high < 2**16:
        in_memory_order = voxels.astype(np.uint16).ravel(order="K")  # a file's own order: nothing is copied once more
        return [int(value) for value in np.flatnonzero(np.bincount(in_memory_order))]
    return [int(value) for value in np.unique(voxels)]


def _file(case: Case, key: str) -> Path | None:
    value = case.get(key)
    path = Path(value) if isinstance(value, str | Path) else None
    return path if path is not None and path.is_file() else None

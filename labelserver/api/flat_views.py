"""A segmentation with overlapping layers as one flat map: a view, which says how much it cannot show."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from labelserver.datastore.label_diff import masks_of
from labelserver.datastore.label_values import stored_dtype
from labelserver.domain.labels import Revision
from labelserver.imaging.volumes import read_grid, write_volume


def flat_copy(revision: Revision, file: Path, spool: Path) -> tuple[Path, int]:
    """Write the label as NIfTI with the schema's values; where segments overlap, the larger value is shown.

    Returns:
        The copy, which the caller deletes, and the number of voxels that belong to several segments.
    """
    grid = read_grid(file)
    masks = masks_of(revision, file)
    flat = np.zeros(grid.shape, stored_dtype(max(masks, default=0)))
    count = np.zeros(grid.shape, np.uint16)
    for value in sorted(masks):
        flat[masks[value]] = value
        count += masks[value]
    spool.mkdir(parents=True, exist_ok=True)
    target = spool / f"flat-{uuid.uuid4().hex}.nii.gz"
    write_volume(target, flat, grid.affine, compress=True)
    return target, int((count > 1).sum())

"""Views of a label as flat maps: overlapping layers as one map, which says how much it cannot show; its region."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from labelserver.datastore.label_diff import masks_of
from labelserver.datastore.training_labels import flattened
from labelserver.domain.geometry import Grid
from labelserver.domain.labels import Revision
from labelserver.domain.region_masks import RegionMask
from labelserver.imaging.volumes import read_grid, write_volume


def flat_copy(revision: Revision, file: Path, spool: Path) -> tuple[Path, int]:
    """Write the label as NIfTI with the schema's values; where segments overlap, the larger value is shown.

    Returns:
        The copy, which the caller deletes, and the number of voxels that belong to several segments.
    """
    grid = read_grid(file)
    flat, overlapping = flattened(masks_of(revision, file), grid.shape)
    spool.mkdir(parents=True, exist_ok=True)
    target = spool / f"flat-{uuid.uuid4().hex}.nii.gz"
    write_volume(target, flat, grid.affine, compress=True)
    return target, overlapping


def annotated_copy(mask: RegionMask, grid: Grid, spool: Path, *, picture: bool) -> Path:
    """Write 1 where a label was annotated and 0 elsewhere, as NIfTI or PNG; the caller deletes the copy."""
    spool.mkdir(parents=True, exist_ok=True)
    target = spool / f"annotated-{uuid.uuid4().hex}{'.png' if picture else '.nii.gz'}"
    write_volume(target, mask.astype(np.uint8), grid.affine, compress=True)
    return target

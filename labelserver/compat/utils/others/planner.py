"""Typical spacing and size of a study's images, as apps ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labelserver.contracts.datastore import Datastore
from labelserver.domain.errors import LabelServerError
from labelserver.imaging.volumes import read_grid, read_volume


class HeuristicPlanner:
    """After `run`: ``target_spacing`` (mean, mm), ``spatial_size`` and the range of intensities."""

    def __init__(
        self,
        target_spacing: Sequence[float] = (1.0, 1.0, 1.0),
        spatial_size: Sequence[int] = (128, 128, 64),
        max_samples: int = 10,
    ) -> None:
        self.target_spacing = list(target_spacing)
        self.spatial_size = list(spatial_size)
        self.max_samples = max_samples
        self.max_pix = self.min_pix = self.mean_pix = self.std_pix = 0.0

    def run(self, datastore: Datastore) -> None:
        """Look at up to `max_samples` images, evenly spread over the list; unreadable ones are left out."""
        images = datastore.list_images()
        step = max(1, len(images) // max(1, self.max_samples))
        spacings, ranges = [], []
        for image in images[::step][: self.max_samples]:
            path = Path(datastore.get_image_uri(image))
            try:
                spacings.append(read_grid(path).spacing_mm)
                voxels = read_volume(path).voxels
            except LabelServerError:
                continue
            ranges.append((float(voxels.max()), float(voxels.min()), float(voxels.mean()), float(voxels.std())))
        if spacings and ranges:
            self.target_spacing = [round(float(np.mean(axis)), 2) for axis in zip(*spacings, strict=True)]
            self.max_pix, self.min_pix, self.mean_pix, self.std_pix = np.mean(ranges, axis=0).tolist()

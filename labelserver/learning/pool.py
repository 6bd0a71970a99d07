"""What a strategy looks at: the images that wait for a label, as columns, and how far the project is.

Columns instead of records, so that a pool of 100 000 images is a few arrays, and every selector a few lines of numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]  #: (N,), one value an image; NaN where it is not known
Table = NDArray[np.float64]  #: (N, D), one row an image; a row of NaN where it is not known
Order = NDArray[np.intp]  #: (K,) rows of the pool, the best first


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Images without a label, and what is known of them.

    Args:
        ids: (N,) of the images, in the store's order.
        scores: name -> (N,); larger means less sure. Names: ``entropy``, ``margin``, ``bald``, ``foreground``.
        classes: (N, C) entropy weighted by the probability of each class but background; (N, 0) without a model.
        embeddings: (N, D); near means alike. (N, 0) without any.
        labelled: (M, D) embeddings of the images that have a label.
        labels: how many images have a label, also those whose embedding is not known.
        progress: how far the project is on its way to the labels it plans to have, 0 to 1.
        has_model: whether scores come from a model that has learnt from this project's labels.
    """

    ids: tuple[str, ...]
    scores: Mapping[str, Column] = field(default_factory=dict)
    classes: Table = field(default_factory=lambda: np.empty((0, 0)))
    embeddings: Table = field(default_factory=lambda: np.empty((0, 0)))
    labelled: Table = field(default_factory=lambda: np.empty((0, 0)))
    labels: int = 0
    progress: float = 0.0
    has_model: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def score(self, name: str) -> Column:
        """The column, all NaN if nobody has computed it."""
        return self.scores.get(name, np.full(len(self.ids), np.nan))

    @property
    def class_scores(self) -> Table:
        """`classes`, with no columns where none were given."""
        return self.classes if len(self.classes) == len(self.ids) else np.empty((len(self.ids), 0))

    @property
    def places(self) -> Table:
        """`embeddings`, with no columns where none were given."""
        return self.embeddings if len(self.embeddings) == len(self.ids) else np.empty((len(self.ids), 0))


@dataclass(frozen=True, slots=True)
class Pick:
    """An image that a strategy chose, and why, in words for the annotator."""

    image_id: str
    reason: str

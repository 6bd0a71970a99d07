"""What a network says about an image, as probabilities of classes of which the first is background."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.tasks.scoring_epistemic_v2 import as_probabilities


def class_probabilities(pred: Any) -> NDArray[np.float32]:
    """What an infer task left in ``pred`` as (C, ...) that sum to 1, class 0 being background.

    One channel is the probability of a single label. Channels that do not sum to 1 (a sigmoid each) get a background
    that is what none of them wants, and are scaled.
    """
    found = as_probabilities(pred)
    if len(found) == 1:
        return np.concatenate([1.0 - found, found])
    total = found.sum(axis=0)
    if float(np.abs(total - 1.0).max(initial=0.0)) < 1e-2:
        return found
    full = np.concatenate([np.prod(1.0 - found, axis=0, keepdims=True), found])
    return np.asarray(full / np.maximum(full.sum(axis=0), 1e-6), dtype=np.float32)

"""How unsure a model is, from its class probabilities: of voxels, and of an image as one number. numpy only.

Shapes: a *look* is what the model says once, (C, ...) probabilities that sum to 1 over the classes, class 0 being
background. Several looks differ by dropout, by snapshots of the weights or by flips of the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]  #: (C, ...)
Map = NDArray[np.float32]  #: (...), one value a voxel

_TINY = 1e-12  #: keeps log finite


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What several looks at one image have in common: their mean, and the mean of their entropies."""

    mean: Probabilities
    mean_entropy: Map  #: expected entropy of a single look, nats
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class ImageScores:
    """One image's numbers; all are means over its voxels, larger means less sure.

    entropy: of the mean prediction, as a share of the largest possible (ln C), 0 to 1.
    margin: 1 - (largest - second largest probability), 0 to 1.
    bald: entropy of the mean - mean entropy of the looks, as a share of ln C: what the looks disagree about. 0 for one.
    foreground: probability of any class but background.
    classes: (C - 1,) entropy weighted by the probability of each class but background.
    """

    entropy: float
    margin: float
    bald: float
    foreground: float
    classes: tuple[float, ...]


def gather(looks: Iterable[Probabilities]) -> Looks:
    """Sum looks up one by one, so that only one is in memory. Raises `ValueError` without any."""
    mean: Probabilities | None = None
    entropy: Map | None = None
    count = 0
    for look in looks:
        count += 1
        found = np.asarray(look, dtype=np.float32)
        if mean is None or entropy is None:
            mean, entropy = np.array(found), entropy_map(found)
        else:
            mean += (found - mean) / count
            entropy += (entropy_map(found) - entropy) / count
    if mean is None or entropy is None:
        raise ValueError("there was no look at the image")
    return Looks(mean, entropy, count)


def entropy_map(probabilities: Probabilities) -> Map:
    """-sum p log p over the classes, nats."""
    p = np.clip(probabilities, _TINY, 1.0)
    return np.asarray(-(p * np.log(p)).sum(axis=0), dtype=np.float32)


def margin_map(probabilities: Probabilities) -> Map:
    """1 - (largest - second largest probability)."""
    if len(probabilities) < 2:
        return np.zeros(probabilities.shape[1:], dtype=np.float32)
    ordered = np.partition(probabilities, (-2, -1), axis=0)
    return np.asarray(1.0 - (ordered[-1] - ordered[-2]), dtype=np.float32)


def bald_map(looks: Looks) -> Map:
    """Mutual information between answer and weights, nats (Houlsby et al. 2011, https://arxiv.org/abs/1112.5745)."""
    return np.asarray(np.maximum(entropy_map(looks.mean) - looks.mean_entropy, 0.0), dtype=np.float32)


def scores_of(looks: Looks) -> ImageScores:
    """The numbers of one image."""
    most = max(float(np.log(len(looks.mean))), _TINY)
    entropy = entropy_map(looks.mean) / most
    return ImageScores(
        entropy=float(entropy.mean(dtype=np.float64)),
        margin=float(margin_map(looks.mean).mean(dtype=np.float64)),
        bald=float(bald_map(looks).mean(dtype=np.float64)) / most if looks.count > 1 else 0.0,
        foreground=float(1.0 - looks.mean[0].mean(dtype=np.float64)),
        classes=tuple(float((entropy * p).mean(dtype=np.float64)) for p in looks.mean[1:]),
    )

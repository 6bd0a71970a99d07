"""A learner for simulations that must take seconds: extra-trees on smoothed intensities of voxels (scikit-learn).

It is no rival of a network; it learns steadily from few labels, always the same from the same seed, and so shows what a
strategy does without the noise of a network's training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.ensemble import ExtraTreesClassifier

from labelserver.learning.simulation import Case, Trained
from labelserver.learning.uncertainty import ImageScores, gather, scores_of

#: voxels that a case gives to a training, drawn evenly, and as many more of each of its labels
_VOXELS, _PER_LABEL = 1500, 150
_TREES = 24
#: voxels along each axis of which one is looked at when measuring and scoring
_STEP = 2
_SCALES = (0.6, 1.0, 2.0)  #: voxels
#: shares of the voxels below the intensities that tell a voxel what kind of image it is in
_LEVELS = (0.3, 0.5, 0.7, 0.9)
#: groups of trees whose answers count as different looks
_LOOKS = 4


class FastLearner:
    """Learns from cases whose labels have the values 1 to `labels`."""

    def __init__(self, labels: int) -> None:
        self._classes = labels + 1
        self._features: dict[str, NDArray[np.float32]] = {}

    def train(self, cases: Sequence[Case], seed: int, round_number: int) -> Trained:
        chance = np.random.default_rng([seed, round_number])
        parts = [self._sample(case, chance) for case in cases]
        model = ExtraTreesClassifier(
            _TREES, min_samples_leaf=2, max_features=None, random_state=int(chance.integers(2**31)), n_jobs=1
        )
        model.fit(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))
        return FastModel(self, model, self._classes)

    def looked_at(self, case: Case) -> NDArray[np.float32]:
        """(V, F) features of every second voxel along each axis."""
        step = (slice(None, None, _STEP),) * 3
        grid = self.features(case)[step]
        return grid.reshape(-1, grid.shape[-1])

    def features(self, case: Case) -> NDArray[np.float32]:
        """(I, J, K, F): image, smoothed at three scales, edges, the voxel's place (0 to 1), and the image's levels."""
        if case.name not in self._features:
            image = case.image
            smooth = [ndimage.gaussian_filter(image, scale) for scale in _SCALES]
            edges = ndimage.gaussian_gradient_magnitude(image, _SCALES[0])
            axes = [np.linspace(0.0, 1.0, size, dtype=np.float32) for size in image.shape]
            places = np.meshgrid(*axes, indexing="ij")
            whole = [np.full(image.shape, level) for level in np.quantile(image, _LEVELS)]
            self._features[case.name] = np.stack([image, *smooth, edges, *places, *whole], axis=-1).astype(np.float32)
        return self._features[case.name]

    def _sample(self, case: Case, chance: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        label = case.label.ravel()
        rows = [chance.choice(len(label), min(_VOXELS, len(label)), replace=False)]
        for value in np.unique(label):
            own = np.flatnonzero(label == value)
            rows.append(own if len(own) <= _PER_LABEL else chance.choice(own, _PER_LABEL, replace=False))
        chosen = np.unique(np.concatenate(rows))
        features = self.features(case)
        return features.reshape(-1, features.shape[-1])[chosen], label[chosen]


class FastModel:
    """Trees that were grown."""

    def __init__(self, learner: FastLearner, model: ExtraTreesClassifier, classes: int) -> None:
        self._learner, self._model, self._classes = learner, model, classes
        self._known = model.classes_.astype(np.intp)

    def dice(self, case: Case) -> dict[int, float]:
        found = self._looks(case).mean(axis=0).argmax(axis=0)
        truth = case.label[(slice(None, None, _STEP),) * 3].ravel()
        scores: dict[int, float] = {}
        for value in range(1, self._classes):
            ours, theirs = found == value, truth == value
            size = int(ours.sum()) + int(theirs.sum())
            if size:
                scores[value] = 2.0 * int((ours & theirs).sum()) / size
        return scores

    def scores(self, case: Case) -> ImageScores:
        return scores_of(gather(self._looks(case)))

    def _looks(self, case: Case) -> NDArray[np.float32]:
        """(looks, C, V): each look is a quarter of the trees."""
        rows = self._learner.looked_at(case)
        found = np.zeros((_LOOKS, self._classes, len(rows)), dtype=np.float32)
        trees = self._model.estimators_
        for number, tree in enumerate(trees):
            found[number % _LOOKS, self._known] += tree.predict_proba(rows).T
        return found / (len(trees) / _LOOKS)

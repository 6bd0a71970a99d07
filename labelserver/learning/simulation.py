"""What would have happened: a labeled data set replayed as if its labels came one by one, chosen by a strategy.

Every round a learner is trained anew on the labels so far, measured on fixed test cases, and looks at the rest of the
pool; the strategy then chooses from what the learner said. The same seed gives the same start and the same learner to
every strategy, so that seeds are pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.domain.json_types import JsonObject
from labelserver.learning.choosing import Chooser
from labelserver.learning.image_features import intensity_features, standardised
from labelserver.learning.pool import Pool, Table
from labelserver.learning.uncertainty import ImageScores

#: seconds that a person is thought to spend on an image, and on each 1 000 voxels of the labels' surfaces
_OPEN_S, _SURFACE_S = 20.0, 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A labeled image of a simulation. `image`: (I, J, K) float32; `label`: (I, J, K), 0 background."""

    name: str
    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)
    group: str = ""  #: where it comes from, if known; no strategy sees it

    @property
    def foreground(self) -> int:
        """Voxels of any label."""
        return int(np.count_nonzero(self.label))

    @property
    def cost_s(self) -> float:
        """Seconds that drawing the label is thought to take: 20 s and 2 s for each 1 000 voxels of its surface."""
        mask = self.label > 0
        surface = int(np.count_nonzero(mask & ~ndimage.binary_erosion(mask)))
        return _OPEN_S + _SURFACE_S * surface / 1000.0


class Trained(Protocol):
    """What a learner made of some labels."""

    def dice(self, case: Case) -> dict[int, float]:
        """Dice of each label value that truth or answer holds."""

    def scores(self, case: Case) -> ImageScores:
        """How unsure it is about the image; it does not look at the label."""


class Learner(Protocol):
    """Something that learns to segment."""

    def train(self, cases: Sequence[Case], seed: int, round_number: int) -> Trained: ...


@dataclass(frozen=True, slots=True)
class Budget:
    """How many labels there are: `start` at first, then `rounds` times `batch` more."""

    start: int = 4
    batch: int = 4
    rounds: int = 5

    @property
    def total(self) -> int:
        return self.start + self.batch * self.rounds


@dataclass(frozen=True, slots=True)
class Round:
    """One training: what it had, and how good it was.

    dice: mean over the labels of each test case, then over cases.
    foreground: share of the pool's labeled voxels that are in the labels so far.
    cost_s: seconds that the labels so far are thought to have taken.
    picks: image and reason of what was labeled for this round.
    """

    labels: int
    dice: float
    by_label: Mapping[str, float]
    foreground: float
    cost_s: float
    picks: tuple[tuple[str, str], ...]

    def to_json(self) -> JsonObject:
        return {
            "labels": self.labels,
            "dice": round(self.dice, 6),
            "by_label": {name: round(value, 6) for name, value in self.by_label.items()},
            "foreground": round(self.foreground, 6),
            "cost_s": round(self.cost_s, 1),
            "picks": [[name, reason] for name, reason in self.picks],
        }

    @classmethod
    def from_json(cls, document: JsonObject) -> Round:
        """Raises KeyError, TypeError or ValueError on anything else."""
        by_label, picks = document["by_label"], document["picks"]
        if not isinstance(by_label, dict) or not isinstance(picks, list):
            raise TypeError("by_label is an object, picks a list")
        return cls(
            labels=int(str(document["labels"])),
            dice=float(str(document["dice"])),
            by_label={name: float(str(value)) for name, value in by_label.items()},
            foreground=float(str(document["foreground"])),
            cost_s=float(str(document["cost_s"])),
            picks=tuple((str(p[0]), str(p[1])) for p in picks if isinstance(p, list)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Cases to choose from, cases to measure on, and embeddings of the former."""

    pool: tuple[Case, ...]
    test: tuple[Case, ...]
    embeddings: Table = field(default_factory=lambda: np.empty((0, 0)))

    @classmethod
    def of(cls, pool: Sequence[Case], test: Sequence[Case]) -> DataSet:
        """With intensity features as embeddings."""
        rows = np.asarray([intensity_features(case.image, case.spacing_mm) for case in pool], dtype=np.float64)
        return cls(tuple(pool), tuple(test), standardised(rows) if len(rows) else np.empty((0, 0)))


def simulate(
    data: DataSet,
    learner: Learner,
    choose: Chooser,
    budget: Budget,
    seed: int,
    on_round: Callable[[Round], None] = lambda found: None,
    *,
    done: Sequence[Round] = (),
) -> list[Round]:
    """Replay one strategy with one seed; `on_round` hears of each training when it is done.

    `done`: the rounds of an earlier run that was broken off. Their picks are taken over, and only the last of their
    trainings is done again, because the next picks come from what it learnt.
    """
    names = {case.name: row for row, case in enumerate(data.pool)}
    rounds = list(done)
    labelled = [names[name] for found in rounds for name, _ in found.picks]
    trained: Trained | None = None
    if 0 < len(rounds) <= budget.rounds:
        trained = learner.train([data.pool[row] for row in labelled], seed, len(rounds) - 1)
    for number in range(len(rounds), budget.rounds + 1):
        waiting = [row for row in range(len(data.pool)) if row not in set(labelled)]
        wanted = min(budget.batch if number else budget.start, len(waiting))
        pool = _pool(data, waiting, labelled, trained, number / max(budget.rounds, 1))
        picks = choose(pool, wanted, _seed(seed, number))
        labelled += [names[pick.image_id] for pick in picks]
        trained = learner.train([data.pool[row] for row in labelled], seed, number)
        found = _measured(data, trained, labelled, tuple((p.image_id, p.reason) for p in picks))
        rounds.append(found)
        on_round(found)
    return rounds


def _pool(data: DataSet, waiting: list[int], labelled: list[int], trained: Trained | None, progress: float) -> Pool:
    places = data.embeddings if len(data.embeddings) else np.empty((len(data.pool), 0))
    pool = Pool(
        tuple(data.pool[row].name for row in waiting),
        embeddings=places[waiting],
        labelled=places[labelled],
        labels=len(labelled),
        progress=progress,
    )
    if trained is None:
        return pool
    found = [trained.scores(data.pool[row]) for row in waiting]
    columns = {
        name: np.asarray([getattr(one, name) for one in found], dtype=np.float64)
        for name in ("entropy", "margin", "bald", "foreground")
    }
    classes = np.asarray([one.classes for one in found], dtype=np.float64).reshape(len(found), -1)
    return replace(pool, scores=columns, classes=classes, has_model=True)


def _measured(data: DataSet, trained: Trained, labelled: list[int], picks: tuple[tuple[str, str], ...]) -> Round:
    per_case = [trained.dice(case) for case in data.test]
    means = [float(np.mean(list(found.values()))) if found else 1.0 for found in per_case]
    values = sorted({value for found in per_case for value in found})
    by_label = {str(v): float(np.mean([found[v] for found in per_case if v in found])) for v in values}
    total = sum(case.foreground for case in data.pool)
    return Round(
        labels=len(labelled),
        dice=float(np.mean(means)) if means else 0.0,
        by_label=by_label,
        foreground=sum(data.pool[row].foreground for row in labelled) / max(total, 1),
        cost_s=sum(data.pool[row].cost_s for row in labelled),
        picks=picks,
    )


def _seed(seed: int, number: int) -> int:
    """Of one round: the same on every machine, and far from those of neighbouring seeds and rounds."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")

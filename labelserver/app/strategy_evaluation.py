"""Strategies measured on a labeled data set: the cases, the runs, what they say together, and a file that remembers.

A run is one strategy with one seed. Every finished round is written down, so that a run that was broken off goes on
where it was; the answer is the same as without the break.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from labelserver.domain.errors import GridsDiffer, InvalidParams
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.formats import split_ext
from labelserver.imaging.volumes import read_volume
from labelserver.learning import strategy_metrics as metrics
from labelserver.learning.choosing import CHOOSERS
from labelserver.learning.simulation import Budget, Case, DataSet, Learner, Round, simulate
from labelserver.storage.atomic import write_json

#: what the others are compared with: plain chance, and what is hard to beat
BASELINES = ("random", "foreground_random")


def read_cases(studies: Path, labels: Path) -> list[Case]:
    """All images with a label map of the same relative path, by name.

    Raises:
        GridsDiffer: a label map is not on its image's grid.
        InvalidParams: there is none.
    """
    found = []
    for file in sorted(path for path in labels.rglob("*") if path.is_file() and path.suffix != ".json"):
        relative = file.relative_to(labels)
        image_file = studies / relative
        if not image_file.is_file():
            continue
        image, label = read_volume(image_file), read_volume(file)
        if image.voxels.shape[:3] != label.voxels.shape[:3]:
            raise GridsDiffer(f"{relative} does not fit its image: {image.grid.difference(label.grid)}.")
        name = split_ext(relative.as_posix())[0]
        voxels = np.asarray(image.voxels, dtype=np.float32)
        found.append(Case(name, voxels, np.asarray(label.voxels, dtype=np.uint8), tuple(image.grid.spacing_mm)))
    if not found:
        raise InvalidParams(f"No label map in {labels.name} has an image of the same name in {studies.name}.")
    return found


def split_cases(cases: Sequence[Case], test_share: float) -> tuple[list[Case], list[Case]]:
    """Pool and test set, by a hash of the names: the same whatever the order, and whatever is added."""
    ranked = sorted(cases, key=lambda case: hashlib.sha256(case.name.encode()).hexdigest())
    count = max(1, round(test_share * len(ranked)))
    test = {case.name for case in ranked[:count]}
    return [case for case in cases if case.name not in test], [case for case in cases if case.name in test]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated."""

    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        """Raises `InvalidParams`."""
        unknown = [name for name in self.strategies if name not in CHOOSERS]
        if unknown:
            raise InvalidParams(f"There is no strategy {unknown[0]!r}. There are: {', '.join(CHOOSERS)}.")
        if not self.strategies or not self.seeds:
            raise InvalidParams("Name at least one strategy and one seed.")


class Notebook:
    """The rounds done so far, in one JSON file. Runs of other settings are not mixed: they start the file anew."""

    def __init__(self, file: Path, settings: JsonObject) -> None:
        self.file, self.settings = file, settings
        self._runs: dict[str, list[Round]] = {}
        self.full: float | None = None  #: Dice of a training on the whole pool
        self._read()

    def rounds(self, strategy: str, seed: int) -> list[Round]:
        return self._runs.get(f"{strategy}/{seed}", [])

    def note(self, strategy: str, seed: int, rounds: Sequence[Round]) -> None:
        """Keep them with the digits of the file, so that a run taken up again ends with the same numbers."""
        self._runs[f"{strategy}/{seed}"] = [Round.from_json(one.to_json()) for one in rounds]
        self.write({})

    def write(self, summary: JsonObject) -> None:
        runs: JsonObject = {name: [one.to_json() for one in rounds] for name, rounds in self._runs.items()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, {"settings": self.settings, "full": self.full, "summary": summary, "runs": runs})

    def _read(self) -> None:
        try:
            document = json.loads(self.file.read_text(encoding="utf-8"))
            if document["settings"] != self.settings:
                return
            self._runs = {name: [Round.from_json(one) for one in rounds] for name, rounds in document["runs"].items()}
            self.full = None if document["full"] is None else float(document["full"])
        except (OSError, ValueError, KeyError, TypeError):
            self._runs = {}


def run(
    data: DataSet,
    learner: Learner,
    plan: Plan,
    notebook: Notebook,
    on_round: Callable[[str, int, Round], None] = lambda strategy, seed, found: None,
) -> JsonObject:
    """Simulate what the notebook does not hold yet; returns the summary of all."""
    if notebook.full is None:
        trained = learner.train(data.pool, plan.seeds[0], 0)
        per_case = [list(trained.dice(case).values()) for case in data.test]
        notebook.full = float(np.mean([np.mean(found) if found else 1.0 for found in per_case]))
        notebook.write({})
    for seed in plan.seeds:
        for strategy in plan.strategies:
            done = notebook.rounds(strategy, seed)
            if len(done) > plan.budget.rounds:
                continue
            rounds = list(done)

            def note(found: Round, rounds: list[Round] = rounds, at: tuple[str, int] = (strategy, seed)) -> None:
                rounds.append(found)
                notebook.note(*at, rounds)
                on_round(*at, found)

            simulate(data, learner, CHOOSERS[strategy].choose, plan.budget, seed, note, done=done)
    found = {name: [notebook.rounds(name, seed) for seed in plan.seeds] for name in plan.strategies}
    summary = summarised(found, notebook.full)
    notebook.write(summary)
    return summary


def summarised(runs: Mapping[str, Sequence[Sequence[Round]]], full: float) -> JsonObject:
    """One row a strategy, and the penalty matrix.

    Args:
        runs: strategy -> a list of rounds for each seed, the seeds in one order.
        full: Dice of a training on the whole pool.
    """
    areas = {name: [metrics.aubc([one.dice for one in rounds]) for rounds in seeds] for name, seeds in runs.items()}
    curves = {name: np.asarray([[one.dice for one in rounds] for rounds in seeds]) for name, seeds in runs.items()}
    names, matrix = metrics.penalty_matrix(curves)
    _, strict = metrics.penalty_matrix(curves, holm=True)
    rows: JsonObject = {}
    for position, name in enumerate(names):
        rows[name] = {
            "aubc": round(float(np.mean(areas[name])), 5),
            "aubc_sd": round(float(np.std(areas[name], ddof=1)), 5) if len(areas[name]) > 1 else None,
            "aubc_by_seed": [round(value, 5) for value in areas[name]],
            "final_dice": round(float(curves[name][:, -1].mean()), 5),
            "cost_h": round(float(np.mean([rounds[-1].cost_s for rounds in runs[name]])) / 3600, 4),
            "foreground_efficiency": _mean_efficiency(runs[name], full),
            "lost": round(float(metrics.lost(matrix)[position]), 5),
            **{f"against_{base}": _against(areas, name, base) for base in BASELINES if base in areas and base != name},
        }
    return {
        "strategies": rows,
        "full_dice": round(full, 5),
        "penalty": {"names": list(names), "matrix": matrix.round(5).tolist(), "holm": strict.round(5).tolist()},
    }


def _against(areas: Mapping[str, Sequence[float]], name: str, base: str) -> JsonObject:
    found = metrics.paired(areas[name], areas[base])
    return {"difference": round(found.difference, 5), "wins": found.wins, "seeds": found.seeds, "p": round(found.p, 5)}


def _mean_efficiency(seeds: Sequence[Sequence[Round]], full: float) -> float | None:
    found = [metrics.efficiency([r.foreground for r in rounds], [r.dice for r in rounds], full) for rounds in seeds]
    known = [value for value in found if value is not None]
    return round(float(np.mean(known)), 4) if known else None

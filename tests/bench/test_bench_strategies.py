"""Is the default strategy worth its labels? On the practice task, and with a real training on phantoms.

The training run takes about an hour on two free cores. It is kept below `.make/`, round by round, so that it goes on
where it was broken off; LABELSERVER_BENCH_SEEDS, _STEPS, _ROUNDS and _CASES make it smaller.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from labelserver import settings as settings_module
from labelserver.app.app_learner import AppLearner
from labelserver.app.fast_learner import FastLearner
from labelserver.app.strategy_evaluation import Notebook, Plan, read_cases, run, split_cases
from labelserver.learning.choosing import CHOOSERS
from labelserver.learning.practice_task import CLASSES, practice_cases
from labelserver.learning.simulation import Budget, DataSet
from labelserver.phantoms import make_study_set
from labelserver.settings import Settings
from tests.bench.report import Section

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3 * 3600)]

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".make" / "bench-strategies"
APP = ROOT / "tests" / "apps" / "strategy_app"
_REDUCED = " A reduced run: it shows that the way works; with so few seeds and steps it says nothing about strategies."


def number(name: str, usual: int) -> int:
    return int(os.environ.get(f"LABELSERVER_BENCH_{name}", usual))


def told(row: dict[str, Any]) -> str:
    """Spread and single seeds of a row."""
    sd = row["aubc_sd"]
    seeds = ", ".join(f"{value:.3f}" for value in row["aubc_by_seed"])
    return f"sd {sd:.3f}; seeds {seeds}; final {row['final_dice']:.3f}" if sd is not None else f"seeds {seeds}"


def test_every_strategy_on_the_practice_task(tmp_path: Path) -> None:
    """The default is at least 0.08 above chance, and better with at least 5 of 6 seeds; the others stand beside it."""
    data = DataSet.of(*practice_cases())
    seeds = tuple(range(number("PRACTICE_SEEDS", 6)))
    names = tuple(os.environ.get("LABELSERVER_BENCH_STRATEGIES", ",".join(CHOOSERS)).split(","))
    settings = {"seeds": len(seeds), "task": "practice"}
    summary: Any = run(
        data, FastLearner(len(CLASSES)), Plan(names, seeds), Notebook(KEPT / "practice.json", {**settings})
    )
    rows = summary["strategies"]
    with Section(
        "Strategies on the practice task",
        "60 made-up volumes from three scanners (75, 18, 7 %), 24 to measure on (as many of each), extra-trees instead "
        f"of a network, 4 labels at first and 5 rounds of 4, {len(seeds)} seeds. AUBC: area under Dice against labels. "
        "Diversity must win here by construction: it tests the machinery, and is no evidence about hospitals.",
    ) as section:
        against = rows["default"]["against_random"]
        section.at_most("chance + 0.08 - default, AUBC", 0.08 - against["difference"], 0.0, "", f"p {against['p']:.4f}")
        section.at_most("seeds in which chance is not worse", len(seeds) - against["wins"], len(seeds) // 6, "")
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["aubc"]):
            section.note(f"AUBC: {name}", f"{row['aubc']:.3f}", told(row))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app's modules and paths do not outlive the bench."""
    monkeypatch.setattr(settings_module, "_installed", Settings())
    monkeypatch.setenv("PYTHONPATH", "")


@pytest.mark.usefixtures("quiet")
def test_the_default_with_a_real_training_on_phantoms() -> None:
    """Mean AUBC over the seeds: the default is at least as good as foreground-aware chance."""
    cases, seeds = number("CASES", 40), tuple(range(number("SEEDS", 4)))
    steps, rounds = number("STEPS", 300), number("ROUNDS", 3)
    home = KEPT / f"phantoms-{cases}"
    if not (home / "done").exists():
        shutil.rmtree(home, ignore_errors=True)
        make_study_set(home / "studies", cases, reference_folder=home / "labels", spacing_mm=6.0)
        (home / "done").touch()
    data = DataSet.of(*split_cases(read_cases(home / "studies", home / "labels"), 0.3))
    params = {"max_epochs": max(1, steps // 20), "steps_per_epoch": 20, "patches_per_case": 2, "device": "cpu"}
    learner = AppLearner(APP, "segmentation", home / "studies", home / "labels", params=params)
    plan = Plan(("default", "foreground_random"), seeds, Budget(4, 4, rounds))
    settings = {"cases": cases, "steps": steps, "rounds": rounds, "app": "strategy_app"}
    begun = time.monotonic()
    summary: Any = run(data, learner, plan, Notebook(KEPT / f"phantoms-{cases}-{steps}-{rounds}.json", {**settings}))
    rows = summary["strategies"]
    difference = rows["default"]["against_foreground_random"]
    with Section(
        "The default strategy with a real training",
        f"{len(data.pool)} phantoms to choose from and {len(data.test)} to measure on, 6 mm; a U-Net trained anew each "
        f"round for {steps} steps, averaged weights (EMA); 4 labels at first and {rounds} rounds of 4; "
        f"{len(seeds)} seeds.{'' if len(seeds) >= 4 and steps >= 300 else _REDUCED}",
    ) as section:
        section.at_most(
            "foreground-aware chance - default, mean AUBC",
            -difference["difference"],
            0.0,
            "",
            f"better in {difference['wins']} of {difference['seeds']} seeds, p {difference['p']:.3f}",
        )
        for name, row in rows.items():
            section.note(f"AUBC: {name}", f"{row['aubc']:.3f}", told(row))
        section.note("Dice with all labels of the pool", f"{summary['full_dice']:.3f}")
        section.note("time", f"{(time.monotonic() - begun) / 60:.0f} min", "of this run; what was kept is not in it")
        assert statistics.fmean(rows["default"]["aubc_by_seed"]) > 0

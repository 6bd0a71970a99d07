"""``labelserver evaluate strategies``: replay a labeled data set with each strategy, and say which is worth its labels.

Without ``--studies`` the built-in practice task runs. Without ``--app`` a fast learner trains; with it, the app's own
train task. Results are written after each round, so that a run that was broken off goes on where it was.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelserver.cli.failing import CommandFailed
from labelserver.cli.pairs import split_pairs
from labelserver.domain.json_types import JsonObject

if TYPE_CHECKING:
    from labelserver.learning.simulation import DataSet, Learner, Round

_USUAL = "default,random,foreground_random,entropy"


def strategies(
    studies: Annotated[
        Path | None, typer.Option("--studies", "-s", help="Folder of images; none: the practice task.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", "-l", help="Folder of label maps of the same names.")
    ] = None,
    chosen: Annotated[str, typer.Option("--strategies", help="Names with commas between them, or: all.")] = _USUAL,
    seeds: Annotated[str, typer.Option("--seeds", help="How many (6), which (1,4,9), or from-to (0-5).")] = "6",
    budget: Annotated[int, typer.Option("--budget", min=1, help="Labels in the end.")] = 24,
    start: Annotated[int, typer.Option("--start", min=1, help="Labels at first.")] = 4,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Labels between two trainings.")] = 4,
    test: Annotated[float, typer.Option("--test", min=0.05, max=0.9, help="Share of cases to measure on.")] = 0.3,
    app: Annotated[Path | None, typer.Option("--app", "-a", help="The app whose train task learns.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Its model and trainer.")] = "segmentation",
    conf: Annotated[list[str] | None, typer.Option("--conf", "-c", help="KEY VALUE for the app; repeatable.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="KEY VALUE for each training; repeatable.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Results as JSON.")] = Path("strategies.json"),
    plot: Annotated[Path | None, typer.Option("--plot", help="A picture; default: beside the results.")] = None,
) -> None:
    """Replay a labeled data set: Dice against labels for each strategy, with tests of the differences."""
    from labelserver.app.strategy_evaluation import Notebook, Plan, run
    from labelserver.learning.choosing import CHOOSERS
    from labelserver.learning.simulation import Budget

    wanted = tuple(CHOOSERS) if chosen.strip() == "all" else tuple(n.strip() for n in chosen.split(",") if n.strip())
    plan = Plan(wanted, seeds_of(seeds), Budget(start, batch, max(0, -(-(budget - start) // batch))))
    data = _data(studies, labels, test)
    if plan.budget.total > len(data.pool):
        raise CommandFailed(
            f"A budget of {plan.budget.total} labels needs a larger pool than {len(data.pool)} cases. "
            "Lower --budget or --test.",
            2,
        )
    settings: JsonObject = {
        "studies": str(studies) if studies else "practice task",
        "cases": len(data.pool) + len(data.test),
        "test": len(data.test),
        "start": start,
        "batch": batch,
        "rounds": plan.budget.rounds,
        "learner": f"{app.name}/{model}" if app else "fast",
        "conf": dict(split_pairs(conf or [])),
        "params": dict(split_pairs(param or [])),
    }
    notebook = Notebook(output, settings)
    learner = _learner(app, model, split_pairs(conf or []), split_pairs(param or []), data, studies, labels)
    with _Bar(plan.strategies, plan.seeds, plan.budget.rounds + 1, notebook) as bar:
        summary = run(data, learner, plan, notebook, bar.advance)
    picture = plot or output.with_suffix(".png")
    draw(picture, {name: [notebook.rounds(name, seed) for seed in plan.seeds] for name in wanted}, notebook.full)
    show(summary)
    typer.echo(f"Written: {output} and {picture}")


def seeds_of(text: str) -> tuple[int, ...]:
    """``6``: 0 to 5; ``2-4``: 2, 3, 4; ``1,4,9``. Raises `CommandFailed`."""
    if re.fullmatch(r"\d+", text) and 0 < int(text) <= 1000:
        return tuple(range(int(text)))
    if found := re.fullmatch(r"(\d+)-(\d+)", text):
        first, last = int(found[1]), int(found[2])
        if first <= last < first + 1000:
            return tuple(range(first, last + 1))
    if re.fullmatch(r"\d+(,\d+)*,?", text):
        return tuple(dict.fromkeys(int(part) for part in text.split(",") if part))
    raise CommandFailed("--seeds is a number of seeds (6), a range (0-5) or a list (1,4,9).", 2)


def _data(studies: Path | None, labels: Path | None, test: float) -> DataSet:
    from labelserver.app.strategy_evaluation import read_cases, split_cases
    from labelserver.learning.practice_task import practice_cases
    from labelserver.learning.simulation import DataSet

    if studies is None and labels is None:
        return DataSet.of(*practice_cases())
    for name, folder in (("--studies", studies), ("--labels", labels)):
        if folder is None or not folder.is_dir():
            raise CommandFailed(f"{name} must name a folder; {folder or 'nothing'} is none.", 2)
    assert studies is not None
    assert labels is not None
    return DataSet.of(*split_cases(read_cases(studies, labels), test))


def _learner(
    app: Path | None,
    model: str,
    conf: dict[str, str],
    params: dict[str, str],
    data: DataSet,
    studies: Path | None,
    labels: Path | None,
) -> Learner:
    if app is None:
        from labelserver.app.fast_learner import FastLearner

        return FastLearner(max((int(case.label.max()) for case in (*data.pool, *data.test)), default=1))
    from labelserver.app.app_learner import AppLearner

    if studies is None or labels is None:
        raise CommandFailed("An app trains on files: name --studies and --labels.", 2)
    return AppLearner(app, model, studies, labels, conf, dict(params))


class _Bar:
    """How far the simulation is."""

    def __init__(self, strategies: tuple[str, ...], seeds: tuple[int, ...], rounds: int, notebook: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        done = sum(len(notebook.rounds(name, seed)) for name in strategies for seed in seeds)
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("rounds", total=len(strategies) * len(seeds) * rounds, completed=done)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, strategy: str, seed: int, found: Round) -> None:
        self._progress.update(self._task, description=f"{strategy}, seed {seed}: {found.labels} labels", advance=1)


def draw(path: Path, runs: dict[str, list[list[Round]]], full: float | None) -> None:
    """Dice against labels and against the share of foreground voxels annotated; bands: one standard deviation."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, (name, seeds) in enumerate(runs.items()):
        dices = np.asarray([[one.dice for one in rounds] for rounds in seeds])
        labels = [one.labels for one in seeds[0]]
        share = np.asarray([[one.foreground for one in rounds] for rounds in seeds]).mean(axis=0)
        color = f"C{number % 10}"
        left.plot(labels, dices.mean(axis=0), color=color, label=name, marker="o", markersize=3)
        left.fill_between(
            labels,
            dices.mean(axis=0) - dices.std(axis=0),
            dices.mean(axis=0) + dices.std(axis=0),
            color=color,
            alpha=0.1,
        )
        right.plot(share, dices.mean(axis=0), color=color, marker="o", markersize=3)
    if full is not None:
        left.axhline(full, color="0.5", linestyle=":", label="all labels")
    left.set(xlabel="labels", ylabel="Dice on the test cases")
    right.set(xlabel="share of the pool's labeled voxels", ylabel="Dice on the test cases")
    left.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def show(summary: Any) -> None:
    """The table, and the penalty matrix."""
    from rich.console import Console
    from rich.table import Table

    rows = summary["strategies"]
    base = next((name for name in ("random", "foreground_random") if name in rows), "")
    table = Table(title=f"Dice with all labels: {summary['full_dice']:.3f}")
    for head in ("strategy", "AUBC", "sd", "final", f"vs {base or '-'}", "wins", "p", "lost", "efficiency", "hours"):
        table.add_column(head, justify="left" if head == "strategy" else "right")
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["aubc"]):
        against = row.get(f"against_{base}")
        table.add_row(
            name,
            f"{row['aubc']:.3f}",
            "-" if row["aubc_sd"] is None else f"{row['aubc_sd']:.3f}",
            f"{row['final_dice']:.3f}",
            f"{against['difference']:+.3f}" if against else "",
            f"{against['wins']}/{against['seeds']}" if against else "",
            f"{against['p']:.3f}" if against else "",
            f"{row['lost']:.2f}",
            "-" if row["foreground_efficiency"] is None else f"{row['foreground_efficiency']:.2f}",
            f"{row['cost_h']:.2f}",
        )
    Console().print(table)
    penalty = summary["penalty"]
    matrix = Table(title="Share of rounds in which the row beats the column (p < 0.05)")
    for head in ("", *penalty["names"]):
        matrix.add_column(head, justify="right" if head else "left")
    for name, values in zip(penalty["names"], penalty["matrix"], strict=True):
        matrix.add_row(name, *(f"{value:.2f}" for value in values))
    Console().print(matrix)

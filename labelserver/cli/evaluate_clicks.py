"""``labelserver evaluate clicks``: a simulated user clicks at every labelled object, and what that gave.

Without a server the task runs in this process. Results are written after each object, so that a run that was broken off
goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelserver.cli.failing import CommandFailed
from labelserver.cli.pairs import split_pairs
from labelserver.domain.json_types import JsonObject

if TYPE_CHECKING:
    from labelserver.app.click_evaluation import Clicker, Object, Plan

#: The model that needs no app and no weights.
BUILT_IN = "seeds"


def clicks(
    studies: Annotated[Path, typer.Option("--studies", "-s", help="Folder of images.")],
    labels: Annotated[Path, typer.Option("--labels", "-l", help="Folder of label maps of the same names.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Which model answers.")] = BUILT_IN,
    app: Annotated[Path | None, typer.Option("--app", "-a", help="The app with the model; none: seeds.")] = None,
    conf: Annotated[list[str] | None, typer.Option("--conf", "-c", help="KEY VALUE for the app; repeatable.")] = None,
    server: Annotated[
        str, typer.Option("--server", "-S", help="Ask this server, whose studies they are, instead of running here.")
    ] = "",
    count: Annotated[int, typer.Option("--clicks", "-n", min=1, max=50, help="Prompts an object gets.")] = 10,
    prompt: Annotated[
        str, typer.Option("--prompt", help="First prompt: point, box, scribble or lasso; then points.")
    ] = "point",
    then: Annotated[str, typer.Option("--then", help="The prompts after the first.")] = "point",
    jitter: Annotated[bool, typer.Option("--jitter", help="Miss the best voxel by up to two.")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="One prompt in twenty has the wrong sign.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of jitter and wrong signs.")] = 0,
    only: Annotated[list[str] | None, typer.Option("--label", help="Only this label; repeatable.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many objects; 0: all.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Results as JSON.")] = Path("clicks.json"),
    plot: Annotated[Path | None, typer.Option("--plot", help="A picture; default: beside the results.")] = None,
) -> None:
    """Let a simulated user click at labelled objects: Dice after each click, clicks needed, time per click."""
    from labelserver.app.click_evaluation import Plan, objects_of, summarised
    from labelserver.tasks.click_simulator import WRONG_SIGN, Drawing, SimulatedUser

    for folder in (studies, labels):
        if not folder.is_dir():
            raise CommandFailed(f"{folder} is no folder.")
    kinds = {drawing.value: drawing for drawing in Drawing}
    if prompt not in kinds or then not in kinds:
        raise CommandFailed(f"--prompt and --then are one of {', '.join(kinds)}.", 2)
    user = SimulatedUser(seed, jitter, WRONG_SIGN if wrong else 0.0, kinds[prompt], kinds[then])
    names = label_names(labels)
    found = list(objects_of(studies, labels, names, frozenset(only or ())))
    chosen = found[:limit] if limit > 0 else found
    if not chosen:
        raise CommandFailed(f"No label map in {labels} has an image of the same name in {studies}.")
    settings: JsonObject = {
        "model": model,
        "server": server,
        "clicks": count,
        "prompt": prompt,
        "then": then,
        "jitter": jitter,
        "wrong": wrong,
        "seed": seed,
    }
    known = _earlier(output, settings)
    with _clicker(model, app, split_pairs(conf or []), studies, server, chosen) as clicker:
        results = _run(clicker, chosen, Plan(count, user), known, output, settings)
    document = {"settings": settings, "summary": summarised(results, count), "objects": results}
    _write(output, document)
    picture = plot or output.with_suffix(".png")
    draw(picture, results, count, model)
    _show(document["summary"], model)
    typer.echo(f"Written: {output} and {picture}")


def label_names(folder: Path) -> dict[int, str]:
    """Value -> name from ``labels.json`` in `folder`, written either way round; {} without one."""
    file = folder / "labels.json"
    if not file.is_file():
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        pairs = list(document.items())
        return {int(key): str(value) for key, value in pairs} if _is_number(pairs) else _turned(pairs)
    except (ValueError, AttributeError, TypeError) as error:
        raise CommandFailed(f"{file} is not a JSON object of names and voxel values.") from error


def _is_number(pairs: list[tuple[str, Any]]) -> bool:
    return all(key.isdecimal() for key, _ in pairs)


def _turned(pairs: list[tuple[str, Any]]) -> dict[int, str]:
    return {int(value): key for key, value in pairs}


def _earlier(output: Path, settings: JsonObject) -> dict[str, JsonObject]:
    """What an earlier run with the same settings measured, by object."""
    try:
        document = json.loads(output.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(document, dict) or document.get("settings") != settings:
        return {}
    return {f"{one['image']}|{one['label']}": one for one in document.get("objects", [])}


@contextmanager
def _clicker(
    model: str, app: Path | None, conf: dict[str, str], studies: Path, server: str, objects: list[Object]
) -> Iterator[Clicker]:
    from labelserver.app.click_evaluation import InProcessClicker
    from labelserver.tasks.prompted_infer import as_prompted

    if server:
        from labelserver.cli.evaluate_server import serving_clicker

        with serving_clicker(server, model) as clicker:
            yield clicker
        return
    if app is None:
        if model != BUILT_IN:
            raise CommandFailed(f"Name the app that has the model {model!r}: --app FOLDER, or a server: --server URL.")
        from labelserver.tasks.seeds import Seeds

        yield InProcessClicker(Seeds(list(dict.fromkeys(one.label for one in objects))))
        return
    from labelserver.app.loading import load_app

    models = load_app(app, str(studies), conf).tasks()["models"]
    task = as_prompted(models[model]) if model in models else None
    if task is None:
        able = [name for name, one in models.items() if as_prompted(one) is not None]
        raise CommandFailed(f"{model!r} takes no prompts. Models of this app that do: {', '.join(able) or 'none'}.")
    yield InProcessClicker(task)


def _run(
    clicker: Clicker,
    objects: list[Object],
    plan: Plan,
    known: dict[str, JsonObject],
    output: Path,
    settings: JsonObject,
) -> list[JsonObject]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from labelserver.app.click_evaluation import clicked

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results = [known[one.key] for one in objects if one.key in known]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("objects", total=len(objects), completed=len(results))
        for one in objects:
            if one.key in known:
                continue
            progress.update(bar, description=one.key[-40:])
            results.append(clicked(clicker, one, plan))
            _write(output, {"settings": settings, "objects": results})
            progress.advance(bar)
    return results


def _write(path: Path, document: dict[str, Any]) -> None:
    from labelserver.storage.atomic import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)


def draw(path: Path, results: list[JsonObject], clicks: int, title: str) -> None:
    """Dice by prompt: every object thin, the mean thick; and how many objects have reached 0.85."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from labelserver.learning.click_metrics import at, never

    curves = [one["dice"] for one in results if isinstance(one["dice"], list) and one["dice"]]
    steps = list(range(1, clicks + 1))
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for curve in curves:
        left.plot(steps, [at(curve, step) for step in steps], color="0.8", linewidth=0.8)
    if curves:
        left.plot(steps, [sum(at(c, s) for c in curves) / len(curves) for s in steps], color="C0", linewidth=2.5)
        right.step(
            steps, [sum(not never(c[:s], 0.85) for c in curves) / len(curves) for s in steps], where="post", color="C1"
        )
    left.set(title=title, xlabel="prompts", ylabel="Dice", ylim=(0, 1))
    right.set(title="objects that reached Dice 0.85", xlabel="prompts", ylim=(0, 1))
    figure.savefig(path, dpi=110)


def _show(found: Any, model: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{model}: {found['objects']} objects")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in found.items():
        if name in ("labels", "objects"):
            continue
        text = f"p50 {value['p50']:g}, p95 {value['p95']:g}" if isinstance(value, dict) else f"{value:g}"
        table.add_row(name, text)
    Console().print(table)
    if not isinstance(found.get("labels"), dict):
        return
    rows = found["labels"]
    heads = [name for name in next(iter(rows.values()), {}) if name != "objects"]
    by_label = Table(title="by label")
    for head in ("label", "objects", *heads):
        by_label.add_column(head, justify="left" if head == "label" else "right")
    for label, row in rows.items():
        by_label.add_row(label, str(row["objects"]), *(f"{row[head]:.3f}" for head in heads))
    Console().print(by_label)

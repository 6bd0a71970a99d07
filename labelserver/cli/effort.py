"""``labelserver effort``: what labeling costs and brings on a running server: curve, benefit, times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.asking import DEFAULT_URL, ServerOption, asking
from labelserver.cli.failing import CommandFailed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labelserver.wire.proof import CurveShown, ForecastShown, VersionWork

cli = typer.Typer(help="What labeling costs and brings: curve, benefit, times.", no_args_is_help=True)

ModelOption = Annotated[str, typer.Option("--model", "-m", help="Default: the one trained last.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


@cli.command()
def curve(
    model: ModelOption = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also draw it into this PNG file.")] = None,
    as_json: JsonOption = False,
    server: ServerOption = DEFAULT_URL,
) -> None:
    """Show the learning curve, what the next ten labels will bring, and whether to stop."""
    from labelserver.cli.showing import print_table

    with asking(server) as client:
        found = client.learning_curve(model)
    if out is not None:
        draw_curve(found, out)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    rows = [(p.version, p.labels, f"{p.hours:.2f}", f"{p.metric:.4f}", _plus_minus(p.error)) for p in found.points]
    print_table(
        f"{found.model}: {found.metric}",
        ("version", "labels", "hours", found.metric or "metric", "error"),
        rows,
        "None.",
    )
    typer.echo(in_words(found))
    for criterion in found.advice.criteria:
        mark = {True: "yes", False: "no", None: "?"}[criterion.met]
        typer.echo(f"  [{mark}] {criterion.sentence}")
    typer.echo(found.advice.sentence)
    if out is not None:
        typer.echo(f"The curve is drawn in {out}.")


@cli.command()
def benefit(
    model: Annotated[str, typer.Option("--model", "-m", help="Default: all.")] = "",
    as_json: JsonOption = False,
    server: ServerOption = DEFAULT_URL,
) -> None:
    """Show the minutes that proposals save or cost, by model version, and what each person did."""
    from labelserver.cli.showing import print_table

    with asking(server) as client:
        found = client.benefit(model)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    for one in found.benefits:
        typer.echo(one.sentence)
    if not found.benefits:
        typer.echo("No label that began with a model's proposal has been timed yet.")
    versions = [
        (
            f"{v.model} {v.version}".strip() or "none",
            v.person,
            v.submitted,
            *("" if number is None else f"{number:.{places}f}" for number, places in _numbers_of(v)),
        )
        for v in found.versions
    ]
    columns = ("proposal", "person", "labels", "minutes", "voxels changed", "Dice", "accepted")
    print_table("Proposals and what became of them", columns, versions, "Nobody has submitted a label yet.")
    rows = [
        (p.person, p.submitted, f"{p.hours:.2f}", "" if p.minutes_per_image is None else f"{p.minutes_per_image:.1f}")
        for p in found.people
    ]
    print_table("People", ("person", "labels", "hours", "minutes an image"), rows, "Nobody has submitted a label yet.")


@cli.command()
def times(
    person: Annotated[str, typer.Option(help="Of this person alone.")] = "",
    image: Annotated[str, typer.Option(help="Of this image alone.")] = "",
    as_json: JsonOption = False,
    server: ServerOption = DEFAULT_URL,
) -> None:
    """List pieces of work: who worked how long on what, and what became of the proposal."""
    from labelserver.cli.showing import moment, print_table

    with asking(server) as client:
        found = list(client.time_log(person=person, image=image))
    if as_json:
        typer.echo("[" + ",\n".join(piece.model_dump_json() for piece in found) + "]")
        return
    rows = [
        (
            p.image,
            p.person,
            moment(p.opened_ts),
            "" if p.submitted_ts is None else moment(p.submitted_ts),
            f"{p.active_s:.0f}",
            p.prompts,
            f"{p.model} {p.model_version}".strip(),
            "" if p.proposal_dice is None else f"{p.proposal_dice:.3f}",
            "" if p.voxels_changed is None else p.voxels_changed,
        )
        for p in found
    ]
    columns = ("image", "person", "opened", "submitted", "active s", "prompts", "proposal", "Dice", "changed")
    print_table("Time log", columns, rows, "Nothing was logged yet.")


def _numbers_of(work: VersionWork) -> list[tuple[float | None, int]]:
    """Numbers and their decimal places."""
    return [(work.minutes_per_image, 1), (work.voxels_changed, 0), (work.proposal_dice, 3), (work.accepted, 2)]


def in_words(found: CurveShown) -> str:
    """What the forecast promises."""
    ahead = found.by_labels
    if ahead is None:
        return "Three versions trained on different numbers of labels are needed to say what more labels bring."
    return (
        f"The next {ahead.step:.0f} labels bring about {ahead.gain:+.4f} (90 %: {ahead.low:+.4f} to {ahead.high:+.4f})."
    )


def draw_curve(found: CurveShown, file: Path) -> None:
    """A PNG with the curve against labels and against hours. Raises `CommandFailed` for another file name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if file.suffix.lower() != ".png":
        raise CommandFailed(f"The curve is drawn as PNG; {file.name} has another extension.")
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _side(left, found, [float(p.labels) for p in found.points], found.by_labels, "labels")
    _side(right, found, [p.hours for p in found.points], found.by_hours, "hours of work")
    left.set_ylabel(found.metric or "metric")
    figure.suptitle(f"{found.model}: {in_words(found)}", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _side(axes: Axes, found: CurveShown, xs: list[float], ahead: ForecastShown | None, name: str) -> None:
    import numpy as np

    from labelserver.learning.progress import Point, band

    points = [Point(x, p.metric, p.error) for x, p in zip(xs, found.points, strict=True)]
    axes.errorbar(
        xs, [p.y for p in points], yerr=[p.error or 0.0 for p in points], fmt="o", capsize=3, label="measured"
    )
    if ahead is not None:
        grid = np.linspace(min(x for x in xs if x > 0), ahead.x + ahead.step, 100)
        axes.plot(grid, ahead.a - ahead.b * grid**-ahead.c, label="fitted")
        edges = band(points, list(grid))
        if edges is not None:
            axes.fill_between(grid, *edges, alpha=0.2, label="90 %")
        axes.axvline(ahead.x, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel(name)
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right")


def _plus_minus(error: float | None) -> str:
    return "" if error is None else f"±{error:.4f}"

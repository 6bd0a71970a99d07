"""``labelserver demo``: the whole loop in a few minutes, without a person, and a table that shows that it learns."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.apps import MADE_AT_RUN_TIME, carried_apps
from labelserver.cli.failing import CommandFailed

if TYPE_CHECKING:
    from rich.progress import Progress

    from labelserver.cli.rehearsal import Judgement
    from labelserver.client import Job, LabelServerClient
    from labelserver.domain.json_types import JsonObject

MODEL = "segmentation"
#: Options of the app that make a round short: coarse voxels, and no scoring beside the training.
QUICK = {"spacing": "4,4,4", "skip_scoring": "true"}
#: Who labels; each gets images that the other does not have.
PEOPLE = ("annotator A", "annotator B")
#: One of the phantoms' sets for the studies, another for the held-out cases, so that no case is in both.
STUDY_SEED, HELD_OUT_SEED = 11, 12
#: Which of the studies the server keeps for comparing versions is no matter of chance either.
SPLIT_KEY = b"demo"


@dataclass(frozen=True, slots=True)
class Round:
    """What one turn of the loop brought."""

    labels: int
    version: int
    held_out: Judgement
    corrected: float | None  #: of the proposals shown to the annotator in this round; None: there was no model yet
    seconds: float


def demo(
    workspace: Annotated[Path, typer.Option("--workspace", help="Emptied and used.")] = Path("workspace/demo"),
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="How often to train.")] = 3,
    per_round: Annotated[int, typer.Option("--per-round", min=1, help="New labels in each round.")] = 4,
    held_out: Annotated[int, typer.Option("--held-out", min=1, help="Cases to measure on.")] = 4,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of each training.")] = 4,
) -> None:
    """Label in twos, train and publish without a person; succeeds only if the last version beats the first."""
    from labelserver.cli.effort import draw_curve, in_words
    from labelserver.cli.rehearsal import running_server
    from labelserver.cli.showing import progress_bar
    from labelserver.client import ClientError, LabelServerClient
    from labelserver.phantoms import LABELS

    begun = time.monotonic()
    done: list[Round] = []
    with progress_bar() as bar:
        app, studies, unseen = _prepare(workspace, rounds * per_round, held_out, bar)
        starting = bar.add_task("starting the server", total=1, said="")
        conf = {"models": MODEL, "labels": ",".join(LABELS), **QUICK}
        try:
            with running_server(app, studies, conf, workspace / "server.log") as url:
                bar.update(starting, completed=1, said=url)
                with LabelServerClient(url, person="demo") as client:
                    # each label counts here, so no image is read twice
                    client.set_work_rules(client.work_rules().model_copy(update={"overlap_share": 0.0}))
                    for number in range(1, rounds + 1):
                        done.append(_turn(client, bar, number, per_round, epochs, studies, unseen))
                    curve, shares = client.learning_curve(MODEL), _shares(client)
        except ClientError as error:
            raise CommandFailed(f"{error} The server's log is {workspace / 'server.log'}.") from error
    _print_rounds(done, time.monotonic() - begun)
    picture = workspace / "learning-curve.png"
    draw_curve(curve, picture)
    typer.echo(f"{shares} {in_words(curve)} The learning curve is drawn in {picture}.")
    first, last = done[0].held_out.mean_dice, done[-1].held_out.mean_dice
    if last <= first:
        raise CommandFailed(f"The last version is not better than the first: mean Dice {last:.3f} after {first:.3f}.")
    typer.echo(f"Mean Dice on {held_out} held-out cases rose from {first:.3f} to {last:.3f}.")


def _prepare(workspace: Path, count: int, held_out: int, bar: Progress) -> tuple[Path, Path, Path]:
    """A fresh app folder, studies, and held-out cases apart from them."""
    from labelserver.datastore.split_rule import fix_rule
    from labelserver.domain.splits import SplitRule
    from labelserver.phantoms import make_study_set

    if workspace.exists() and any(workspace.iterdir()) and not (workspace / "server.log").exists():
        raise CommandFailed(f"{workspace} is not a folder of an earlier demo; name an empty one with --workspace.")
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    (workspace / "server.log").touch()
    app = workspace / "radiology"
    shutil.copytree(carried_apps() / "radiology", app, ignore=shutil.ignore_patterns(*MADE_AT_RUN_TIME))
    studies, unseen = workspace / "studies", workspace / "held-out"
    making = bar.add_task("making studies", total=count + held_out, said="")
    make_study_set(studies, count, STUDY_SEED, on_progress=lambda done, _: bar.update(making, completed=done))
    fix_rule(studies / ".labelserver", SplitRule(SPLIT_KEY, share=0.2))
    make_study_set(
        unseen, held_out, HELD_OUT_SEED, on_progress=lambda done, _: bar.update(making, completed=count + done)
    )
    return app, studies, unseen


def _turn(
    client: LabelServerClient, bar: Progress, number: int, per_round: int, epochs: int, studies: Path, unseen: Path
) -> Round:
    """Label some images, train, and measure what came of it."""
    begun = time.monotonic()
    corrected = _annotate(client, bar, number, per_round, _references(studies))
    _train(
        client, bar, number, {"max_epochs": epochs, "patches_per_case": 2, "seed": number, "name": f"round_{number}"}
    )
    held_out = _measure(client, bar, number, unseen)
    version = next((model.current or 0 for model in client.models() if model.model == MODEL), 0)
    return Round(number * per_round, version, held_out, corrected, time.monotonic() - begun)


def _annotate(client: LabelServerClient, bar: Progress, number: int, count: int, references: Path) -> float | None:
    """Two people take images from the queue until so many are labeled; returns how much they corrected on average."""
    from labelserver.cli.rehearsal import Annotators

    labels = client.info().models[MODEL].labels
    model = MODEL if any(model.current for model in client.models()) else ""
    task = bar.add_task(f"round {number}: labeling", total=count, said="")
    annotators = Annotators(client.url, PEOPLE, model, labels, references)
    shares = annotators.label(count, lambda said: bar.update(task, advance=1, said=said))
    return sum(shares) / len(shares) if shares else None


def _train(client: LabelServerClient, bar: Progress, number: int, params: JsonObject) -> None:
    from labelserver.cli.asking import said_about

    task = bar.add_task(f"round {number}: training", total=None, said="")

    def show(job: Job) -> None:
        bar.update(
            task,
            completed=job.progress.get("epoch") or 0,
            total=job.progress.get("total_epochs"),
            said=said_about(job),
        )

    client.wait_for_training(client.train_start(MODEL, params), show, poll_s=0.3, timeout_s=900)


def _measure(client: LabelServerClient, bar: Progress, number: int, unseen: Path) -> Judgement:
    """Mean over the held-out cases of what the version in use makes of them."""
    from labelserver.cli.rehearsal import average, judge

    labels = client.info().models[MODEL].labels
    files = sorted(unseen.glob("*.nii.gz"))
    task = bar.add_task(f"round {number}: measuring", total=len(files), said="")
    judgements = []
    for file in files:
        mask = client.infer(MODEL, params={"result_extension": ".nii.gz"}, file=file).mask
        if mask is None:
            raise CommandFailed("The model proposed no mask.")
        judgements.append(judge(mask, _references(unseen) / file.name, labels))
        bar.update(task, advance=1, said=f"mean Dice {average(judgements).mean_dice:.3f}")
    return average(judgements)


def _shares(client: LabelServerClient) -> str:
    """Who labeled how many."""
    people = ", ".join(f"{person.person} {person.submitted}" for person in client.benefit().people)
    return f"Labels by person: {people}."


def _references(studies: Path) -> Path:
    return studies.with_name(f"{studies.name}-reference")


def _print_rounds(rounds: list[Round], seconds: float) -> None:
    from labelserver.cli.showing import print_table

    names = list(rounds[0].held_out.dice)
    rows = [
        (
            number,
            done.labels,
            done.version,
            f"{done.held_out.mean_dice:.3f}",
            *(f"{done.held_out.dice[name]:.3f}" for name in names),
            "" if done.corrected is None else f"{done.corrected:.0%}",
            f"{done.seconds:.0f}",
        )
        for number, done in enumerate(rounds, start=1)
    ]
    columns = ("round", "labels", "version", "mean Dice", *names, "corrected", "seconds")
    print_table(f"Held-out cases after each round ({seconds:.0f} s in all)", columns, rows, "")

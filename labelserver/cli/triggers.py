"""``labelserver triggers``: when trainings start by themselves on a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.asking import DEFAULT_URL, ServerOption, asking

if TYPE_CHECKING:
    from labelserver.wire.triggers import TriggersInUse

cli = typer.Typer(help="When trainings start by themselves: show, set, off.", no_args_is_help=True)


@cli.command()
def show(server: ServerOption = DEFAULT_URL) -> None:
    """Show the rules, and how many labels wait for a training."""
    with asking(server) as client:
        typer.echo(in_words(client.triggers()))


@cli.command("set")
def set_triggers(
    every_labels: Annotated[int | None, typer.Option(help="After so many accepted labels; 0: off.")] = None,
    interval_minutes: Annotated[
        float | None, typer.Option(help="So long after the last training began; 0: off.")
    ] = None,
    daily_at: Annotated[str | None, typer.Option(metavar="HH:MM", help="At this time of day; empty: off.")] = None,
    idle_minutes: Annotated[float | None, typer.Option(help="When nobody has worked for so long; 0: off.")] = None,
    settle_s: Annotated[float | None, typer.Option(help="Wait so long after a label for further ones.")] = None,
    trainer: Annotated[list[str] | None, typer.Option(help="Which trainer; repeatable; default: all.")] = None,
    server: ServerOption = DEFAULT_URL,
) -> None:
    """Change rules; what is not named stays."""
    from labelserver.wire.triggers import TrainingTriggers

    named = {
        "every_labels": every_labels,
        "interval_minutes": interval_minutes,
        "daily_at": daily_at,
        "idle_minutes": idle_minutes,
        "settle_s": settle_s,
        "trainers": trainer,
    }
    with asking(server) as client:
        before = client.triggers().model_dump(exclude={"labels_waiting"})
        wanted = {**before, **{name: value for name, value in named.items() if value is not None}}
        typer.echo(in_words(client.set_triggers(TrainingTriggers(**wanted))))


@cli.command()
def off(server: ServerOption = DEFAULT_URL) -> None:
    """Switch all rules off: trainings start by hand alone."""
    from labelserver.wire.triggers import TrainingTriggers

    with asking(server) as client:
        typer.echo(in_words(client.set_triggers(TrainingTriggers())))


def in_words(triggers: TriggersInUse) -> str:
    """The rules as a sentence."""
    rules = []
    if triggers.every_labels:
        rules.append(f"after {triggers.every_labels} labels")
    if triggers.interval_minutes:
        rules.append(f"{triggers.interval_minutes:g} minutes after the last training began")
    if triggers.daily_at:
        rules.append(f"daily at {triggers.daily_at}")
    if triggers.idle_minutes:
        rules.append(f"when nobody has worked for {triggers.idle_minutes:g} minutes")
    if not rules:
        return "Trainings start by hand alone."
    which = ", ".join(triggers.trainers) or "all trainers"
    waiting = f"{triggers.labels_waiting} labels wait for a training."
    return f"Trainings of {which} start {', or '.join(rules)}. {waiting}"

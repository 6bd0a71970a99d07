"""``labelserver train``: start a training on a running server, and follow it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from labelserver.cli.asking import DEFAULT_URL, ServerOption, asking, said_about
from labelserver.cli.failing import CommandFailed
from labelserver.domain.json_types import JsonObject


def train(
    trainer: Annotated[str, typer.Argument(help="Which trainer; default: the app's only one.")] = "",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", metavar="KEY=VALUE", help="Option of the trainer, e.g. max_epochs=20; repeatable."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", "--watch", "-w", help="Show progress until it ends.")
    ] = False,
    enqueue: Annotated[bool, typer.Option("--enqueue", help="Wait behind a training that runs.")] = False,
    server: ServerOption = DEFAULT_URL,
) -> None:
    """Train on the labels saved so far; the result is published if it is not worse."""
    from labelserver.cli.following import watch

    params = parse_params(param or [])
    with asking(server) as client:
        chosen = trainer or _only(client.info().trainers)
        job = client.train_start(chosen, params, enqueue=enqueue)
        if not follow:
            typer.echo(f"Training {chosen} is job {job.id}. Follow it: labelserver jobs follow {job.id[:8]}")
            return
        ended = watch(client, job)
    typer.echo(f"Training {chosen}: {ended.state.value}. {said_about(ended)}".rstrip())


def parse_params(pairs: list[str]) -> JsonObject:
    """``["max_epochs=3", "name=a"]`` as values: JSON where it is JSON, else text. Raises `CommandFailed`."""
    params: JsonObject = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise CommandFailed(f"--param takes KEY=VALUE, not {pair!r}.", 2)
        try:
            params[key] = json.loads(text)
        except ValueError:
            params[key] = text
    return params


def _only(trainers: tuple[str, ...]) -> str:
    if len(trainers) != 1:
        raise CommandFailed(f"Say which trainer. This server has: {', '.join(trainers) or 'none'}.")
    return trainers[0]

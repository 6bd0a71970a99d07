"""``labelserver evaluate``: measure models the way people use them."""

from __future__ import annotations

import typer

from labelserver.cli import evaluate_clicks, evaluate_labels, evaluate_strategies

cli = typer.Typer(no_args_is_help=True, help="Measure models the way people use them.")
cli.command("clicks")(evaluate_clicks.clicks)
cli.command("strategies")(evaluate_strategies.strategies)
cli.command("labels")(evaluate_labels.labels)

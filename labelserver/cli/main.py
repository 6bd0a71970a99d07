"""The command ``labelserver``: one file a verb, and nothing heavy imported before a verb runs.

What a verb raises as `CommandFailed` or as one of our errors is printed as one sentence; a traceback means a mistake
of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from labelserver import __version__
from labelserver.cli import (
    apps,
    datasets,
    demo,
    doctor,
    effort,
    evaluate,
    export,
    importing,
    jobs,
    map,
    models,
    pairs,
    plugins,
    project,
    prune,
    start_server,
    train,
    triggers,
)
from labelserver.cli.failing import CommandFailed
from labelserver.domain.errors import LabelServerError

cli = typer.Typer(
    name="labelserver",
    help="A labeling server that makes a medical-image model better with every label a person saves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.command("start_server", rich_help_panel="Serve")(start_server.start_server)
cli.command("start-server", hidden=True)(start_server.start_server)
cli.command("apps", rich_help_panel="Begin")(apps.apps)
cli.add_typer(datasets.cli, name="datasets", rich_help_panel="Begin")
cli.command("import", rich_help_panel="Begin")(importing.import_bundle)
cli.command("plugins", rich_help_panel="Begin")(plugins.plugins)
cli.command("demo", rich_help_panel="Begin")(demo.demo)
cli.command("doctor", rich_help_panel="Begin")(doctor.doctor)
cli.command("export", rich_help_panel="Keep")(export.export)
cli.add_typer(map.cli, name="map", rich_help_panel="Keep")
cli.command("prune", rich_help_panel="Keep")(prune.prune)
cli.add_typer(evaluate.cli, name="evaluate", rich_help_panel="Keep")
cli.add_typer(project.cli, name="project", rich_help_panel="Keep")
cli.command("train", rich_help_panel="A running server")(train.train)
cli.add_typer(jobs.cli, name="jobs", rich_help_panel="A running server")
cli.add_typer(triggers.cli, name="triggers", rich_help_panel="A running server")
cli.add_typer(models.cli, name="models", rich_help_panel="A running server")
cli.add_typer(effort.cli, name="effort", rich_help_panel="A running server")


def _print_versions(wanted: bool) -> None:
    if wanted:
        typer.echo(f"labelserver {__version__}")
        for line in doctor.version_lines():
            typer.echo(line)
        raise typer.Exit


@cli.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", "-v", is_eager=True, callback=_print_versions, help="Print versions and exit.")
    ] = False,
) -> None:
    """The options of every verb."""


def run(words: Sequence[str] | None = None) -> None:
    """Run the command line `words` (default: this process's) and exit."""
    given = list(sys.argv[1:] if words is None else words)
    try:
        cli(pairs.join_pairs(given), prog_name="labelserver")
    except CommandFailed as failure:
        typer.echo(f"labelserver: {failure.sentence}", err=True)
        sys.exit(failure.status)
    except LabelServerError as error:
        typer.echo(f"labelserver: {error.message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run()

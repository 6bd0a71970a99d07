"""``labelserver models``: versions of trained networks on a running server, and which one is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.asking import DEFAULT_URL, ServerOption, asking

if TYPE_CHECKING:
    from labelserver.client import Version

cli = typer.Typer(help="Models of a running server: list, versions, publish.", no_args_is_help=True)


@cli.command("list")
def list_models(server: ServerOption = DEFAULT_URL) -> None:
    """List what the app offers, and which version of it is in use."""
    from labelserver.cli.showing import print_table

    with asking(server) as client:
        known = {model.model: model for model in client.models()}
        offered = client.info().models
    rows = []
    for name in [*offered, *(model for model in known if model not in offered)]:
        info, versions = offered.get(name), known.get(name)
        rows.append(
            (
                name,
                info.type if info else "",
                ", ".join(info.labels) if info else "",
                versions.versions if versions else 0,
                (versions.current if versions else None) or "none yet",
            )
        )
    print_table("Models", ("name", "type", "labels", "versions", "in use"), rows, "This app offers no model.")


@cli.command()
def versions(
    model: Annotated[str, typer.Argument(help="Its name.")],
    server: ServerOption = DEFAULT_URL,
) -> None:
    """List the versions of a model: what they reached on the held-out cases, and what was decided."""
    from labelserver.cli.showing import moment, print_table

    with asking(server) as client:
        known = client.versions(model)
    rows = [
        (f"{v.number}{' *' if v.current else ''}", moment(v.created_ts), _metrics(v), v.verdict.value, v.reason)
        for v in known
    ]
    columns = ("version (* in use)", "trained", "metrics", "verdict", "why")
    print_table(f"Versions of {model}", columns, rows, "No version yet.")


@cli.command()
def publish(
    model: Annotated[str, typer.Argument(help="Its name.")],
    version: Annotated[int, typer.Argument(help="Which version.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Kept with the decision.")] = "",
    server: ServerOption = DEFAULT_URL,
) -> None:
    """Put a version to use, whatever the gate said about it; also the way back to an earlier one."""
    with asking(server) as client:
        published = client.publish(model, version, reason)
    typer.echo(f"{published.model} version {published.number} is in use.")


def _metrics(version: Version) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in version.metrics.items())

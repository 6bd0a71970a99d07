"""``labelserver models``: versions of trained networks on a running server, and which one is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.asking import DEFAULT_URL, ServerOption, asking

if TYPE_CHECKING:
    from labelserver.client import Version

cli = typer.Typer(
    help="Models of a running server: list, show, compare, publish, roll back, reject, pin, delete.",
    no_args_is_help=True,
)

ModelArgument = Annotated[str, typer.Argument(help="Its name.")]
VersionArgument = Annotated[int, typer.Argument(help="Which version.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Kept with the decision.")]


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
        in_use = versions.current if versions else None
        rows.append(
            (
                name,
                info.type if info else "",
                ", ".join(info.labels) if info else "",
                versions.versions if versions else 0,
                "none yet" if in_use is None else in_use,
            )
        )
    print_table("Models", ("name", "type", "labels", "versions", "in use"), rows, "This app offers no model.")


@cli.command()
def versions(model: ModelArgument, server: ServerOption = DEFAULT_URL) -> None:
    """List the versions of a model: what they reached on the held-out cases, and what was decided."""
    from labelserver.cli.showing import moment, print_table

    with asking(server) as client:
        known = client.versions(model)
    rows = [(_marked(v), moment(v.created_ts), _metrics(v), v.verdict.value, v.reason) for v in known]
    columns = ("version (* in use)", "trained", "metrics", "verdict", "why")
    print_table(f"Versions of {model}", columns, rows, "No version yet.")


@cli.command()
def show(model: ModelArgument, version: VersionArgument, server: ServerOption = DEFAULT_URL) -> None:
    """Show one version: where it comes from, what it learned from, what it reached on every held-out case."""
    from labelserver.cli.showing import moment, print_table

    with asking(server) as client:
        found = client.version(model, version)
    facts = [
        ("decision", f"{found.verdict.value}: {found.reason}"),
        ("trained", moment(found.created_ts)),
        ("duration", f"{found.extra.get('duration_s', '')} s" if "duration_s" in found.extra else ""),
        ("device", found.extra.get("device", "")),
        ("job", found.job_id),
        ("learned from", f"{len(found.labels)} label(s)"),
        ("held out", ", ".join(found.held_out) or "none"),
        ("weights", f"{found.weights}, SHA-256 {found.sha256}"),
        ("network", found.network_hash),
        ("measured against", "" if found.baseline_version is None else f"version {found.baseline_version}"),
    ]
    print_table(
        f"{model}, version {_marked(found)}", ("", ""), [(name, text) for name, text in facts if text], "Nothing."
    )
    names = sorted({name for values in found.cases.values() for name in values})
    cases = [(case, *(_number(values.get(name)) for name in names)) for case, values in found.cases.items()]
    if cases:
        print_table("Held-out cases", ("case", *names), cases, "")


@cli.command()
def compare(
    model: ModelArgument,
    first: Annotated[int, typer.Argument(help="A version.")],
    second: Annotated[int, typer.Argument(help="Another version.")],
    server: ServerOption = DEFAULT_URL,
) -> None:
    """Set two versions side by side: each metric, such as the Dice of a label, and each case that both know."""
    from labelserver.cli.showing import print_table

    with asking(server) as client:
        found = client.compare(model, first, second)
    columns = (str(first), str(second), "difference")
    rows = [
        (name, _number(v.first), _number(v.second), f"{v.difference:+.4f}") for name, v in sorted(found.metrics.items())
    ]
    shared = f"{len(found.cases)} shared case(s)"
    nothing = "The two were not measured on the same labels of any case."
    print_table(f"{model}: means over {shared}", ("metric", *columns), rows, nothing)
    by_case = [
        (case, name, _number(v.first), _number(v.second), f"{v.difference:+.4f}")
        for case, values in found.cases.items()
        for name, v in values.items()
    ]
    if by_case:
        print_table("By case", ("case", "metric", *columns), by_case, "")


@cli.command()
def publish(
    model: ModelArgument, version: VersionArgument, reason: ReasonOption = "", server: ServerOption = DEFAULT_URL
) -> None:
    """Put a version to use, whatever the gate said about it."""
    with asking(server) as client:
        published = client.publish(model, version, reason)
    typer.echo(f"{published.model} version {published.number} is in use.")


@cli.command()
def rollback(model: ModelArgument, reason: ReasonOption = "", server: ServerOption = DEFAULT_URL) -> None:
    """Go back to what was in use before the current version."""
    with asking(server) as client:
        published = client.roll_back(model, reason)
    typer.echo(f"{published.model} version {published.number} is in use again.")


@cli.command()
def reject(
    model: ModelArgument, version: VersionArgument, reason: ReasonOption = "", server: ServerOption = DEFAULT_URL
) -> None:
    """Say that a version shall not be used."""
    with asking(server) as client:
        client.reject(model, version, reason)
    typer.echo(f"{model} version {version} is rejected.")


@cli.command()
def pin(model: ModelArgument, version: VersionArgument, server: ServerOption = DEFAULT_URL) -> None:
    """Keep a version: it is neither pruned nor deleted and, while in use, not replaced by a training."""
    with asking(server) as client:
        client.pin(model, version)
    typer.echo(f"{model} version {version} is pinned.")


@cli.command()
def unpin(model: ModelArgument, version: VersionArgument, server: ServerOption = DEFAULT_URL) -> None:
    """Treat a pinned version like the others again."""
    with asking(server) as client:
        client.pin(model, version, pinned=False)
    typer.echo(f"{model} version {version} is no longer pinned.")


@cli.command()
def delete(model: ModelArgument, version: VersionArgument, server: ServerOption = DEFAULT_URL) -> None:
    """Delete a version that is neither in use nor pinned. Its number is not given again."""
    with asking(server) as client:
        client.delete_version(model, version)
    typer.echo(f"{model} version {version} is deleted.")


def _marked(version: Version) -> str:
    return f"{version.number}{' *' if version.current else ''}{' pinned' if version.pinned else ''}"


def _metrics(version: Version) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in version.metrics.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

"""``labelserver map``: build, run and check application packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelserver.cli.failing import CommandFailed

cli = typer.Typer(help="MONAI Application Packages: build, run, check.", no_args_is_help=True)

_Context = Annotated[Path, typer.Argument(help="A folder that labelserver export --format map wrote.")]


@cli.command()
def build(
    context: _Context,
    tag: Annotated[str, typer.Option("--tag", "-t", help="Name of the image; default: app-model:version.")] = "",
    cuda: Annotated[bool, typer.Option("--cuda", help="With torch's build for CUDA.")] = False,
    base: Annotated[str, typer.Option("--base-image", help="Instead of the recipe's own.")] = "",
    build_arg: Annotated[list[str] | None, typer.Option("--build-arg", help="NAME=VALUE; repeatable.")] = None,
) -> None:
    """Build an image with docker, podman or buildah; without any, print the command to run elsewhere."""
    import json

    from labelserver.export.map.engines import build as build_image
    from labelserver.export.map.writing import MARKER

    marker = context / MARKER
    name = tag or (str(json.loads(marker.read_text())["image"]) if marker.is_file() else "")
    if not name:
        raise CommandFailed("This folder does not say what its image is called. Name it with --tag.")
    arguments = dict(pair.partition("=")[::2] for pair in build_arg or [])
    if cuda:
        arguments["TORCH_INDEX"] = ""
    if base:
        arguments["BASE_IMAGE"] = base
    status = build_image(context, name, arguments)
    if status != 0:
        raise CommandFailed(f"The build ended with status {status}.", status)
    typer.echo(f"{name} is built. Run it: labelserver map run {name} IN OUT")


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    package: Annotated[str, typer.Argument(help="An image's name, or a package's folder.")],
    source: Annotated[Path, typer.Argument(metavar="IN", help="Input folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    words: Annotated[list[str] | None, typer.Argument(help="Further arguments of the application.")] = None,
) -> None:
    """Run a package: an image in a container, a folder as a child process. Ends with the application's status."""
    from labelserver.export.map.engines import run_image
    from labelserver.export.map.running import run_folder

    if not source.exists():
        raise CommandFailed(f"The input {source} does not exist.")
    if Path(package).is_dir():
        status = run_folder(Path(package), source, target, words or [])
    else:
        target.mkdir(parents=True, exist_ok=True)
        status = run_image(package, source, target, words or [])
    raise typer.Exit(status)


@cli.command()
def check(
    place: Annotated[Path, typer.Argument(help="A build context, an image's files, or an OCI image layout.")],
    rules: Annotated[bool, typer.Option("--rules", help="Print what the rules say, too.")] = False,
) -> None:
    """Check a package, ours or a foreign one, against the specification. Fails if there is an error."""
    from labelserver.export.map.checking import RULES
    from labelserver.export.map.checking import check as check_package

    found = check_package(place)
    for finding in found:
        typer.echo(f"{finding}" + (f" [{RULES[finding.rule]}]" if rules else ""))
    errors = sum(finding.error for finding in found)
    typer.echo(f"{errors} errors, {len(found) - errors} advices.")
    if errors:
        raise typer.Exit(1)


@cli.command()
def wheels(
    context: _Context,
    python: Annotated[str, typer.Option("--python", help="Version of the image's Python.")] = "3.12",
    index: Annotated[str, typer.Option("--index", help="Where pip looks; default: as configured.")] = "",
    links: Annotated[str, typer.Option("--find-links", help="A folder or page with wheels; no index is asked.")] = "",
) -> None:
    """Fetch the packages that an image needs, pinned by hash, so that it can be built without network."""
    from labelserver.export.map.wheels import fill

    options = ["-i", index] if index else []
    options += ["--no-index", "--find-links", links] if links else []
    pins = fill(context, python, options)
    typer.echo(f"{len(pins)} wheels are in {context / 'wheels'}.")

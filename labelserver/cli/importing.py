"""``labelserver import``: take a bundle or a TorchScript archive into an app, after showing what it would execute.

An archive that carries its configuration (as MONAI's and this server's exports do) becomes a bundle without weights to
train: a folder with the configuration and the program.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.failing import CommandFailed

if TYPE_CHECKING:
    from labelserver.tasks.bundle_trust import Runs

#: rows of the table; a large bundle's expressions are many, and nobody reads the three-hundredth.
SHOWN = 200


def import_bundle(
    source: Annotated[
        Path, typer.Argument(help="The bundle's folder, the name of one in APP/model, or a TorchScript file (.ts).")
    ],
    app: Annotated[Path, typer.Option("--app", "-a", help="The app's folder.")],
    name: Annotated[str, typer.Option("--name", "-n", help="Its name in the app; default the folder's.")] = "",
    trust: Annotated[
        bool, typer.Option("--trust", help="Agree to everything it executes, without being asked.")
    ] = False,
) -> None:
    """Take a bundle or TorchScript file into an app: shows what it would execute, asks, remembers each checksum."""
    import tempfile

    folder = app.expanduser().absolute()
    if not (folder / "main.py").is_file():
        raise CommandFailed(f"The app folder {app} has no main.py. Fetch one with: labelserver apps.")
    if source.is_file():
        from labelserver.export.archive_bundle import bundle_of

        chosen = name or (source.stem if source.stem != "model" else source.absolute().parent.name)
        with tempfile.TemporaryDirectory() as work:
            _import(bundle_of(source, Path(work) / chosen), folder, chosen, trust=trust)
        return
    _import(_found(source, folder), folder, name, trust=trust)


def _import(bundle: Path, folder: Path, name: str, *, trust: bool) -> None:
    import sys

    from labelserver.tasks import bundle_trust

    target = folder / "model" / (name or bundle.name)
    if target.parent != folder / "model" or target.name.startswith("."):
        raise CommandFailed(f"{name!r} cannot be the name of a folder. Choose letters, digits, '_' and '-'.")
    if target.exists() and target.resolve() != bundle.resolve():
        raise CommandFailed(
            f"The app has a {target.name} already. Choose another --name, or remove {target} first and import again."
        )
    found = bundle_trust.what_runs(bundle)
    _show(bundle.name, found)
    if not trust:
        if not sys.stdin.isatty():
            raise CommandFailed("Nothing was imported. If all of this may run, say so with --trust.")
        if not typer.confirm("May all of this run on this machine?", default=False):
            raise CommandFailed("Nothing was imported.")
    if target.resolve() != bundle.resolve():
        _copy(bundle, target)
    bundle_trust.trust(target)
    typer.echo(f"{target.name} is imported. Name it in the app (--conf models {target.name}), or build a task on it.")


def _found(source: Path, app: Path) -> Path:
    here, inside = source.expanduser().absolute(), app / "model" / source.name
    for folder in (here, inside):
        if (folder / "configs").is_dir():
            return folder
    raise CommandFailed(f"{source} is no MONAI bundle: a bundle is a folder with 'configs' and mostly 'models' in it.")


def _show(name: str, found: list[Runs]) -> None:
    from labelserver.cli.showing import print_table

    rows = [(runs.file, runs.where, runs.what) for runs in found[:SHOWN]]
    print_table(f"What {name} executes", ("file", "where", "what"), rows, f"{name} executes nothing of its own.")
    if len(found) > SHOWN:
        typer.echo(f"... and {len(found) - SHOWN} more; look into the files themselves.")


def _copy(bundle: Path, target: Path) -> None:
    """Whole or not at all."""
    import shutil
    import tempfile

    from labelserver.storage.atomic import storage_errors

    target.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(f"The bundle {bundle.name}"):
        beside = Path(tempfile.mkdtemp(prefix=".importing-", dir=target.parent))
        try:
            shutil.copytree(bundle, beside / target.name, symlinks=True)
            (beside / target.name).rename(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

"""``labelserver apps``: the template apps that the package carries."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from labelserver.cli.failing import CommandFailed

#: exit status of the peer for an unknown name and for a target that exists.
NOT_COPIED = 255

#: What a used app folder gathers; a copy starts without it.
MADE_AT_RUN_TIME = ("__pycache__", "*.pyc", "versions", "jobs", "logs", ".lock", ".labelserver")


def carried_apps() -> Path:
    """Where the template apps lie: inside an installed package, beside the package in a clone."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "carried" / "apps", package.parent / "apps"):
        if folder.is_dir():
            return folder
    raise CommandFailed("This installation carries no template apps; reinstall labelserver.")


def apps_in(folder: Path) -> list[Path]:
    """The app folders below `folder`."""
    return sorted(main.parent for main in folder.glob("*/main.py"))


def summary_of(app: Path) -> str:
    """The first sentence of the app's README."""
    readme = app / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    return next((line.strip() for line in lines if line.strip() and not line.startswith(("#", "<", "|"))), "")


def apps(
    download: Annotated[bool, typer.Option("--download", "-d", help="Copy an app to work with.")] = False,
    name: Annotated[str, typer.Option("--name", "-n", help="Which app.")] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to copy it into.")] = Path(),
    prefix: Annotated[Path | None, typer.Option("--prefix", help="Look for apps here instead.")] = None,
) -> None:
    """List the template apps, or copy one."""
    folder = prefix or carried_apps()
    known = {app.name: app for app in apps_in(folder)}
    if not download:
        from labelserver.cli.showing import print_table

        rows = [(app.name, summary_of(app), app) for app in known.values()]
        print_table("Template apps", ("name", "what it is", "where"), rows, f"No apps in {folder}.")
        return
    if name not in known:
        raise CommandFailed(f"There is no app {name!r}. Known: {', '.join(known) or 'none'}.", NOT_COPIED)
    target = output / name
    if target.exists():
        raise CommandFailed(f"{target} exists; remove it or choose another --output.", NOT_COPIED)
    output.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(known[name], partial, ignore=shutil.ignore_patterns(*MADE_AT_RUN_TIME))
    partial.rename(target)
    typer.echo(f"{name} is in {target}. Its README lists its options.")

"""``labelserver project pack|unpack``: a whole project in one file, to move it to another machine.

The file is a tar archive with ``studies/``, if wanted ``app/``, and last ``project-pack.json``: the SHA-256 of every
file. Unpacking checks each of them before the project appears under its new name.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from labelserver.cli.failing import CommandFailed

cli = typer.Typer(help="A whole project in one file: pack, unpack.", no_args_is_help=True)

MANIFEST = "project-pack.json"
FORMAT = 1

#: Parts of the state and app folder that mean nothing elsewhere or are made again.
_LEFT_OUT = frozenset(("locks", "spool", "cache", "uploads", ".lock", ".lock-owner.json"))


@cli.command()
def pack(
    file: Annotated[Path, typer.Argument(help="The file to write (.tar.gz); it must not exist.", show_default=False)],
    studies: Annotated[Path, typer.Option("--studies", "-s", help="The studies folder.", show_default=False)],
    app: Annotated[Path | None, typer.Option("--app", "-a", help="Also pack this app and its versions.")] = None,
) -> None:
    """Pack studies, labels, revisions, log and, if named, an app. No server may run on them meanwhile."""
    from labelserver.cli.dataset_verbs import open_store
    from labelserver.storage.locks import OwnerLock

    if file.exists():
        raise CommandFailed(f"{file} exists; name another file.")
    store = open_store(studies)
    layout = store.layout
    parts = {"studies": studies.absolute(), "studies/.labelserver": layout.state}
    if layout.labels is not None and layout.labels != layout.given_labels:
        parts["studies/labels"] = layout.labels
    owned = [(layout.state, f"The studies {studies}")]
    if app is not None:
        if not (app / "main.py").is_file():
            raise CommandFailed(f"{app} is not an app: it has no main.py.")
        parts["app"] = app.absolute()
        owned.append((app, f"The app {app}"))
    with ExitStack() as held:
        for folder, what in owned:
            lock = OwnerLock(folder, what)
            lock.acquire()
            held.callback(lock.release)
        index = store.upkeep.backup()
        store.close()
        half = file.with_name(f".tmp-{file.name}")
        try:
            count = _write(half, parts, index)
            half.rename(file)
        finally:
            half.unlink(missing_ok=True)
    typer.echo(f"{count} files are in {file}.")


def _write(target: Path, parts: dict[str, Path], index: Path) -> int:
    """`index` is a copy of the index, which goes in the place of the living one."""
    sums: dict[str, str] = {}
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        for prefix, folder in parts.items():
            others = {other for other in parts.values() if other != folder and other.is_relative_to(folder)}
            for path in _files(folder, others):
                sums[f"{prefix}/{path.relative_to(folder).as_posix()}"] = _add(
                    archive, path, f"{prefix}/{path.relative_to(folder).as_posix()}"
                )
        name = "studies/.labelserver/index.sqlite"
        sums[name] = _add(archive, index, name)
        data = json.dumps({"format": FORMAT, "files": sums}).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return len(sums)


def _add(archive: tarfile.TarFile, path: Path, name: str) -> str:
    """Returns its SHA-256. A link is packed as the file that it leads to."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        archive.addfile(archive.gettarinfo(str(path.resolve()), name), stream)
    return digest


def _files(folder: Path, others: set[Path]) -> Iterator[Path]:
    """Regular files below `folder` that mean something elsewhere, without those of `others`."""
    for path in sorted(_below(folder, set())):
        inner = path.relative_to(folder).parts
        ours = folder.name == ".labelserver" or (folder / "main.py").is_file()
        skipped = ours and (inner[0] in _LEFT_OUT or path.name.startswith("index.sqlite") or "__pycache__" in inner)
        if path.is_file() and not skipped and not any(path.is_relative_to(other) for other in others):
            yield path


def _below(folder: Path, around: set[Path]) -> Iterator[Path]:
    """All files, also in folders that are linked; a link to a folder that it lies in is not followed."""
    real = folder.resolve()
    if real in around:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _below(path, around | {real})
        else:
            yield path


@cli.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="A file that `pack` wrote.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.", show_default=False)],
) -> None:
    """Unpack a project into TARGET/studies (and TARGET/app), after checking every file."""
    if target.exists():
        raise CommandFailed(f"{target} exists; name another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
    try:
        try:
            with tarfile.open(file, "r:gz") as archive:
                archive.extractall(building, filter="data")
            sums = json.loads((building / MANIFEST).read_bytes())["files"]
        except (OSError, tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
            raise CommandFailed(f"{file} is no whole packed project: {error}.") from error
        wrong = [name for name, told in sums.items() if _sum(building / name) != told]
        found = {p.relative_to(building).as_posix() for p in building.rglob("*") if p.is_file()} - {MANIFEST}
        if wrong or found != set(sums):
            raise CommandFailed(
                f"{file} was changed after it was packed: {sorted({*wrong, *(found ^ set(sums))})[:5]}."
            )
        (building / MANIFEST).unlink()
        building.chmod(0o755)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    start = f"labelserver start_server --studies {target / 'studies'}"
    typer.echo(
        f"{len(sums)} files are in {target}. Serve them: {start}"
        + (f" --app {target / 'app'}" if (target / "app").is_dir() else "")
    )


def _sum(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""

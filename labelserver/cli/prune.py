"""``labelserver prune``: let go of what the retention settings no longer keep. Tells first, does with ``--yes``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.dataset_verbs import SHOWN, YesOption, open_store, who
from labelserver.cli.failing import CommandFailed

if TYPE_CHECKING:
    from labelserver.domain.models import ModelVersion
    from labelserver.settings import Settings

#: A person puts this file into a version's folder to keep it whatever the settings say.
PINNED = "pinned"
DAY_S = 86400.0


def prune(
    studies: Annotated[Path | None, typer.Option("--studies", "-s", help="The studies folder.")] = None,
    app: Annotated[Path | None, typer.Option("--app", "-a", help="The app folder.")] = None,
    yes: YesOption = False,
) -> None:
    """Remove old revisions, versions, checkpoints, jobs, caches and logs, as LABELSERVER_KEEP_* say."""
    from labelserver.cli.showing import size_text
    from labelserver.settings import Settings

    if studies is None and app is None:
        raise CommandFailed("Name what to prune: --studies FOLDER, --app FOLDER, or both.")
    settings = Settings.from_environment()
    places = list(_in_app(app, settings)) if app is not None else []
    for what, path in places[:SHOWN]:
        typer.echo(f"{what}: {path}")
    total = sum(_size(path) for _, path in places)
    if studies is not None:
        store = open_store(studies)
        used = {digest for version in _versions(app) for digest in map(str, version.labels.values())}
        items = store.upkeep.prunable(settings.keep_revisions, used, settings.keep_trash_days, settings.keep_cache_days)
        for item in items[:SHOWN]:
            named = f"{item.image_id} {item.tag} {item.number}" if item.number else str(item.paths[0])
            typer.echo(f"{item.what}: {named}")
        total += sum(item.size_bytes for item in items)
        typer.echo(f"{len(items)} of {studies}, {len(places)} of the app: {size_text(total)}.")
        if yes:
            store.upkeep.prune(items, who())
        store.close()
    else:
        typer.echo(f"{len(places)} of {app}: {size_text(total)}.")
    if not yes:
        typer.echo("Nothing was changed. Add --yes to remove them.")
        return
    for _, path in places:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    typer.echo("Removed.")


def _in_app(app: Path, settings: Settings) -> Iterator[tuple[str, Path]]:
    from labelserver.datastore.pruning import older_files

    if not app.is_dir():
        raise CommandFailed(f"There is no folder {app}.")
    yield from (("version", path) for path in _old_versions(app, settings.keep_versions))
    ended = [folder for folder in sorted((app / "jobs").glob("*/")) if _has_ended(folder)]
    jobs = [f for f in ended if settings.keep_jobs_days and _age_days(f) > settings.keep_jobs_days]
    yield from (("job", folder) for folder in jobs)
    for folder in ended:
        if folder not in jobs:
            days = settings.keep_checkpoints_days
            yield from (("checkpoint", p) for p in older_files(folder, days) if p.suffix in (".pt", ".pth"))
    for path in older_files(app / "logs", settings.keep_logs_days):
        yield "log", path


def _old_versions(app: Path, keep: int) -> Iterator[Path]:
    """Beyond the newest `keep`, without the current one, what it replaced, and pinned ones."""
    from labelserver.model_store.local import LocalModelStore

    store = LocalModelStore(app)
    for model in store.models() if keep else []:
        current = store.current(model)
        spared = {current.number, current.baseline_version} if current is not None else set()
        for version in store.versions(model)[:-keep]:
            folder = store.weights_file(model, version.number).parent
            if version.number not in spared and not (folder / PINNED).exists():
                yield folder


def _versions(app: Path | None) -> list[ModelVersion]:
    """Of all models."""
    from labelserver.model_store.local import LocalModelStore

    store = LocalModelStore(app) if app is not None else None
    return [v for model in store.models() for v in store.versions(model)] if store is not None else []


def _has_ended(folder: Path) -> bool:
    """In a final state: a suspended job goes on with its checkpoint."""
    from labelserver.domain.errors import StoredDataInvalid
    from labelserver.engine.job_folder import JobFolder, JobView

    job = JobFolder(folder)
    try:
        view = JobView(job, job.spec())
        view.refresh()
        return view.record.state.is_final
    except StoredDataInvalid:
        return False


def _age_days(folder: Path) -> float:
    newest = max((p.stat().st_mtime for p in folder.rglob("*") if p.is_file()), default=folder.stat().st_mtime)
    return (time.time() - newest) / DAY_S


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size

"""``labelserver evaluate labels``: which accepted labels deserve a second look, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.failing import CommandFailed
from labelserver.cli.pairs import split_pairs

if TYPE_CHECKING:
    from labelserver.contracts.quality import FoundOddity
    from labelserver.tasks.label_quality import LabelQuality


def labels(
    studies: Annotated[Path, typer.Option("--studies", "-s", help="The project's folder, with its accepted labels.")],
    app: Annotated[
        Path | None, typer.Option("--app", "-a", help="The app whose model is asked; none: rules alone.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Which of its models.")] = "segmentation",
    conf: Annotated[list[str] | None, typer.Option("--conf", "-c", help="KEY VALUE for the app; repeatable.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Findings to show.")] = 50,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", "-p", help="Write a picture of each finding into this folder.")
    ] = None,
) -> None:
    """List accepted labels that deserve a second look: shape, size, what a model thinks, what a second reader drew."""
    from labelserver.datastore.local import LocalDatastore

    if not studies.is_dir():
        raise CommandFailed(f"{studies} is no folder.", 2)
    store = LocalDatastore(studies, auto_reload=False)
    done = _looked(app, model, split_pairs(conf or []), studies, store)
    found = store.oddities(limit)
    _show(found, done)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for place, one in enumerate(found, start=1):
            name = f"{place:03}-{one.image_id.replace('/', '_')}-{one.finding.label}-{one.finding.kind.value}.png"
            png = store.oddity_picture(one.number)
            if png:
                (pictures / name).write_bytes(png)
        typer.echo(f"Pictures: {pictures}")


def _looked(app: Path | None, model: str, conf: dict[str, str], studies: Path, store: object) -> dict[str, object]:
    """Look at every label that was not looked at yet."""
    from labelserver.contracts.datastore import Datastore
    from labelserver.contracts.model_store import writing_to
    from labelserver.model_store.local import LocalModelStore
    from labelserver.tasks.label_quality import LabelQuality

    assert isinstance(store, Datastore)
    if app is None:
        return LabelQuality()({}, store)
    with writing_to(LocalModelStore(app.absolute())):
        return _with_model(app, model, conf, studies)({}, store)


def _with_model(app: Path, model: str, conf: dict[str, str], studies: Path) -> LabelQuality:
    from labelserver.app.loading import load_app
    from labelserver.tasks.infer import BasicInferTask
    from labelserver.tasks.label_quality import LabelQuality

    loaded = load_app(app, str(studies), conf)
    task = loaded.tasks()["models"].get(model)
    if not isinstance(task, BasicInferTask):
        able = [name for name, one in loaded.tasks()["models"].items() if isinstance(one, BasicInferTask)]
        raise CommandFailed(f"The app has no model {model!r} that can be asked. It has: {', '.join(able) or 'none'}.")
    return LabelQuality(task, loaded.lineages().get(model, model))


def _show(found: list[FoundOddity], done: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(found)} findings about {done['total']} labeled images")
    for head in ("severity", "image", "label", "kind", "slice", "what"):
        table.add_column(head, justify="right" if head in ("severity", "slice") else "left")
    for one in found:
        finding = one.finding
        table.add_row(
            f"{finding.severity:.2f}",
            one.image_id,
            finding.label,
            finding.kind.value,
            str(finding.slice_k),
            finding.detail,
        )
    Console().print(table)
    failed = done.get("failed")
    for image_id, reason in failed.items() if isinstance(failed, dict) else ():
        typer.echo(f"{image_id}: {reason}", err=True)

"""``labelserver datasets import|export|erase|log|verify``: what goes in and out of a studies folder, and who did what.

They open the folder themselves and may do so while a server runs on it. What changes something says first what it would
do, and does it with ``--yes``.
"""

from __future__ import annotations

import getpass
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from labelserver.cli.failing import CommandFailed

if TYPE_CHECKING:
    from labelserver.datastore.exchange.importing import ImportPlan
    from labelserver.datastore.local import LocalDatastore

StudiesOption = Annotated[Path, typer.Option("--studies", "-s", help="The studies folder.", show_default=False)]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Carry it out; without, only tell what would happen.")]

Kind = TypeVar("Kind", bound=StrEnum)

#: of an entry's detail, what the log prints
_TOLD = ("source", "client", "images", "keys", "version", "names", "model", "reason")

#: lines of a report that are printed; the rest is counted
SHOWN = 50


def open_store(studies: Path) -> LocalDatastore:
    """The store of a studies folder, with the settings of the environment. Raises `CommandFailed`."""
    from labelserver.datastore.local import LocalDatastore
    from labelserver.settings import Settings

    if not studies.is_dir():
        raise CommandFailed(f"There is no folder {studies}. Name the studies with --studies.")
    settings = Settings.from_environment(studies=str(studies.absolute()))
    return LocalDatastore(
        studies.absolute(),
        extensions=tuple(settings.datastore_file_ext),
        read_only=settings.datastore_read_only,
        state_dir=settings.state_dir.absolute(),
        index_dir=settings.index_dir,
    )


def who() -> str:
    """Who is at this terminal, for the audit log."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "command line"


def import_(
    source: Annotated[Path, typer.Argument(help="Folder, or a manifest (.csv, .json).", show_default=False)],
    studies: StudiesOption,
    layout: Annotated[
        str, typer.Option("--format", "-f", help="monai-label, nnunet, decathlon, bids, manifest or folders.")
    ] = "",
    link: Annotated[bool, typer.Option("--link", help="Link the images instead of copying them.")] = False,
    yes: YesOption = False,
) -> None:
    """Take images and labels of another tool's folder: first a report, then, with --yes, the deed."""
    from labelserver.cli.showing import progress_bar
    from labelserver.datastore.exchange.cases import ImportLayout, find_cases
    from labelserver.datastore.exchange.importing import carry_out, plan_import
    from labelserver.datastore.exchange.snapshots import adopt_schema, read

    chosen = _chosen(ImportLayout, layout)
    snapshot = read(source) if source.is_dir() else None
    store = open_store(studies)
    found = find_cases(source, chosen)
    with progress_bar() as bar:
        task = bar.add_task("looking", total=len(found.cases), said="")
        plan = plan_import(store, found, lambda done: bar.update(task, completed=done))
    _report(plan)
    if snapshot is not None:
        typer.echo(f"The snapshot {snapshot.hash} is what it says.")
    if not yes:
        typer.echo("Nothing was changed. Add --yes to carry it out.")
        return
    if snapshot is not None and (said := adopt_schema(store, snapshot, who())):
        typer.echo(f"note: {said}")
    with progress_bar() as bar:
        task = bar.add_task("importing", total=len(plan.takes), said="")
        failed = carry_out(store, plan, who(), link=link, on_progress=lambda done: bar.update(task, completed=done))
    for item in failed:
        typer.echo(f"refused: {item.image_id}: {item.reason}")
    store.close()
    typer.echo(f"{len(plan.takes) - len(failed)} cases were imported into {studies}.")
    if failed:
        raise CommandFailed(f"{len(failed)} could not be taken after all; see above.")


def _report(plan: ImportPlan) -> None:
    from labelserver.cli.showing import print_table
    from labelserver.datastore.exchange.importing import Fate

    counts = Counter((item.fate, bool(item.tag)) for item in plan.items)
    rows = [(fate.value, counts[fate, False], counts[fate, True]) for fate in Fate]
    print_table(f"Found as {plan.found.layout.value}", ("", "images", "labels"), rows, "")
    told = [i for i in plan.items if i.reason and i.fate not in (Fate.NEW, Fate.THERE)]
    for item in told[:SHOWN]:
        typer.echo(f"{item.fate.value}: {item.file}: {item.reason}")
    for note in plan.found.notes[:SHOWN]:
        typer.echo(f"note: {note}")
    more = max(0, len(told) - SHOWN) + max(0, len(plan.found.notes) - SHOWN)
    if more:
        typer.echo(f"... and {more} more.")


def _chosen(kinds: type[Kind], text: str) -> Kind | None:
    try:
        return kinds(text) if text else None
    except ValueError as error:
        raise CommandFailed(f"There is no format {text!r}; known are {', '.join(kinds)}.") from error


def _included(texts: list[str], kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """The kinds that are named, `all` of them where that is. Raises `CommandFailed`."""
    known = {str(kind): kind for kind in kinds}
    unknown = [text for text in texts if text not in known and text != "all"]
    if unknown:
        raise CommandFailed(f"There is nothing called {unknown[0]!r} to include; known are {', '.join(known)}, all.")
    return kinds if "all" in texts else tuple(known[text] for text in texts)


def export(
    target: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.", show_default=False)],
    studies: StudiesOption,
    layout: Annotated[str, typer.Option("--format", "-f", help="snapshot, nnunet, decathlon or bids.")] = "snapshot",
    tag: Annotated[list[str] | None, typer.Option("--tag", "-t", help="Only labels of this tag; repeatable.")] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Labels alone.")] = False,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", help="Also labels that are returned, unapproved or flagged, or all; repeatable."),
    ] = None,
) -> None:
    """Write the labels that trainings learn from (and their images) as a folder that is never changed again.

    Its hash names it. Labels that a reviewer returned, that wait for an approval which the project asks for, or whose
    image is flagged are left out and counted, unless --include names them.
    """
    from labelserver.cli.showing import progress_bar
    from labelserver.datastore.exchange.exporting import ExportLayout
    from labelserver.datastore.exchange.exporting import export as write
    from labelserver.domain.work import Withheld

    chosen = _chosen(ExportLayout, layout) or ExportLayout.SNAPSHOT
    included = _included(include or [], tuple(Withheld))
    store = open_store(studies)
    with progress_bar() as bar:
        task = bar.add_task("exporting", total=None, said="")
        done = write(
            store,
            target.absolute(),
            chosen,
            images=not no_images,
            tags=tuple(tag or ()),
            include=included,
            on_progress=lambda number: bar.update(task, completed=number),
        )
    store.close()
    if done.withheld:
        told = ", ".join(f"{count} {why}" for why, count in done.withheld.items())
        typer.echo(f"not exported, as trainings do not learn from them: {told}. Add --include to have them.")
    for sentence in done.left_out:
        typer.echo(f"left out: {sentence}")
    typer.echo(f"{done.labels} labels and {done.images} images are in {target}.")
    typer.echo(f"snapshot {done.snapshot.hash}")
    if done.left_out:
        raise CommandFailed(f"{len(done.left_out)} labels could not be written in this format; see above.")


def erase(
    image_or_patient: Annotated[str, typer.Argument(help="Image id, folder or PatientID.", show_default=False)],
    studies: StudiesOption,
    app: Annotated[Path | None, typer.Option("--app", "-a", help="Also caches below this app.")] = None,
    yes: YesOption = False,
) -> None:
    """Really remove images and all that was made from them: pixels, labels, drafts, sessions, caches, backups."""
    from labelserver.settings import Settings

    if app is not None and not app.is_dir():
        raise CommandFailed(f"There is no folder {app}.")
    store = open_store(studies)
    uploads = Settings.from_environment(studies=str(studies.absolute())).upload_dir.absolute()
    erasure = store.upkeep.plan_erasure(
        image_or_patient, uploads=uploads, app=app.absolute() if app is not None else None
    )
    for path in erasure.paths[:SHOWN]:
        typer.echo(f"{path}{_where_really(path)}")
    if len(erasure.paths) > SHOWN:
        typer.echo(f"... and {len(erasure.paths) - SHOWN} more.")
    named = ", ".join(erasure.images[:5]) + (", ..." if len(erasure.images) > 5 else "")
    typer.echo(f"{len(erasure.images)} images ({named}): {len(erasure.paths)} files and folders, rows, backups.")
    if not yes:
        typer.echo("Nothing was changed. Add --yes to carry it out; nothing brings them back.")
        return
    left = [path.resolve() for path in erasure.paths if path.is_symlink()]
    store.upkeep.erase(erasure, who())
    store.close()
    for path in left:
        typer.echo(f"Only the link to {path} is gone. Remove that file yourself.")
    typer.echo("Erased. Exports, packed projects and networks trained on these images are not reached.")


def _where_really(path: Path) -> str:
    """A note about links: the end of one stays, what lies in a linked folder does not."""
    real = path.resolve()
    if path.is_symlink():
        return f" (a link; {real} stays)"
    return f" (that is {real})" if real != path.parent.absolute() / path.name else ""


def log(
    studies: StudiesOption,
    image: Annotated[str, typer.Option("--image", "-i", help="Only this image.")] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="So many of the newest entries.")] = 100,
) -> None:
    """Print who did what to which revision."""
    from labelserver.cli.showing import moment, print_table

    store = open_store(studies)
    rows = []
    for entry in store.audit_log(count, image):
        act = entry.act
        which = f"{act.tag} {act.revision}" if act.revision is not None else act.tag
        told = " ".join(f"{k}={v}" for k, v in act.detail.items() if k in _TOLD)
        rows.append((entry.number, moment(entry.created_ts), act.person, act.action, act.image_id, which, told))
    store.close()
    columns = ("", "when", "who", "did", "image", "label", "")
    print_table("Audit log", columns, rows, "Nothing has been done yet.")


def verify(
    studies: StudiesOption,
    head: Annotated[str, typer.Option("--head", help="A hash that an earlier check printed.")] = "",
) -> None:
    """Check the audit log and the checksum of every revision; exit status 1 if anything was edited."""
    store = open_store(studies)
    checked = store.upkeep.verify(head)
    store.close()
    for finding in checked.findings:
        typer.echo(f"{finding.path}: {finding.reason}")
    typer.echo(f"{checked.entries} entries, {checked.revisions} revisions; the newest hash is {checked.head}")
    if checked.findings:
        raise CommandFailed(f"{len(checked.findings)} things are not as the audit log tells; see above.")
    typer.echo("Everything is as the audit log tells.")

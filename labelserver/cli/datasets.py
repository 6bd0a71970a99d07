"""``labelserver datasets``: studies to begin with; what goes in and out of studies (`dataset_verbs.py`).

The phantoms are made on this machine; the Decathlon tasks come from the internet, through MONAI.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from labelserver.cli import dataset_verbs, schema
from labelserver.cli.apps import NOT_COPIED
from labelserver.cli.failing import CommandFailed

PHANTOM = "phantom-abdomen"

#: The ten tasks of the Medical Segmentation Decathlon: what is on the images.
DECATHLON = {
    "Task01_BrainTumour": "brain tumours, MR, 4 sequences",
    "Task02_Heart": "left atrium, MR",
    "Task03_Liver": "liver and tumours, CT",
    "Task04_Hippocampus": "hippocampus, MR",
    "Task05_Prostate": "prostate, MR, 2 sequences",
    "Task06_Lung": "lung tumours, CT",
    "Task07_Pancreas": "pancreas and tumours, CT",
    "Task08_HepaticVessel": "hepatic vessels and tumours, CT",
    "Task09_Spleen": "spleen, CT",
    "Task10_Colon": "colon cancer, CT",
}


cli = typer.Typer(
    help="Data sets: list or make some to begin with; import, export, erase, log, verify.", invoke_without_command=True
)
cli.command("import")(dataset_verbs.import_)
cli.command("export")(dataset_verbs.export)
cli.command("erase")(dataset_verbs.erase)
cli.command("log")(dataset_verbs.log)
cli.command("verify")(dataset_verbs.verify)
cli.add_typer(schema.cli, name="schema")


@cli.callback()
def datasets(
    context: typer.Context,
    download: Annotated[bool, typer.Option("--download", "-d", help="Make or fetch a data set.")] = False,
    name: Annotated[str, typer.Option("--name", "-n", help="Which data set.")] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to put it into.")] = Path(),
    prefix: Annotated[Path | None, typer.Option("--prefix", help="Same as --output.", hidden=True)] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many phantoms.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Which set of phantoms.")] = 0,
) -> None:
    """List data sets, or make or fetch one. The verbs below work on the data of a studies folder."""
    if context.invoked_subcommand is not None:
        return
    if not download:
        _list()
        return
    known = {known.lower(): known for known in (PHANTOM, *DECATHLON)}
    chosen = known.get(name.lower())
    if chosen is None:
        raise CommandFailed(f"There is no data set {name!r}. Known: {', '.join(known.values())}.", NOT_COPIED)
    target = (prefix or output) / chosen
    if chosen == PHANTOM:
        _make_phantoms(target, count, seed)
    else:
        _fetch_decathlon(target)


def _list() -> None:
    from labelserver.cli.showing import print_table

    rows = [(PHANTOM, "abdominal CT phantoms with reference labels", "made on this machine, about 10 MB")]
    rows += [(name, what, "fetched from the internet, up to 30 GB") for name, what in DECATHLON.items()]
    print_table("Data sets", ("name", "what it is", "where it comes from"), rows, "")


def _make_phantoms(target: Path, count: int, seed: int) -> None:
    from labelserver.cli.showing import progress_bar
    from labelserver.phantoms import make_study_set

    reference = target.with_name(f"{target.name}-reference")
    if (reference / "labels.json").exists():  # written last, so an interrupted run is taken up again
        raise CommandFailed(f"{target} exists; remove it and {reference}, or choose another --output.", NOT_COPIED)
    with progress_bar() as bar:
        task = bar.add_task("making phantoms", total=count, said="")
        make_study_set(target, count, seed, on_progress=lambda done, _: bar.update(task, completed=done))
    typer.echo(f"{count} studies are in {target}, their reference labels in {reference}.")


def _fetch_decathlon(target: Path) -> None:
    """Fetch and unpack one archive; what is half there is never taken for the whole."""
    from urllib.error import URLError

    from monai.apps import DecathlonDataset
    from monai.apps.utils import download_and_extract

    if target.exists():
        raise CommandFailed(f"{target} exists; remove it or choose another --output.", NOT_COPIED)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    archive = target.with_name(f"{target.name}.tar")
    try:
        download_and_extract(
            DecathlonDataset.resource[target.name], archive, partial, hash_val=DecathlonDataset.md5[target.name]
        )
    except (URLError, OSError, RuntimeError, ValueError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CommandFailed(
            f"{target.name} could not be fetched ({error}). It comes from the internet; on a machine without, "
            f"use --name {PHANTOM}, which is made here."
        ) from error
    inside = partial / target.name
    (inside if inside.is_dir() else partial).rename(target)
    shutil.rmtree(partial, ignore_errors=True)
    typer.echo(f"{target.name} is in {target}. Label its images with --studies {target / 'imagesTr'}.")

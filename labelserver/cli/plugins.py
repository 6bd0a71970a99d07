"""``labelserver plugins``: the viewers that speak to this server, and where people get them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelserver.cli.failing import CommandFailed

#: viewer -> (where its part for MONAI Label servers comes from, where to enter this server's address)
VIEWERS = {
    "slicer": (
        "3D Slicer: Extensions Manager, extension 'MONAILabel'",
        "module Active Learning > MONAILabel, field 'MONAI Label server'",
    ),
    "slicer-reviewer": ("3D Slicer: the same extension", "module Active Learning > MONAILabel Reviewer"),
    "ohif": ("OHIF v3 with the MONAI Label extension, plugins/ohifv3 of MONAI Label", "panel MONAI Label, gear icon"),
    "qupath": ("QuPath extension, plugins/qupath of MONAI Label", "Edit > Preferences > MONAI Label"),
    "mitk": ("MITK Workbench 2024.06 and later, built in", "Segmentation view > MONAI Label, preferences"),
    "cvat": ("CVAT serverless functions, plugins/cvat of MONAI Label", "environment MONAI_LABEL_SERVER"),
}


def plugins(
    download: Annotated[bool, typer.Option("--download", "-d", help="Not offered: viewers bring their own.")] = False,
    name: Annotated[str, typer.Option("--name", "-n", help="Show one viewer.")] = "",
    output: Annotated[Path, typer.Option("--output", "-o", hidden=True)] = Path(),
    prefix: Annotated[Path | None, typer.Option("--prefix", hidden=True)] = None,
) -> None:
    """List the viewers that work with this server, and where to get their part."""
    from labelserver.cli.showing import print_table

    if name and name not in VIEWERS:
        raise CommandFailed(f"There is no plug-in {name!r}. Known: {', '.join(VIEWERS)}.", 255)
    shown = {viewer: words for viewer, words in VIEWERS.items() if name in ("", viewer)}
    if download:
        where = "; ".join(words[0] for words in shown.values())
        raise CommandFailed(f"Plug-ins are not carried here; get them from their makers: {where}.", 255)
    rows = [(viewer, *words) for viewer, words in shown.items()]
    print_table("Viewers", ("name", "where to get it", "where to enter http://127.0.0.1:8000"), rows, "")

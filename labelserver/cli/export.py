"""``labelserver export``: take a version of a model out of an app, as files that run without this server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.failing import CommandFailed
from labelserver.cli.pairs import split_pairs

if TYPE_CHECKING:
    from labelserver.export.exporting import Exported


def export(
    app: Annotated[Path, typer.Option("--app", "-a", help="The app's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder that is not there yet.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Which model.")] = "segmentation",
    version: Annotated[int | None, typer.Option("--version", "-n", help="Default: the one in use.")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="torchscript, bundle, app, map, or all.")] = "all",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Run each format in a fresh process; compare with the server's answer."),
    ] = False,
    studies: Annotated[
        str, typer.Option("--studies", "-s", help="The project's images: its label schema names the labels' terms.")
    ] = "",
    case: Annotated[
        Path | None,
        typer.Option("--case", help="Image or DICOM folder for the self-test; it travels with the export."),
    ] = None,
    modality: Annotated[str, typer.Option("--modality", help="DICOM's, for example CT or MR.")] = "",
    licence: Annotated[
        Path | None, typer.Option("--license", "--licence", help="A text file for the bundle's LICENSE.")
    ] = None,
    sdk: Annotated[
        bool, typer.Option("--sdk", help="The application also as operators of MONAI Deploy's SDK (app_sdk.py).")
    ] = False,
    conf: Annotated[list[str] | None, typer.Option("--conf", "-c", help="KEY VALUE for the app; repeatable.")] = None,
) -> None:
    """Take a version out: TorchScript, MONAI bundle, deploy application, application package."""
    from labelserver.domain.exports import parse_formats

    formats = parse_formats(format)
    folder = app.expanduser().absolute()
    if not (folder / "main.py").is_file():
        raise CommandFailed(f"The app folder {app} has no main.py. Fetch one with: labelserver apps.")
    for given, what in ((case, "--case"), (licence, "--license")):
        if given is not None and not given.exists():
            raise CommandFailed(f"{what}: there is no {given}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandFailed(f"{output} exists and is not empty. Choose another --output, or remove it first.")

    import tempfile

    from labelserver.app.export_source import export_source
    from labelserver.app.loading import load_app
    from labelserver.export.application import ApplicationOptions
    from labelserver.export.bundle import BundleOptions
    from labelserver.export.exporting import export_version
    from labelserver.export.recording import Recording, recorded

    recording = Recording()
    with tempfile.TemporaryDirectory() as nothing:
        with recorded(recording):
            loaded = load_app(folder, studies or nothing, split_pairs(conf or []))
        source = export_source(loaded, recording, model, version, case=case, modality=modality)
        written = export_version(
            source,
            formats,
            output,
            BundleOptions(licence),
            lambda line, done: typer.echo(f"{done:4.0%} {line}"),
            ApplicationOptions(sdk=sdk),
        )
    _tell(written)
    if verify:
        _verify(output)


def _tell(written: Exported) -> None:
    contents = written.contents
    typer.echo(f"{contents.model}, version {contents.version}: written to {written.folder}")
    for note in written.notes:
        typer.echo(f"Note: {note}")


def _verify(output: Path) -> None:
    from labelserver.export.verifying import ensure_passed, verify

    ensure_passed(verify(output, typer.echo))

"""Take a version out in one format or in all: one folder, a part for each format, whole or not at all::

OUTPUT/
  torchscript/   the prepared folder (`contents`), with ``model.pt2``, ``model.onnx`` or why there is none
  bundle/<model>/
  app/           a folder that runs
  map/           what a container is built from
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labelserver.domain.errors import Conflict, InvalidParams
from labelserver.domain.exports import ExportFormat
from labelserver.domain.ids import model_folder
from labelserver.export.application import ApplicationOptions, write_application
from labelserver.export.bundle import BundleOptions, write_bundle
from labelserver.export.contents import ExportContents
from labelserver.export.map import MapOptions, write_map
from labelserver.export.preparing import ExportSource, Prepared, prepare
from labelserver.export.programs import Program, write_programs
from labelserver.storage import atomic

TORCHSCRIPT = ExportFormat.TORCHSCRIPT.value

#: hears what is done next and how much of the whole is done, 0 to 1; may raise to stop
Step = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    contents: ExportContents
    formats: tuple[ExportFormat, ...]
    programs: tuple[Program, ...] = ()
    notes: tuple[str, ...] = ()  #: for people: what is missing and why


def export_version(
    source: ExportSource,
    formats: Sequence[ExportFormat],
    output: Path,
    options: BundleOptions | None = None,
    step: Step = lambda line, done: None,
    application: ApplicationOptions | None = None,
) -> Exported:
    """Write `output`, which does not exist or is an empty folder.

    Raises:
        Conflict: `output` holds something.
        InvalidParams: the task or one of the formats cannot be exported; says why.
        ModelNotFound: there are no weights.
    """
    output = output.absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise Conflict(f"{output.name} exists and is not empty. Choose another folder, or remove it first.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic.storage_errors("the export"):
        beside = Path(tempfile.mkdtemp(prefix=atomic.TEMPORARY_PREFIX, dir=output.parent))
        try:
            beside.chmod(0o755)
            found = _written(source, formats, beside, options, step, application)
            if output.exists():
                output.rmdir()
            beside.rename(output)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    contents = ExportContents.read(output / TORCHSCRIPT)
    return Exported(output, contents, tuple(formats), found.programs, found.notes)


def archived(folder: Path, archive: Path) -> Path:
    """`folder` as a zip file at `archive`; names inside begin with the folder's own."""
    with (
        atomic.storage_errors("the archive"),
        zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z,
    ):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                z.write(path, Path(folder.name) / path.relative_to(folder))
    return archive


@dataclass(slots=True)
class _Found:
    programs: tuple[Program, ...] = ()
    notes: tuple[str, ...] = ()


def _written(
    source: ExportSource,
    formats: Sequence[ExportFormat],
    target: Path,
    options: BundleOptions | None,
    step: Step,
    application: ApplicationOptions | None,
) -> _Found:
    total = 2 + len(formats)
    step("Preparing the version.", 0.0)
    prepared = prepare(source, target / TORCHSCRIPT, lambda line: step(line, 0.5 / total))
    found = _Found()
    for number, wanted in enumerate(formats, start=1):
        step(f"Writing the format {wanted.value}.", number / total)
        if wanted is ExportFormat.TORCHSCRIPT:
            found.programs = tuple(
                write_programs(prepared.network, prepared.example, prepared.multiple, target / TORCHSCRIPT)
            )
            found.notes += tuple(f"{p.name}: {p.reason}" for p in found.programs if p.reason)
        elif wanted is ExportFormat.BUNDLE:
            found.notes += _bundle(prepared, target, options, alone=len(formats) == 1)
        else:
            found.notes += _application(wanted, prepared.contents, target, application, alone=len(formats) == 1)
    step("Putting it in place.", (total - 1) / total)
    return found


def _bundle(prepared: Prepared, target: Path, options: BundleOptions | None, *, alone: bool) -> tuple[str, ...]:
    """A bundle that cannot be is an error where it alone was asked for, else a note."""
    try:
        write_bundle(prepared, target / "bundle" / model_folder(prepared.contents.model), options)
    except InvalidParams as error:
        if alone:
            raise
        (target / "bundle.txt").write_text(error.message + "\n", encoding="utf-8")
        return (f"bundle: {error.message}",)
    return ()


def _application(
    wanted: ExportFormat,
    contents: ExportContents,
    target: Path,
    options: ApplicationOptions | None,
    *,
    alone: bool,
) -> tuple[str, ...]:
    """The application, or the package around it. One that cannot be is an error where it alone was asked for."""
    chosen = options or ApplicationOptions()
    try:
        if wanted is ExportFormat.APP:
            write_application(contents, target / wanted.value, chosen)
        else:
            write_map(contents, target / wanted.value, MapOptions(chosen))
    except InvalidParams as error:
        if alone:
            raise
        (target / f"{wanted.value}.txt").write_text(error.message + "\n", encoding="utf-8")
        return (f"{wanted.value}: {error.message}",)
    return ()

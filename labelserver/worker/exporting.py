"""The work of an export job: load the app so that its networks are known, write the formats, pack them.

The result lies in the job's folder as ``export.zip``. The job can be stopped between two steps; what it had written by
then is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

from labelserver.app.export_source import export_source
from labelserver.app.label_app import LabelApp
from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import RequestCancelled
from labelserver.domain.exports import parse_formats
from labelserver.domain.jobs import EXPORT_ARCHIVE, JobSpec
from labelserver.domain.json_types import JsonObject
from labelserver.export.exporting import archived, export_version
from labelserver.export.recording import Recording, recorded
from labelserver.export.verifying import Verdict, ensure_passed, verify
from labelserver.storage.checksums import sha256_of
from labelserver.worker.hosted import HostedApp


def export_job(load: Callable[[], HostedApp], spec: JobSpec, folder: Path) -> JsonObject:
    """Run the export that `spec` asks for.

    Args:
        load: loads the app.
        spec: its params are ``version`` (None: the one in use), ``format``, ``verify`` and ``modality``.
        folder: of the job.

    Returns:
        ``model``, ``version``, ``formats``, ``archive`` (file name), ``size_bytes``, ``sha256``, ``notes`` and, if
        asked for, ``verified``: a sentence for each comparison. ``{"stopped": true}`` if it was stopped.
    """
    formats = parse_formats(spec.params.get("format"))
    number = spec.params.get("version")
    recording = Recording()
    with recorded(recording):
        app = cast(LabelApp, load())
    output = folder / f"{spec.task}-{number if number is not None else 'current'}"
    shutil.rmtree(output, ignore_errors=True)  # of an attempt that was interrupted
    source = export_source(
        app,
        recording,
        spec.task,
        int(str(number)) if number is not None else None,
        modality=str(spec.params.get("modality") or ""),
    )
    try:
        written = export_version(source, formats, output, step=_step)
        verdicts = _verified(output) if spec.params.get("verify") else []
        archive = archived(output, folder / EXPORT_ARCHIVE)
    except RequestCancelled:
        return {"stopped": True}
    finally:
        shutil.rmtree(output, ignore_errors=True)
    _step("Done.", 1.0)
    return {
        "model": spec.task,
        "version": written.contents.version,
        "formats": [wanted.value for wanted in formats],
        "archive": archive.name,
        "size_bytes": archive.stat().st_size,
        "sha256": sha256_of(archive),
        "notes": list(written.notes),
        "verified": [verdict.sentence for verdict in verdicts],
    }


def _verified(output: Path) -> list[Verdict]:
    _step("Verifying each format in a process of its own.", 0.9)
    verdicts = verify(output, lambda line: current_progress().log(line))
    ensure_passed(verdicts)
    return verdicts


def _step(line: str, done: float) -> None:
    """Tell people where the job is. Raises `RequestCancelled` if it shall end."""
    progress = current_progress()
    if progress.should_stop():
        raise RequestCancelled("The export was stopped.")
    progress.log(line)
    progress.report({"step": line, "done": round(done, 3)})

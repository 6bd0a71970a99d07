"""From an input folder to an output folder: find, read, predict, write; the model is loaded once.

Outputs of a call appear together: they are written into a hidden folder inside the output and moved at the end, the
summary ``metadata.json`` last. Whoever sees that file sees everything; a call that fails leaves nothing new.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from labelserver.domain.errors import AppFailed
from labelserver.export.application.runtime.about import About
from labelserver.export.application.runtime.answers import Answer, Measured, measured, mended, new_uid
from labelserver.export.application.runtime.predicting import Predictor
from labelserver.export.application.runtime.studies import DicomInput, Found, NiftiInput, find
from labelserver.imaging.nifti import write
from labelserver.imaging.volume import Volume

SUMMARY = "metadata.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """What a call has written."""

    files: tuple[str, ...]  #: relative to the output folder
    volumes: int


def process(about: About, predictor: Callable[[], Predictor], source: Path, target: Path) -> Run:
    """Segment everything in `source` that the rules select.

    Args:
        about: the application and what it shall write.
        predictor: called once the input is known to be usable.
        source: a folder, or one file.
        target: made if missing; must not hold a summary.

    Raises:
        LabelServerError: with a sentence; nothing was written.
    """
    if (target / SUMMARY).exists():
        raise AppFailed(f"The output already holds a {SUMMARY}. Give an empty folder; nothing is overwritten.")
    found = find(source, about.rules)
    for sentence in found.left_out:
        logger.warning("%s", sentence)
    return answer(about, predictor(), found, target)


def answer(about: About, model: Predictor, found: Found, target: Path) -> Run:
    """Segment what was found, and write. Raises as `process`."""
    target.mkdir(parents=True, exist_ok=True)
    with _hidden_folder(target) as folder:
        summary = _written(about, model, found, folder)
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        taken = [name for name in files if (target / name).exists()]
        if taken:
            raise AppFailed(f"The output already holds {taken[0]}. Give an empty folder; nothing is overwritten.")
        (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        for name in [*files, SUMMARY]:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(target / name)
    return Run((*files, SUMMARY), len(found.dicom) + len(found.nifti))


def _written(about: About, model: Predictor, found: Found, folder: Path) -> dict[str, Any]:
    several = len(found.dicom) + len(found.nifti) > 1
    volumes = []
    items: list[DicomInput | NiftiInput] = [*found.dicom, *found.nifti]
    for number, item in enumerate(items, start=1):
        place = folder / str(number) if several else folder
        place.mkdir(exist_ok=True)
        if isinstance(item, DicomInput):
            told = _dicom(about, model, item, place)
        else:
            told = _nifti(about, model, item, place)
        told["files"] = [f"{number}/{name}" if several else name for name in told["files"]]
        volumes.append(told)
    return {
        "application": about.name,
        "model": about.model,
        "version": about.version,
        "volumes": volumes,
        "left_out": list(found.left_out),
    }


def _dicom(about: About, model: Predictor, item: DicomInput, place: Path) -> dict[str, Any]:
    volume = item.volume()
    labels = model.labels_of(volume)
    if about.outputs.nifti:
        write(place / "labels.nii.gz", labels, volume.grid.affine, compress=True)
    made = _answer(about, item, volume, labels)
    for name, dataset in _objects(made):
        dataset.save_as(place / name, enforce_file_format=True)
    return {
        "study": item.study_uid,
        "series": item.files.uid,
        "selection": item.selection,
        "files": sorted(path.name for path in place.iterdir() if path.is_file()),
        "labels": [_told(m) for m in made.measured],
    }


def _nifti(about: About, model: Predictor, item: NiftiInput, place: Path) -> dict[str, Any]:
    volume = item.volume()
    labels = model.labels_of(volume)
    write(place / "labels.nii.gz", labels, volume.grid.affine, compress=True)
    found = measured(about, labels, volume.grid)
    return {"file": item.path.name, "files": ["labels.nii.gz"], "labels": [_told(m) for m in found]}


def _told(found: Measured) -> dict[str, Any]:
    return {
        "name": found.label.name,
        "value": found.label.value,
        "segment": found.number,
        "voxels": found.voxels,
        "volume_ml": round(found.volume_ml, 3),
    }


def _answer(about: About, item: DicomInput, volume: Volume, labels: NDArray[np.integer[Any]]) -> Answer:
    frames = item.frames()
    paths = dict.fromkeys(path for path, _ in frames)
    return Answer(
        about,
        volume,
        labels,
        mended(tuple(pydicom.dcmread(path, stop_before_pixels=True) for path in paths)),
        tuple(frames),
        measured(about, labels, volume.grid),
        datetime.datetime.now(),
    )


def _objects(answer: Answer) -> Iterator[tuple[str, Any]]:
    """Name and dataset of each DICOM output that was asked for. highdicom is imported here, not at the start."""
    outputs = answer.about.outputs
    if outputs.segmentation == "none" and not (outputs.report or outputs.pdf or outputs.mesh):
        return
    from labelserver.export.application.runtime.segmentation_object import segmentation

    made = segmentation(answer) if outputs.segmentation != "none" or outputs.report else None
    if made is not None:
        yield "segmentation.dcm", made
    if outputs.report:
        from labelserver.export.application.runtime.report_object import report

        yield "report.dcm", report(answer, made)
    if outputs.pdf or outputs.mesh:
        from labelserver.export.application.runtime.document_objects import encapsulated_pdf, encapsulated_stl

        if outputs.pdf:
            yield "pictures.dcm", encapsulated_pdf(answer)
        series = new_uid()
        for found in answer.measured if outputs.mesh else ():
            if found.voxels:
                yield f"mesh-{found.number}.dcm", encapsulated_stl(answer, found, series)


@contextlib.contextmanager
def _hidden_folder(target: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".labelserver-", dir=target))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""Take the cases of another tool's folder into a store: look first, then carry out what was seen to fit.

The look changes nothing: each image's header and each label's voxels are read and compared, so that the report says
what would be taken, what is there already, what collides and what cannot be read. Labels become revisions with the
source ``import``; a label whose bytes are the current revision's is left as it is, so that an import may be repeated.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from labelserver.datastore.annotating import recorded_part
from labelserver.datastore.exchange.cases import Case, CaseLabel, FoundCases
from labelserver.datastore.label_check import check_values_of
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.annotation import COMPLETE, Annotation, annotation_of
from labelserver.domain.errors import (
    GridsDiffer,
    ImageNotFound,
    LabelNotFound,
    LabelServerError,
    Refused,
    UnreadableFile,
    UnsupportedFormat,
)
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId, parse_image_id, parse_tag
from labelserver.domain.labels import ImageKind, LabelSource, Provenance
from labelserver.imaging.dicom_series import find_series
from labelserver.imaging.formats import IMAGE_EXTENSIONS, LABEL_EXTENSIONS, has_voxels, kind_of, split_ext
from labelserver.imaging.reordering import axis_change
from labelserver.imaging.volumes import read_grid
from labelserver.storage.atomic import storage_errors
from labelserver.storage.checksums import sha256_of

CLIENT = "labelserver import"


class Fate(StrEnum):
    """What becomes of an image or label."""

    NEW = "new"
    THERE = "there already"
    COLLIDES = "collides"
    UNREADABLE = "unreadable"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the report. `tag` is "" for an image."""

    image_id: str
    tag: str
    file: Path
    fate: Fate
    reason: str = ""


@dataclass(slots=True)
class ImportPlan:
    """What an import would do."""

    found: FoundCases
    items: list[Item] = field(default_factory=list)
    takes: list[tuple[Case, bool, list[CaseLabel]]] = field(default_factory=list)  #: case, new image?, labels to save

    def count(self, fate: Fate, *, labels: bool) -> int:
        return sum(item.fate is fate and bool(item.tag) == labels for item in self.items)


def plan_import(
    store: LocalDatastore, found: FoundCases, on_progress: Callable[[int], None] | None = None
) -> ImportPlan:
    """Look at each case. `on_progress` hears how many are done."""
    plan = ImportPlan(found)
    seen: set[str] = set()
    for done, case in enumerate(found.cases, start=1):
        _plan_case(store, case, seen, plan)
        if on_progress is not None:
            on_progress(done)
    return plan


def carry_out(
    store: LocalDatastore,
    plan: ImportPlan,
    person: str,
    *,
    link: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[Item]:
    """Do what `plan` says. Returns what could not be done after all.

    Args:
        link: put symbolic links to the images instead of copies.

    Raises:
        DiskFull: what was taken until then stays; importing again goes on.
    """
    failed: list[Item] = []
    for done, (case, is_new, labels) in enumerate(plan.takes, start=1):
        image_id = ImageId(case.image_id)
        try:
            if is_new:
                _take_image(store, case, person, link=link)
            for label in labels:
                ext = split_ext(label.file.name)[1]
                made_by = Provenance(person=person, client=CLIENT, source=LabelSource.IMPORT)
                part = recorded_part(label.info, label.mask) if label.mask is not None else None
                tag = parse_tag(label.tag)
                store.accept_label(image_id, label.file, ext, tag, made_by, label.info, annotated=part)
        except (Refused, ImageNotFound) as error:
            failed.append(Item(case.image_id, "", case.image, Fate.REFUSED, error.message))
        if on_progress is not None:
            on_progress(done)
    return failed


def _plan_case(store: LocalDatastore, case: Case, seen: set[str], plan: ImportPlan) -> None:
    fate, reason, grid = _image_fate(store, case, seen)
    seen.add(case.image_id)
    plan.items.append(Item(case.image_id, "", case.image, fate, reason))
    if fate not in (Fate.NEW, Fate.THERE):
        return
    kind = ImageKind.DICOM_SERIES if case.image.is_dir() else kind_of(split_ext(case.image.name)[1])
    taken = []
    tags: set[str] = set()
    for label in case.labels:
        label_fate, why = _label_fate(store, case, label, kind, grid)
        if label_fate is Fate.NEW and label.tag in tags:
            label_fate, why = Fate.COLLIDES, f"The image has another label under {label.tag!r} in this data set."
        tags.add(label.tag)
        plan.items.append(Item(case.image_id, label.tag, label.file, label_fate, why))
        if label_fate is Fate.NEW:
            taken.append(label)
    if fate is Fate.NEW or taken:
        plan.takes.append((case, fate is Fate.NEW, taken))


def _image_fate(store: LocalDatastore, case: Case, seen: set[str]) -> tuple[Fate, str, Grid | None]:
    try:
        image_id = parse_image_id(case.image_id)
        grid = _grid_of(case.image)
    except (LabelServerError, OSError) as error:
        return Fate.UNREADABLE, getattr(error, "message", str(error)), None
    if image_id in seen:
        return Fate.COLLIDES, "Another image of this data set has the same id.", None
    uri = store.get_image_uri(image_id)
    if not uri:
        return Fate.NEW, "", grid
    same = case.image.is_dir() or sha256_of(Path(uri)) == sha256_of(case.image)
    if same:
        return Fate.THERE, "", grid
    return Fate.COLLIDES, "The store has another image of this id.", None


def _grid_of(image: Path) -> Grid | None:
    """From the header. Raises `UnreadableFile`, `UnsupportedFormat`."""
    if image.is_dir():
        series = find_series(image)
        if len(series) != 1 or series[0].grid is None:
            reason = series[0].problem if len(series) == 1 else f"It holds {len(series)} DICOM series."
            raise UnreadableFile(f"The folder is not one image: {reason}")
        return series[0].grid
    ext = split_ext(image.name)[1].lower()
    if ext not in IMAGE_EXTENSIONS:
        raise UnsupportedFormat(f"Images of type {ext or '(none)'} are not known.")
    if not image.is_file():
        raise UnreadableFile("The file is missing.")
    return None if ext == ".svs" else read_grid(image)


def _label_fate(
    store: LocalDatastore, case: Case, label: CaseLabel, kind: ImageKind, grid: Grid | None
) -> tuple[Fate, str]:
    try:
        tag = parse_tag(label.tag)
        if not label.file.is_file():
            raise UnreadableFile("The file is missing.")
        _check_label(label.file, kind, grid)
        if label.mask is not None:
            recorded_part(label.info, label.mask)
    except UnreadableFile as error:
        return Fate.UNREADABLE, error.message
    except LabelServerError as error:
        return Fate.REFUSED, error.message
    try:
        current = store.current_revision(ImageId(case.image_id), tag)
    except LabelNotFound:
        return Fate.NEW, ""
    if current.sha256 == sha256_of(label.file) and _annotation_told(label) == current.annotation:
        return Fate.THERE, ""
    return Fate.NEW, f"It becomes the newest revision, after number {current.number}."


def _annotation_told(label: CaseLabel) -> Annotation:
    return annotation_of(label.info) if label.mask is not None else COMPLETE


def _check_label(file: Path, kind: ImageKind, grid: Grid | None) -> None:
    """What can be said without taking it: known type, whole, on its image's grid, whole numbers. Raises `Refused`."""
    ext = split_ext(file.name)[1].lower()
    if ext not in LABEL_EXTENSIONS:
        raise UnsupportedFormat(f"Labels of type {ext or '(none)'} are not stored.")
    if file.stat().st_size == 0:
        raise UnreadableFile("The label file is empty.")
    if not has_voxels(ext):
        return
    if grid is None:
        raise UnsupportedFormat("Its image has no grid that the label could be compared with.")
    own = read_grid(file)
    if kind is ImageKind.PICTURE:
        fits = own.shape == grid.shape
    else:
        fits = grid.same_place(own) or axis_change(own, grid) is not None
    if not fits:
        raise GridsDiffer(f"The label does not lie on its image's grid: {grid.difference(own)}.")
    check_values_of(file, floats=True)


def _take_image(store: LocalDatastore, case: Case, person: str, *, link: bool) -> None:
    """Copy or link the image into the studies, where it gets its id."""
    ext = "" if case.image.is_dir() else split_ext(case.image.name)[1]
    if ext and not link:
        store.add_image(case.image_id, str(case.image), {"user": person})
        return
    target = store.layout.images / f"{case.image_id}{ext}"
    with storage_errors(target.name):
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(case.image.absolute(), target_is_directory=case.image.is_dir())
        else:
            shutil.copytree(case.image, target, copy_function=shutil.copyfile)
    store.refresh_paths([target])
    if not store.get_image_uri(case.image_id):
        raise ImageNotFound(f"The image was put to {target.name!r}, but it did not get the id {case.image_id!r}.")

"""The local folder as a datastore: files of the user's, an SQLite index, labels as revisions.

Cheap to construct (one look at the folder); any number of threads and processes may have the same folder open. Locks
are taken in this order and never the other way: first look, image, index, SQLite's own.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.datastore import audit
from labelserver.datastore.archive import LabelView, labeled_files, stream_archive, write_archive
from labelserver.datastore.audit import AuditFile, Entry, newest
from labelserver.datastore.catalog import Catalog
from labelserver.datastore.image_files import ImageStore
from labelserver.datastore.image_lists import ImageLists
from labelserver.datastore.image_rows import ImageFiles, image_row, present_image
from labelserver.datastore.image_scan import ImageScan
from labelserver.datastore.index import Index
from labelserver.datastore.label_rows import label_row
from labelserver.datastore.label_scan import LabelScan
from labelserver.datastore.labels import Labels, SaveOptions
from labelserver.datastore.late_check import LateCheck
from labelserver.datastore.layout import Layout, check_format, index_problem, locate
from labelserver.datastore.listed import Listed
from labelserver.datastore.looking import LOOKED, Looker
from labelserver.datastore.offering import Offered, OfferedCatalog, OfferedLists
from labelserver.datastore.plain_json import plain_object
from labelserver.datastore.project import Project
from labelserver.datastore.rebuilding import index_of
from labelserver.datastore.revisioned import Revisioned
from labelserver.datastore.scanning import Scanner
from labelserver.datastore.scored import Scored
from labelserver.datastore.sides import Sides
from labelserver.datastore.tombstones import Tombstones
from labelserver.datastore.training_labels import TrainingLabels
from labelserver.datastore.upkeep import Upkeep
from labelserver.datastore.valued import Valued
from labelserver.datastore.working import SharedWork
from labelserver.domain.annotation import AnnotatedPart
from labelserver.domain.errors import ImageNotFound, InvalidSetting, LabelNotFound
from labelserver.domain.ids import FINAL, ORIGINAL, ImageId, Tag, parse_image_id, parse_tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import Expected, ImageRecord, LabelSource, Numbering, Provenance, Revision, StoreProblem
from labelserver.domain.splits import ImageSide, Side
from labelserver.domain.work import Withheld, reader_number
from labelserver.imaging.formats import split_ext
from labelserver.storage.locks import is_held

_DEFAULT_NAME = "new-dataset"
_DEFAULT_DESCRIPTION = "New Dataset"


class LocalDatastore(Listed, Revisioned, Scored, Valued, Datastore):
    """Images of a folder and their labels. Also a `RevisionStore` and an `ImageListing` (`contracts/datastore.py`)."""

    def __init__(
        self,
        datastore_path: str | Path,
        images_dir: str = ".",
        labels_dir: str = "labels",
        datastore_config: str = "datastore_v2.json",
        extensions: Iterable[str] = (),
        auto_reload: bool = False,
        read_only: bool = False,
        *,
        state_dir: Path | None = None,
        index_dir: Path | None = None,
        look_soon: bool = False,
        held_out_share: float = 0.2,
        patient_pattern: str = "",
    ) -> None:
        """Open a folder, which must exist, and look at it, unless a server watches it.

        Args:
            datastore_path: the studies folder.
            images_dir: below it, where images are looked for (with all folders in it).
            labels_dir: below it, where labels lie.
            datastore_config: below it, the peer's index, read once.
            extensions: patterns such as ``*.nii.gz``; empty takes all known image types and DICOM.
            auto_reload: the server watches the folder (`watching.watch`); without it `refresh` looks again.
            read_only: nothing is ever written into the studies folder.
            state_dir: default ``.labelserver`` below the studies. For read-only studies it must lie elsewhere, else
                labels are refused and the index lies in the system's temporary folder.
            index_dir: where the SQLite file lies, if not in `state_dir` (local disk for studies on a network).
            look_soon: the caller watches the folder from now on, so opening need not look at all of it, if that was
                ever done.
            held_out_share: of patients or images that a new project holds out of trainings.
            patient_pattern: a regular expression whose first group in an image's path names its patient.
        """
        studies = Path(datastore_path).absolute()
        if not studies.is_dir():
            raise InvalidSetting(f"The studies folder {studies.name!r} does not exist. Create it, or name another.")
        #: from which another process opens the same store
        self.arguments: JsonObject = {
            "datastore_path": str(studies),
            "images_dir": images_dir,
            "labels_dir": labels_dir,
            "datastore_config": datastore_config,
            "extensions": list(extensions := tuple(extensions)),
            "auto_reload": auto_reload,
            "read_only": read_only,
        }
        self.auto_reload = auto_reload
        self._layout = locate(
            studies, images_dir, labels_dir, datastore_config, state_dir, index_dir, read_only=read_only
        )
        self._prefix = "" if images_dir in ("", ".") else f"{Path(images_dir).as_posix().strip('/')}/"
        format_problem = check_format(self._layout)
        layout = self._layout
        self._index = index_of(layout)
        self._found = [
            StoreProblem(layout.below_studies(layout.state / "format.json"), format_problem),
            StoreProblem(layout.below_studies(layout.index_file), index_problem(layout)),
        ]
        self._audit = AuditFile(layout, self._index)
        self._catalog = Catalog(self._index)
        self._lists = ImageLists(self._index, self._prefix)
        self._images = ImageFiles(layout, self._index)
        self._project = Project(layout, self._index)
        self._labels = Labels(layout, self._index, self._images, self._project)
        self._training_labels = TrainingLabels(layout, self._labels, self._project)
        self._store = ImageStore(layout, self._index, self._images, self._labels, read_only=read_only)
        self._tombstones = Tombstones(layout, self._index, self._images, self._labels, read_only=read_only)
        self._sides = Sides(layout, self._index, self._images, share=held_out_share, patient_pattern=patient_pattern)
        scanner = Scanner(layout, extensions)
        image_scan = ImageScan(layout, self._index, scanner, read_only=read_only)
        self._label_scan = LabelScan(layout, self._index, self._images, self._labels)
        self._looker = Looker(layout, self._index, self._catalog, scanner, image_scan, self._label_scan, self._sides)
        self.work = SharedWork(layout, self._index, self._offered_view, lambda: self._sides.rule().key)
        self._begin_scores(layout)
        late = LateCheck(layout, self._index, self._images, self._labels, self._project)
        self.upkeep = Upkeep(layout, self._index, self._audit, self._sides, late, self._shelf, read_only=read_only)
        self._labels.on_accept = self.work.accepted
        self._project.schema()
        in_step = look_soon or is_held(layout.watch_lock)
        if not in_step or not self._catalog.meta(LOOKED, ""):
            self.refresh()

    @property
    def layout(self) -> Layout:
        """Where this store keeps its files."""
        return self._layout

    def _offered_view(self, index: Index, offered: Offered) -> LocalDatastore:
        """This store as a strategy sees it: what is not offered does not exist, and all is read through `index`."""
        view = copy.copy(self)
        view._index = index
        view._catalog = OfferedCatalog(index, offered)
        view._lists = OfferedLists(index, self._prefix, offered)
        view._sides = self._sides.inside(index) if index is not self._index else self._sides
        return view

    def offered_to(self, person: str) -> LocalDatastore:
        """See `contracts.work.OfferingStore`."""
        return self._offered_view(self._index, self.work.queue.offered(person))

    def asked_part(self, image_id: str, person: str) -> JsonObject | None:
        """See `contracts.work.OfferingStore`."""
        return self.work.queue.roi_for(image_id, person)

    def close(self) -> None:
        """Close idle connections. The store opens them again when it is used."""
        self._index.close()

    def name(self) -> str:
        return self._catalog.meta("name", _DEFAULT_NAME)

    def set_name(self, name: str) -> None:
        self._catalog.set_meta("name", name)

    def description(self) -> str:
        return self._catalog.meta("description", _DEFAULT_DESCRIPTION)

    def set_description(self, description: str) -> None:
        self._catalog.set_meta("description", description)

    def datalist(self) -> list[dict[str, Any]]:
        return [
            {"image": uri, "label": label}
            for image_id, _ in self._catalog.final_labels(approved_only=self.work.rules.approved_only)
            if (uri := self.get_image_uri(image_id)) and (label := self.get_label_uri(image_id, FINAL))
        ]

    def withheld_labels(self) -> dict[tuple[str, str], Withheld]:
        """(image id, tag) of the labels that are there and that trainings do not learn from, and why."""
        return self._catalog.withheld_labels(approved_only=self.work.rules.approved_only)

    def get_image_uri(self, image_id: str) -> str:
        with self._index.reading() as connection:
            row = image_row(connection, image_id)
        if row is None or row.state != "present":
            return ""
        try:
            return str(self._images.file(row))
        except ImageNotFound:
            return ""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        with self._index.reading() as connection:
            row = image_row(connection, image_id)
        return dict(row.record.info) if row is not None and row.state == "present" else {}

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        path = self._labels.copies.uri(label_id, label_tag or FINAL)
        return str(path) if path is not None else ""

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        with self._index.reading() as connection:
            row = label_row(connection, label_id, label_tag or FINAL)
        return dict(row.info) if row is not None and row.active else {}

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        return dict.fromkeys(self._catalog.tags_of(image_id), image_id)

    def add_image(self, image_id: str | None, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy a file in. Errors: see `image_files.ImageStore.add`."""
        file = Path(image_filename)
        stem, ext = self._to_id(file.name)
        checked = parse_image_id(image_id or stem)
        self._store.add(checked, file, ext, plain_object(image_info))
        self._sides.settle()
        self._audit.keep()
        return checked

    def remove_image(self, image_id: str, person: str = "") -> None:
        """Take the image and its labels out of the studies; its file is kept in ``trash/``, revisions stay."""
        for tag in self.get_labels_by_image_id(image_id):
            self._notice(parse_image_id(image_id), Tag(tag))
        self._tombstones.remove(parse_image_id(image_id), person)
        self._audit.keep()

    def restore_image(self, image_id: ImageId, person: str = "") -> None:
        """Undo `remove_image`, also for the labels that went with it. Errors: see `tombstones.Tombstones.restore`."""
        self._tombstones.restore(image_id, person)
        self._audit.keep()

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        file = Path(label_filename)
        tag, info = parse_tag(label_tag), plain_object(label_info)
        self.accept_label(parse_image_id(image_id), file, split_ext(file.name)[1], tag, _provenance(tag, info), info)
        return image_id

    def remove_label(self, label_id: str, label_tag: str, person: str = "", *, expected: Expected = None) -> None:
        """Take the label out of ``labels/``; its revisions stay. Nothing happens if there is none.

        Raises `LabelChanged` as `expected` says.
        """
        image_id, tag = parse_image_id(label_id), parse_tag(label_tag)
        self._notice(image_id, tag)
        self._labels.remove(image_id, tag, person, expected)
        self._audit.keep()

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        self._catalog.update_image_info(image_id, plain_object(info))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        self._labels.update_info(parse_image_id(label_id), parse_tag(label_tag), plain_object(info))

    def get_dataset_archive(self, limit_cases: int | None = None) -> str:
        """A zip below the spool folder. Raises `LabelNotFound` if no image has a final label."""
        return str(write_archive(self._layout.spool, labeled_files(self, self._final(limit_cases)), self.json()))

    def stream_dataset(
        self,
        limit_cases: int | None = None,
        shown: LabelView | None = None,
        metadata: JsonObject | None = None,
        left_out: Collection[str] = (),
    ) -> Iterator[bytes]:
        """The bytes of that zip, made while they are read. Raises `LabelNotFound` at once.

        `shown` may give a copy of a label to pack instead, which is deleted then; `metadata` replaces the index; images
        `left_out` are not packed.
        """
        packed = [image_id for image_id in self._final(limit_cases) if image_id not in left_out]
        return stream_archive(labeled_files(self, packed, shown), self.json() if metadata is None else metadata)

    def _final(self, limit_cases: int | None) -> list[str]:
        """Ids of images with a final label. Raises `LabelNotFound` if there is none."""
        final = [image_id for image_id, _ in self._catalog.final_labels(approved_only=self.work.rules.approved_only)]
        if not final:
            raise LabelNotFound("No image has a final label yet, so there is no dataset to download.")
        return final[:limit_cases] if limit_cases and limit_cases > 0 else final

    def refresh(self) -> None:
        """Look at the whole folder."""
        self._looker.whole()
        self._audit.keep()

    def refresh_paths(self, paths: Iterable[Path]) -> set[Path]:
        """Look at these absolute paths alone; see `looking.Looker.paths`."""
        unfinished = self._looker.paths(paths)
        self._audit.keep()
        return unfinished

    def status(self) -> dict[str, Any]:
        return dict(self._catalog.status())

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name(),
            "description": self.description(),
            "images_dir": self._prefix.rstrip("/") or ".",
            "labels_dir": self._layout.given_labels.name,
            "objects": self._catalog.objects(),
        }

    def image(self, image_id: ImageId) -> ImageRecord:
        """Raises `ImageNotFound`."""
        with self._index.reading() as connection:
            record = present_image(connection, image_id).record
        return ImageRecord(record.image_id, record.kind, record.ext, f"{self._prefix}{record.path}", record.info)

    def accept_label(
        self,
        image_id: ImageId,
        file: Path,
        ext: str,
        tag: Tag,
        provenance: Provenance,
        info: JsonObject,
        *,
        expected: Expected = None,
        numbering: Numbering = Numbering.SCHEMA,
        floats: bool = True,
        annotated: AnnotatedPart | None = None,
        take: bool = False,
    ) -> Revision:
        """See `contracts.datastore.RevisionStore`; the order of the save stands in `labels.py`."""
        plain = plain_object(info)
        tag = self.work.queue.tag_for(image_id, tag, provenance)
        if reader_number(tag) is not None:
            plain["readers"] = self.work.works([image_id])[image_id].readers  # known again if the index is lost
        options = SaveOptions(expected, numbering, floats, annotated, take)
        revision = self._labels.accept(image_id, file, ext, tag, provenance, plain, options, self._take_up)
        self._audit.keep()
        return revision

    def sides(self, image_ids: Iterable[str]) -> dict[str, ImageSide]:
        return self._sides.sides(image_ids)

    def compare_contents(self, image_ids: Iterable[str]) -> None:
        """See `contracts.splits.SplitStore`."""
        self._sides.compare_contents(image_ids)

    def side_due(self) -> Side | None:
        return self._sides.side_due()

    def cache_home(self) -> str:
        """See `contracts.splits.CacheStore`."""
        return str(self._layout.state / "cache") if self._layout.labels is not None else ""

    def note_act(self, action: str, person: str, detail: JsonObject, *, image_id: str = "", tag: str = "") -> None:
        """See `contracts.audit.ActLog`."""
        with self._index.writing() as connection:
            audit.record(connection, audit.Act(action, person, image_id, tag, detail=detail))
        self._audit.keep()

    def keep_log(self) -> None:
        """Bring what was recorded in the index to the copy of the audit log that outlives it."""
        self._audit.keep()

    def problems(self) -> list[StoreProblem]:
        index = self._layout.below_studies(self._layout.index_file)
        own = [*self._found, *(StoreProblem(index, reason) for reason in self._index.damage)]
        return [*(problem for problem in own if problem.reason), *self._catalog.problems()]

    def audit_log(self, count: int, image_id: str = "") -> list[Entry]:
        """The newest `count` entries (of one image), oldest first."""
        with self._index.reading() as connection:
            return newest(connection, count, image_id)

    def _to_id(self, file: str) -> tuple[str, str]:
        """Id and extension of a file name; subclasses may override it for names of their own."""
        return split_ext(Path(file).name)


def _provenance(tag: Tag, info: JsonObject) -> Provenance:
    """Who made a label that an app saves: a model for the tag ``original``, else the person in the info."""
    client, model = str(info.get("client_id") or ""), str(info.get("model") or "")
    person = str(info.get("user") or client)
    version = str(info.get("model_version") or "")
    if tag == ORIGINAL:
        return Provenance(person=person, client=client, source=LabelSource.MODEL, model=model, model_version=version)
    return Provenance(person=person, client=client)

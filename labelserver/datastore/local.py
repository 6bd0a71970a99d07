"""The local folder as a datastore: files of the user's, an SQLite index, labels as revisions.

Cheap to construct (one look at the folder); any number of threads and processes may have the same folder open. Locks
are taken in this order and never the other way: first look, image, index, SQLite's own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.datastore import audit
from labelserver.datastore.archive import stream_archive, write_archive
from labelserver.datastore.audit import AuditFile, Entry, newest
from labelserver.datastore.audit_check import Checked, check
from labelserver.datastore.catalog import Catalog
from labelserver.datastore.erasing import Eraser, Erasure
from labelserver.datastore.image_files import ImageStore
from labelserver.datastore.image_lists import ImageLists
from labelserver.datastore.image_rows import ImageFiles, image_row, present_image
from labelserver.datastore.image_scan import ImageScan
from labelserver.datastore.index import Index
from labelserver.datastore.keeping import Keeper
from labelserver.datastore.label_diff import diff_files
from labelserver.datastore.label_rows import label_row, revision_of, revisions_of
from labelserver.datastore.label_scan import LabelScan
from labelserver.datastore.labels import Labels, SaveOptions
from labelserver.datastore.layout import Layout, check_format, locate
from labelserver.datastore.peer_index import PeerIndex, read_peer_index
from labelserver.datastore.plain_json import dump, load_object, plain_object, scores_of
from labelserver.datastore.project import Project
from labelserver.datastore.pruning import Prunable, Pruner
from labelserver.datastore.rebuilding import fill, put_scores
from labelserver.datastore.scanning import Scanner
from labelserver.datastore.tombstones import Tombstones
from labelserver.domain.diffs import LabelDiff
from labelserver.domain.errors import ImageNotFound, InvalidSetting, LabelNotFound
from labelserver.domain.ids import FINAL, ORIGINAL, ImageId, Tag, parse_image_id, parse_tag
from labelserver.domain.image_lists import ImagePage, ImageQuery
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import (
    Expected,
    ImageRecord,
    LabelSource,
    Numbering,
    Provenance,
    Revision,
    StoreProblem,
)
from labelserver.domain.schema import LabelSchema
from labelserver.imaging.formats import split_ext
from labelserver.storage.locks import exclusive, is_held

_DEFAULT_NAME = "new-dataset"
_DEFAULT_DESCRIPTION = "New Dataset"


class LocalDatastore(Datastore):
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
        self._read_only = read_only
        self._extensions = extensions
        self._layout = locate(
            studies, images_dir, labels_dir, datastore_config, state_dir, index_dir, read_only=read_only
        )
        self._prefix = "" if images_dir in ("", ".") else f"{Path(images_dir).as_posix().strip('/')}/"
        format_problem = check_format(self._layout)
        layout = self._layout
        self._index = Index(
            layout.index_file,
            layout.index_lock,
            layout.backups,
            layout.quarantine,
            lambda connection: fill(connection, layout, self._index.backups()),
        )
        self._found = [StoreProblem(layout.below_studies(layout.state / "format.json"), format_problem)]
        self._keeper = Keeper(layout, self._index)
        self._pruner = Pruner(layout, self._index)
        self._audit = AuditFile(layout, self._index)
        self._catalog = Catalog(self._index)
        self._lists = ImageLists(self._index, self._prefix)
        self._images = ImageFiles(layout, self._index)
        self._project = Project(layout, self._index)
        self._labels = Labels(layout, self._index, self._images, self._project)
        self._store = ImageStore(layout, self._index, self._images, self._labels, read_only=read_only)
        self._tombstones = Tombstones(layout, self._index, self._images, self._labels, read_only=read_only)
        self._eraser = Eraser(layout, self._index, self._audit, read_only=read_only)
        self._scanner = Scanner(layout, self._extensions)
        self._image_scan = ImageScan(layout, self._index, self._scanner, read_only=read_only)
        self._label_scan = LabelScan(layout, self._index, self._images, self._labels)
        self._project.schema()
        in_step = look_soon or is_held(layout.watch_lock)
        if not in_step or not self._catalog.meta("looked", ""):
            self.refresh()

    @property
    def layout(self) -> Layout:
        """Where this store keeps its files."""
        return self._layout

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
            for image_id, _ in self._catalog.final_labels()
            if (uri := self.get_image_uri(image_id)) and (label := self.get_label_uri(image_id, FINAL))
        ]

    def list_images(self) -> list[str]:
        return self._catalog.list_images()

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return self._catalog.labeled(_tag(label_tag), labels or ())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return self._catalog.unlabeled(_tag(label_tag), labels or ())

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
        path = self._labels.uri(label_id, label_tag or FINAL)
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
        self._audit.keep()
        return checked

    def remove_image(self, image_id: str, person: str = "") -> None:
        """Take the image and its labels out of the studies; its file is kept in ``trash/``, revisions stay."""
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

    def remove_label(self, label_id: str, label_tag: str, person: str = "") -> None:
        """Take the label out of ``labels/``; its revisions stay. Nothing happens if there is none."""
        self._labels.remove(parse_image_id(label_id), parse_tag(label_tag), person)
        self._audit.keep()

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        self._catalog.update_image_info(image_id, plain_object(info))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        self._labels.update_info(parse_image_id(label_id), parse_tag(label_tag), plain_object(info))

    def get_dataset_archive(self, limit_cases: int | None = None) -> str:
        """A zip below the spool folder. Raises `LabelNotFound` if no image has a final label."""
        return str(write_archive(self._layout.spool, self._archived(self._final(limit_cases)), self.json()))

    def stream_dataset(self, limit_cases: int | None = None) -> Iterator[bytes]:
        """The bytes of that zip, made while they are read. Raises `LabelNotFound` at once."""
        return stream_archive(self._archived(self._final(limit_cases)), self.json())

    def _final(self, limit_cases: int | None) -> list[tuple[str, str]]:
        final = self._catalog.final_labels()[: limit_cases if limit_cases and limit_cases > 0 else None]
        if not final:
            raise LabelNotFound("No image has a final label yet, so there is no dataset to download.")
        return final

    def refresh(self) -> None:
        """Look at the whole folder."""
        self._look()
        self._audit.keep()

    def _look(self) -> None:
        if self._catalog.meta("looked", ""):
            self._image_scan.whole()
            self._label_scan.whole(first=False)
            return
        with exclusive(self._layout.state / "locks" / "first-look"):
            if self._catalog.meta("looked", ""):
                return  # another process has just done it
            first = not self._catalog.meta("opened", "")
            self._image_scan.whole()
            peer = self._read_peer_index() if first else PeerIndex()
            self._label_scan.whole(first=first, infos=peer.labels)
            for key in ("opened", "looked"):
                self._catalog.set_meta(key, str(int(time.time())))

    def refresh_paths(self, paths: Iterable[Path]) -> set[Path]:
        """Look at these absolute paths alone (files or folders, also of what is gone).

        Returns paths to look at again in a moment, because somebody seems to be writing them.
        """
        files: set[str] = set()
        shallow: set[str] = set()
        deep: set[str] = set()
        label_files: set[Path] = set()
        labels_changed = False
        for path in paths:
            if self._layout.labels is not None and path.is_relative_to(self._layout.labels):
                if path.is_dir() or not split_ext(path.name)[1]:
                    labels_changed = True
                else:
                    label_files.add(path)
            elif not self._scanner.skips(path):
                below = path.relative_to(self._layout.images).as_posix()
                if path.is_dir():
                    deep.add("" if below == "." else below)
                elif self._scanner.image_ext(path.name):
                    files.add(below)
                elif path.exists():
                    shallow.add(below.rpartition("/")[0])
                else:
                    shallow.add(below.rpartition("/")[0])
                    deep.add(below)
        self._image_scan.files(sorted(files))
        for folder in sorted(shallow):
            self._image_scan.folder(folder, deep=False)
        for folder in sorted(deep):
            self._image_scan.folder(folder, deep=True)
        if labels_changed:
            self._label_scan.whole(first=False)
            return set()
        unfinished = self._label_scan.files(sorted(label_files))
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
    ) -> Revision:
        """See `contracts.datastore.RevisionStore`; the order of the save stands in `labels.py`."""
        self._notice(image_id, tag)
        plain = plain_object(info)
        options = SaveOptions(expected, numbering, floats)
        revision = self._labels.accept(image_id, file, ext, tag, provenance, plain, options)
        self._audit.keep()
        return revision

    def restore_revision(
        self, image_id: ImageId, tag: Tag, number: int, provenance: Provenance, *, expected: Expected = None
    ) -> Revision:
        """See `contracts.labels.RevisionHistory`."""
        self._notice(image_id, tag)
        revision = self._labels.restore(image_id, tag, number, provenance, expected)
        self._audit.keep()
        return revision

    def label_file(self, image_id: ImageId, tag: Tag) -> tuple[Revision, Path]:
        """See `contracts.labels.RevisionHistory`."""
        self._notice(image_id, tag)
        revision = self._labels.current(image_id, tag)
        return revision, self._labels.file_of(revision)

    def diff_revisions(self, image_id: ImageId, tag: Tag, before: int, after: int) -> LabelDiff:
        """See `contracts.labels.RevisionHistory`."""
        files = [(self._revision(image_id, tag, n), self.revision_file(image_id, tag, n)) for n in (before, after)]
        return diff_files(files[0], files[1], self._project.schema())

    def _notice(self, image_id: ImageId, tag: Tag) -> None:
        """Take up what another program has just written in the label's place, before it is answered or replaced."""
        edited = self._labels.edited_file(image_id, tag)
        if edited is not None:
            self._label_scan.files([edited])

    def schema(self) -> LabelSchema:
        return self._project.schema()

    def set_schema(self, wanted: LabelSchema, *, based_on: int | None = None, person: str = "") -> LabelSchema:
        """See `contracts.labels.SchemaStore`."""
        schema = self._project.replace(wanted, based_on)
        with self._index.writing() as connection:
            audit.record(connection, audit.Act("schema", person, detail={"version": schema.version}))
        self._audit.keep()
        return schema

    def learn_labels(self, names: Sequence[str]) -> None:
        self._project.learn(names)

    def label_values(self) -> dict[str, int]:
        return self._project.schema().values()

    def current_revision(self, image_id: ImageId, tag: Tag) -> Revision:
        return self._labels.current(image_id, tag)

    def revisions(self, image_id: ImageId, tag: Tag) -> list[Revision]:
        """Oldest first; also of labels that were removed."""
        with self._index.reading() as connection:
            return revisions_of(connection, image_id, tag)

    def revision_file(self, image_id: ImageId, tag: Tag, number: int) -> Path:
        """The stored bytes of any revision. Raises `LabelNotFound`."""
        return self._labels.file_of(self._revision(image_id, tag, number))

    def _revision(self, image_id: ImageId, tag: Tag, number: int) -> Revision:
        with self._index.reading() as connection:
            revision = revision_of(connection, image_id, tag, number)
        if revision is None:
            raise LabelNotFound(f"The label {tag!r} of {image_id!r} has no revision {number}.")
        return revision

    def problems(self) -> list[StoreProblem]:
        index = self._layout.below_studies(self._layout.index_file)
        own = [*self._found, *(StoreProblem(index, reason) for reason in self._index.damage)]
        return [*(problem for problem in own if problem.reason), *self._catalog.problems()]

    def audit_log(self, count: int, image_id: str = "") -> list[Entry]:
        """The newest `count` entries (of one image), oldest first."""
        with self._index.reading() as connection:
            return newest(connection, count, image_id)

    def plan_erasure(self, who: str) -> Erasure:
        """What `erase` would remove for an image id or a patient. Raises `ImageNotFound`."""
        return self._eraser.plan(who)

    def erase(self, erasure: Erasure, person: str) -> None:
        """Really remove images and everything made from them; see `erasing.py`."""
        self._eraser.carry_out(erasure, person)

    def prunable(self, keep_revisions: int, used: Collection[str], trash_days: int, cache_days: int) -> list[Prunable]:
        """What the retention settings let go; `used` are SHA-256 of labels that must stay. See `pruning.py`."""
        return [*self._pruner.revisions(keep_revisions, used), *self._pruner.files(trash_days, cache_days)]

    def prune(self, items: Collection[Prunable], person: str) -> None:
        """Remove what `prunable` found."""
        self._pruner.carry_out(items, person)
        self._audit.keep()

    def verify(self, known_head: str = "") -> Checked:
        """Follow the audit chain and hash every revision; see `audit_check.check`."""
        self._audit.keep()
        return check(self._layout, self._index, known_head)

    def image_page(self, query: ImageQuery) -> ImagePage:
        return self._lists.page(query)

    def unlabeled(self, *, last_first: bool = False) -> Iterator[tuple[str, JsonObject]]:
        return self._lists.unlabeled(last_first=last_first)

    def unlabeled_by_score(self, key: str) -> Iterator[tuple[str, float, JsonObject]]:
        return self._lists.unlabeled_by_score(key)

    def sample_unlabeled(self, count: int) -> list[tuple[str, JsonObject]]:
        return self._lists.sample_unlabeled(count)

    def best_scored(self, key: str, exclude: Collection[str] = ()) -> tuple[str, float] | None:
        """The unlabeled image with the highest score `key` that is not in `exclude`; None if no score is left."""
        return next((pair for pair in self.ordered_by_score(key) if pair[0] not in exclude), None)

    def ordered_by_score(
        self, key: str, *, unlabeled_only: bool = True, highest_first: bool = True
    ) -> Iterator[tuple[str, float]]:
        """(image id, score) of present images in the order of the number that infos hold under `key`."""
        if unlabeled_only:
            return self._catalog.waiting_by_score(key, highest_first=highest_first)
        return iter(self._catalog.all_by_score(key, highest_first=highest_first))

    def look_after(self) -> list[StoreProblem]:
        """Find, set aside and heal damaged revisions and backups; see `keeping.py`."""
        return self._keeper.look()

    def backup_if_changed(self) -> Path | None:
        """Copy the living index aside unless nothing was committed since the last time."""
        return self._index.backup_if_changed()

    def backup(self) -> Path:
        """Copy the living index aside; the newest three are kept."""
        return self._index.backup()

    def _to_id(self, file: str) -> tuple[str, str]:
        """Id and extension of a file name; subclasses may override it for names of their own."""
        return split_ext(Path(file).name)

    def _archived(self, final: list[tuple[str, str]]) -> Iterator[tuple[str, Path, str, Path]]:
        for image_id, _ in final:
            image, label = self.get_image_uri(image_id), self.get_label_uri(image_id, FINAL)
            if image and label:
                record = self.image(ImageId(image_id))
                ext = split_ext(Path(label).name)[1]
                yield f"{image_id}{record.ext}", Path(image), f"{image_id}{ext}", Path(label)

    def _read_peer_index(self) -> PeerIndex:
        peer = read_peer_index(self._layout.config_file)
        with self._index.writing() as connection:
            if peer.problem:
                name = self._layout.config_file.name
                connection.execute("INSERT OR REPLACE INTO problems VALUES (?, 'peer', ?)", (name, peer.problem))
            for key, value in (("name", peer.name), ("description", peer.description)):
                if value:
                    connection.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (key, value))
            for path, info in peer.images.items():
                row = connection.execute("SELECT id, info FROM images WHERE path = ?", (path,)).fetchone()
                if row is not None:
                    merged = dump({**load_object(row[1]), **info})
                    connection.execute("UPDATE images SET info = ? WHERE id = ?", (merged, row[0]))
                    put_scores(connection, row[0], scores_of(info))
        return peer


def _tag(label_tag: str | None) -> str:
    return parse_tag(label_tag or FINAL)


def _provenance(tag: Tag, info: JsonObject) -> Provenance:
    """Who made a label that an app saves: a model for the tag ``original``, else the person in the info."""
    client, model = str(info.get("client_id") or ""), str(info.get("model") or "")
    person = str(info.get("user") or client)
    version = str(info.get("model_version") or "")
    if tag == ORIGINAL:
        return Provenance(person=person, client=client, source=LabelSource.MODEL, model=model, model_version=version)
    return Provenance(person=person, client=client)

"""Bring the index in step with the files below ``labels/``, where other programs may write too.

- a file we put there and nobody touched (size and time as noted): nothing to do;
- the current revision's bytes: noted;
- bytes of an older revision: a crash kept the copy back, or a stray copy; the current one is put there;
- anything else is an outside edit: checked like an upload, it becomes a new revision; if it is no label of its image,
  it is set aside in ``quarantine/``, the current revision is put back, and the problem is reported;
- a missing file: if its copy was promised or fresh it is made again, else somebody deleted it and the label is
  withdrawn. Its revisions stay, and it is back when the file comes back. If the whole labels folder is gone, nobody
  meant each label: all are made again.

A file without a revision that cannot be taken stays where it is and is reported.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from labelserver.datastore import audit, revision_files
from labelserver.datastore.image_rows import ImageFiles, ImageRow, image_row
from labelserver.datastore.index import Index
from labelserver.datastore.label_rows import (
    LabelRow,
    Placing,
    all_label_rows,
    insert_revision,
    is_copy_of,
    label_row,
    label_row_of_file,
    newest_number,
    put_label,
    revisions_of,
    settle,
)
from labelserver.datastore.labels import Labels, imported
from labelserver.datastore.late_check import FROM_START, UNCHECKED
from labelserver.datastore.layout import Layout
from labelserver.datastore.scanning import walk_files
from labelserver.domain.annotation import INFO_KEY
from labelserver.domain.errors import ImageNotFound, InvalidId, LabelServerError, Refused, StorageFailed, UnreadableFile
from labelserver.domain.ids import Tag, parse_tag
from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import ImageKind, LabelSource, Revision, StoreProblem
from labelserver.imaging.formats import LABEL_EXTENSIONS, has_voxels, split_ext
from labelserver.imaging.volumes import read_grid
from labelserver.storage import atomic
from labelserver.storage.checksums import sha256_of

#: seconds; a damaged file that is younger may still be being written, if we hear of it from the watcher
_STILL_WRITING_S = 2.0

#: From so many labels on, a first look writes them all, syncs the disk once and commits once.
_MANY = 16

LabelPlace = tuple[str, str]  #: tag, file below ``labels/<tag>/``
PeerInfos = Mapping[tuple[str, str], JsonObject]  #: (tag, file) -> info, in the order of the peer's index


@dataclass(frozen=True, slots=True)
class _File:
    place: LabelPlace
    path: Path
    size_bytes: int
    mtime_ns: int


class LabelScan:
    """Compares ``labels/`` with the index and acts on each difference."""

    def __init__(self, layout: Layout, index: Index, images: ImageFiles, labels: Labels) -> None:
        self._layout = layout
        self._index = index
        self._images = images
        self._labels = labels

    def whole(self, *, first: bool, infos: PeerInfos | None = None) -> None:
        """Look at all label files. `first`: the folder was never seen before, so what lies there is an import."""
        if self._layout.labels is None:
            return
        problems: list[StoreProblem] = []
        files = self._walk(self._layout.labels, problems)
        with self._index.reading() as connection:
            rows: dict[LabelPlace, LabelRow] = {(row.tag, row.file): row for row in all_label_rows(connection)}
        active = {place: row for place, row in rows.items() if row.active}
        differing = [f for f in files if not _untouched(f, active.get(f.place))]
        given = self._given(rows, problems)
        source = LabelSource.IMPORT if first else LabelSource.OUTSIDE_EDIT
        new = [f for f in differing if f.place not in rows]
        if first and len(new) + len(given) >= _MANY:
            done = self._import_many([*_in_order(new, infos), *_in_order(given, infos)], infos or {})
            differing = [f for f in differing if f.place not in done]
            given = [f for f in given if f.place not in done]
        for file in [*_in_order(differing, infos), *_in_order(given, infos)]:
            info = (infos or {}).get(file.place)
            with _told(self._layout.below_studies(file.path), problems):
                problems.extend(self._look(file, source, info, patient=False)[0])
        present = {f.place for f in files}
        restore_all = not self._layout.labels.is_dir()
        for place, row in active.items():
            if place not in present:
                with _told(self._layout.below_studies(self._layout.labels / place[0] / place[1]), problems):
                    self._missing(row, restore=restore_all or row.placing is Placing.PROMISED)
        self._finish(problems)

    def files(self, paths: Iterable[Path]) -> set[Path]:
        """Look at single files below ``labels/``. Returns those to look at again soon, as they are being written."""
        unfinished: set[Path] = set()
        if self._layout.labels is None:
            return unfinished
        places: dict[LabelPlace, Path] = {}
        for path in paths:
            parts = path.relative_to(self._layout.labels).parts
            if len(parts) >= 2 and not any(part.startswith(".") for part in parts):
                places[parts[0], "/".join(parts[1:])] = path
        with self._index.reading() as connection:
            rows = {place: label_row_of_file(connection, *place) for place in places}
            noted = {path for (path,) in connection.execute("SELECT path FROM problems WHERE origin = 'labels'")}
        for place, path in places.items():
            problems: list[StoreProblem] = []
            row = found if (found := rows[place]) is not None and found.active else None
            file = _file_at(place, path)
            if file is None:
                if row is not None:
                    with _told(self._layout.below_studies(path), problems):
                        self._missing(row, restore=False)
            elif not _untouched(file, row):
                with _told(self._layout.below_studies(path), problems):
                    told, again = self._look(file, LabelSource.OUTSIDE_EDIT, None, patient=True)
                    problems.extend(told)
                    if again:
                        unfinished.add(path)
            if problems or self._layout.below_studies(path) in noted:
                self._note(path, problems)
        return unfinished

    def _walk(self, root: Path, problems: list[StoreProblem]) -> list[_File]:
        files: list[_File] = []
        if not root.is_dir():
            return files
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
            try:
                tag = parse_tag(folder.name)
            except InvalidId as error:
                problems.append(StoreProblem(self._layout.below_studies(folder), error.message))
                continue

            def visit(path: str, status: os.stat_result, tag: str = tag, folder: Path = folder) -> None:
                files.append(_File((tag, path), folder / path, status.st_size, status.st_mtime_ns))

            walk_files(folder, visit)
        return files

    def _given(self, rows: Mapping[LabelPlace, LabelRow], problems: list[StoreProblem]) -> list[_File]:
        """Labels of read-only studies, which are copied once to where labels may be written."""
        if self._layout.given_labels == self._layout.labels:
            return []
        return [f for f in self._walk(self._layout.given_labels, problems) if f.place not in rows]

    def _look(
        self, file: _File, source: LabelSource, info: JsonObject | None, *, patient: bool
    ) -> tuple[list[StoreProblem], bool]:
        """Take one differing file. Returns problems, and True if it should be looked at again."""
        tag = Tag(file.place[0])
        image = self._image_for(file)
        name = self._layout.below_studies(file.path)
        if image is None:
            return [StoreProblem(name, "This label belongs to no image.")], False
        with self._labels.locked(image.record.image_id):
            try:
                self._take(image, file, tag, source, info)
            except FileNotFoundError:
                return [], False
            except (Refused, ImageNotFound) as error:
                young = time.time() - file.mtime_ns / 1e9 < _STILL_WRITING_S
                if patient and young and isinstance(error, UnreadableFile):
                    return [], True
                return [self._set_aside(image, file, tag, error)], False
        return [], False

    def _take(self, image: ImageRow, file: _File, tag: Tag, source: LabelSource, info: JsonObject | None) -> None:
        """The caller holds the image's lock, so the row cannot change."""
        image_id = image.record.image_id
        with self._index.reading() as connection:
            row = label_row(connection, image_id, tag)
            known = revisions_of(connection, image_id, tag)
        status = file.path.stat()
        digest = sha256_of(file.path)
        ours = self._layout.labels is not None and file.path.is_relative_to(self._layout.labels)
        if row is not None and row.active and any(r.sha256 == digest for r in known):
            current = next(r for r in known if r.number == row.current)
            if row.file != file.place[1]:
                if ours:
                    file.path.unlink(missing_ok=True)
            elif current.sha256 == digest:
                self._note_file(replace(row, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns))
            else:
                self._labels.copies.show_again(row)
            return
        if row is not None and not row.active and known and known[-1].sha256 == digest and ours:
            revision_files.unmark_removed(self._layout, image_id, tag, row.current)
            back = replace(row, active=True, file=file.place[1], current=known[-1].number, ext=known[-1].ext)
            self._note_file(replace(back, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns), "return")
            return
        ext = split_ext(file.path.name)[1]
        with _stable_copy(file.path, ext, self._layout.spool) as copy:
            self._labels.store_outside_edit(image, copy, ext, tag, source, info)

    def _note_file(self, row: LabelRow, action: str = "") -> None:
        with self._index.writing() as connection:
            put_label(connection, replace(row, placing=Placing.SETTLED))
            if action:
                audit.record(connection, audit.Act(action, "", row.image_id, row.tag, row.current))

    def _set_aside(self, image: ImageRow, file: _File, tag: Tag, error: LabelServerError) -> StoreProblem:
        """The caller holds the image's lock."""
        name = self._layout.below_studies(file.path)
        with self._index.reading() as connection:
            row = label_row(connection, image.record.image_id, tag)
        if row is None or not row.active or self._layout.labels is None:
            return StoreProblem(name, f"This label is not used: {error.message}")
        if file.path.is_relative_to(self._layout.labels):
            kept = self._layout.quarantine / f"{time.time_ns()}-{file.path.name[-100:]}"
            atomic.move_file(file.path, kept)
            if row.file == file.place[1]:
                self._labels.copies.show_again(row)
        return StoreProblem(
            name, f"Another program changed this label to something else ({error.message}) It was set aside."
        )

    def _missing(self, row: LabelRow, *, restore: bool) -> None:
        with self._labels.locked(row.image_id):
            with self._index.reading() as connection:
                now = label_row(connection, row.image_id, row.tag)
            if now is None or not now.active or now.file != row.file or now.current != row.current:
                return
            path = self._layout.tag_folder(now.tag) / now.file
            if path.exists():
                return
            if restore or _was_kept_back(now, path.parent):
                self._labels.copies.show_again(now)
            else:
                self._labels.withdraw(now)

    def _import_many(self, files: list[_File], infos: PeerInfos) -> set[LabelPlace]:
        """Store first revisions of labels that lie on their image's grid; what needs more care is left to `_look`.

        Only headers are read; `late_check.py` reads the voxels afterwards.
        """
        taken: list[tuple[Revision, LabelRow]] = []
        seen: set[tuple[str, str]] = set()
        done: set[LabelPlace] = set()
        for file in files:
            image = self._image_for(file)
            if image is None or (image.record.image_id, file.place[0]) in seen:
                continue
            pair = self._import_one(image, file, infos.get(file.place))
            if pair is not None:
                taken.append(pair)
                seen.add((image.record.image_id, file.place[0]))
                done.add(file.place)
        if taken:
            os.sync()
            with self._index.writing() as connection:
                for revision, row in taken:
                    if newest_number(connection, revision.image_id, revision.tag) == 0:
                        insert_revision(connection, revision)
                        put_label(connection, row)
                        audit.record(connection, audit.saved(self._layout, revision))
                connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (UNCHECKED, FROM_START))
        return done

    def _import_one(self, image: ImageRow, file: _File, info: JsonObject | None) -> tuple[Revision, LabelRow] | None:
        ext = split_ext(file.path.name)[1]
        if ext.lower() not in LABEL_EXTENSIONS or file.size_bytes == 0 or self._layout.labels is None:
            return None
        if not file.path.is_relative_to(self._layout.labels):
            return None
        try:
            if has_voxels(ext):
                grid = self._images.grid(image)
                theirs = read_grid(file.path)
                alike = grid is not None and (
                    grid.shape == theirs.shape if image.record.kind is ImageKind.PICTURE else grid.same_place(theirs)
                )
                if not alike:
                    return None
            schema_version = self._labels.stored_as_told(info or {})
            if schema_version is None or INFO_KEY in (info or {}):
                return None
            revision = Revision(
                image_id=image.record.image_id,
                tag=Tag(file.place[0]),
                number=1,
                ext=ext,
                sha256=sha256_of(file.path),
                size_bytes=file.size_bytes,
                parent=None,
                created_ts=file.mtime_ns / 1e9,
                provenance=imported(info, LabelSource.IMPORT),
                schema_version=schema_version,
                info=dict(info or {}),
            )
            with self._labels.locked(revision.image_id):
                if (self._layout.revision_folder(revision.image_id, revision.tag) / "1.json").exists():
                    return None
                revision_files.write_unsynced(self._layout, revision, image.record, image.series, file.path)
        except (OSError, LabelServerError):
            return None  # `_look` meets it again and says why
        shown = {"ts": int(revision.created_ts), "name": file.path.name, **(info or {})}
        row = LabelRow(
            image_id=revision.image_id,
            tag=revision.tag,
            current=1,
            active=True,
            placing=Placing.SETTLED,
            file=file.place[1],
            ext=ext,
            size_bytes=file.size_bytes,
            mtime_ns=file.mtime_ns,
            info=shown,
        )
        return revision, row

    def _image_for(self, file: _File) -> ImageRow | None:
        """The present image that a label file belongs to: by its row, else by its name without the extension."""
        tag, name = file.place
        with self._index.reading() as connection:
            row = label_row_of_file(connection, tag, name)
            stem = split_ext(name)[0]
            for candidate in (row.image_id if row is not None else "", stem):
                image = image_row(connection, candidate) if candidate else None
                if image is not None and image.state == "present":
                    return image
        return None

    def _finish(self, problems: list[StoreProblem]) -> None:
        with self._index.reading() as connection:
            noted = connection.execute("SELECT path, reason FROM problems WHERE origin = 'labels'").fetchall()
            promised = connection.execute("SELECT 1 FROM labels WHERE pending <> 0 LIMIT 1").fetchone()
        if sorted(noted) == sorted((p.path, p.reason) for p in problems) and promised is None:
            return
        with self._index.writing() as connection:
            if self._layout.labels is not None:
                settle(connection, self._layout.labels, time.time())
            connection.execute("DELETE FROM problems WHERE origin = 'labels'")
            connection.executemany(
                "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'labels', ?)",
                [(p.path, p.reason) for p in problems],
            )

    def _note(self, path: Path, problems: list[StoreProblem]) -> None:
        with self._index.writing() as connection:
            connection.execute(
                "DELETE FROM problems WHERE origin = 'labels' AND path = ?", (self._layout.below_studies(path),)
            )
            connection.executemany(
                "INSERT OR REPLACE INTO problems (path, origin, reason) VALUES (?, 'labels', ?)",
                [(p.path, p.reason) for p in problems],
            )


@contextmanager
def _told(name: str, problems: list[StoreProblem]) -> Iterator[None]:
    """A full disk or a lost revision is a problem of one label and stops no look at the others."""
    try:
        yield
    except StorageFailed as error:
        problems.append(StoreProblem(name, error.message))


@contextmanager
def _stable_copy(path: Path, ext: str, spool: Path) -> Iterator[Path]:
    """A copy below the spool folder that its writer can no longer change; deleted at the end of the block."""
    with atomic.storage_errors("the label"):
        spool.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="outside-", suffix=ext, dir=spool)
    copy = Path(name)
    try:
        with open(descriptor, "wb") as stream, path.open("rb") as origin:
            shutil.copyfileobj(origin, stream, 1 << 20)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _file_at(place: LabelPlace, path: Path) -> _File | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _File(place, path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _untouched(file: _File, row: LabelRow | None) -> bool:
    return row is not None and (row.size_bytes, row.mtime_ns) == (file.size_bytes, file.mtime_ns)


def _was_kept_back(row: LabelRow, folder: Path) -> bool:
    """Did a crash leave the promised copy beside its place? Then nobody deleted it."""
    if row.placing is not Placing.PROMISED:
        return False
    beside = folder.glob(f"{atomic.TEMPORARY_PREFIX}*")
    return any(is_copy_of(path, row.size_bytes, row.mtime_ns) for path in beside)


def _in_order(files: list[_File], infos: PeerInfos | None) -> list[_File]:
    """As the peer's index lists them, then by time."""
    order = {place: n for n, place in enumerate(infos or {})}
    return sorted(files, key=lambda f: (order.get(f.place, len(order)), f.mtime_ns, f.place))

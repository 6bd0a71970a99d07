"""Removing an image so that it can be had back: its files lie in ``trash/<key>/`` with a description of what they were.

``<stamp>.json`` is written before anything is touched: the image's place and info, the tags that had labels, and each
file's name in the trash. A read-only store moves nothing and only stops showing the image; so does any store with what
lies in a linked folder.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from labelserver.datastore import audit, revision_files
from labelserver.datastore.image_rows import ImageFiles, image_row, present_image
from labelserver.datastore.index import Index
from labelserver.datastore.label_rows import label_row
from labelserver.datastore.labels import Labels
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import dump, scores_of
from labelserver.datastore.rebuilding import put_scores
from labelserver.domain.errors import Conflict, ImageNotFound
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.json_types import JsonObject
from labelserver.storage import atomic
from labelserver.storage.atomic import storage_errors


class Tombstones:
    """Removes and restores images of one store."""

    def __init__(self, layout: Layout, index: Index, images: ImageFiles, labels: Labels, *, read_only: bool) -> None:
        self._layout = layout
        self._index = index
        self._images = images
        self._labels = labels
        self._read_only = read_only

    def remove(self, image_id: ImageId, person: str = "") -> None:
        """Take the image's labels and files out of sight; its revisions stay. Raises `ImageNotFound`."""
        with self._index.reading() as connection:
            row = present_image(connection, image_id)
            listed = connection.execute(
                "SELECT tag FROM labels WHERE image_id = ? AND active = 1 ORDER BY position", (image_id,)
            ).fetchall()
        tags = [Tag(tag) for (tag,) in listed]
        own = [] if self._read_only else self._images.own_files(row)
        files = [file for file in own if not self._layout.is_behind_link(file)]
        stamp = time.time_ns()
        kept = [self._entry(stamp, number, file) for number, file in enumerate(files) if _there(file)]
        document: JsonObject = {
            "image": image_id,
            "removed_ts": time.time(),
            "info": row.record.info,
            "tags": list(tags),
            "files": list(kept),
        }
        folder = self._layout.trash_folder(image_id)
        atomic.write_json(folder / f"{stamp}.json", document)
        for tag in tags:
            self._labels.remove(image_id, tag, person)
        with self._labels.locked(image_id):
            with self._index.writing() as connection:
                connection.execute("UPDATE images SET state = 'removed', info = '{}' WHERE id = ?", (image_id,))
                connection.execute("DELETE FROM scores WHERE image_id = ?", (image_id,))
                audit.record(connection, audit.Act("remove_image", person, image_id))
            for entry in kept:
                file = self._layout.images / str(entry["path"])
                if "link" in entry:
                    file.unlink(missing_ok=True)  # the user's file lies elsewhere and stays
                else:
                    atomic.move_file(file, folder / str(entry["name"]))

    def restore(self, image_id: ImageId, person: str = "") -> None:
        """Undo `remove`: the files go back to their places, the labels that went with the image are shown again.

        Raises:
            ImageNotFound: the image was never there, or its files are no longer in the trash.
            Conflict: it is not removed, or another file has its place.
        """
        with self._index.reading() as connection:
            row = image_row(connection, image_id)
        if row is None:
            raise ImageNotFound(f"There is no image {image_id!r}, and none of this id was removed.")
        if row.state == "present":
            raise Conflict(f"The image {image_id!r} is there; nothing was removed that could be restored.")
        stone = self._newest(image_id)
        if stone is None:
            raise ImageNotFound(f"The files of {image_id!r} are not in the trash. Put them into the studies again.")
        path, document = stone
        listed, tags, info = document["files"], document["tags"], document["info"]
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        self._put_back(image_id, path.parent, entries)
        with self._labels.locked(image_id):
            with self._index.writing() as connection:
                connection.execute(
                    "UPDATE images SET state = 'present', info = ? WHERE id = ?",
                    (dump(info if isinstance(info, dict) else {}), image_id),
                )
                put_scores(connection, image_id, scores_of(info if isinstance(info, dict) else {}))
                audit.record(connection, audit.Act("restore_image", person, image_id))
            for tag in tags if isinstance(tags, list) else []:
                self._show_again(image_id, Tag(str(tag)), person)
        path.unlink(missing_ok=True)

    def _show_again(self, image_id: ImageId, tag: Tag, person: str) -> None:
        """The caller holds the image's lock."""
        with self._index.reading() as connection:
            row = label_row(connection, image_id, tag)
        if row is None or row.active:
            return
        revision_files.unmark_removed(self._layout, image_id, tag, row.current)
        self._labels.copies.show_again(replace(row, active=True))
        with self._index.writing() as connection:
            audit.record(connection, audit.Act("return", person, image_id, tag, row.current))

    def _put_back(self, image_id: str, folder: Path, entries: list[JsonObject]) -> None:
        places = [(folder / str(e["name"]), self._layout.images / str(e["path"]), e.get("link")) for e in entries]
        for kept, target, link in places:
            if link is None and not kept.is_file():
                if target.is_file():
                    continue  # an earlier attempt was cut short
                raise ImageNotFound(f"The file {target.name!r} of {image_id!r} is no longer in the trash.")
            if _there(target):
                raise Conflict(f"Another file has the place of {target.name!r}. Move it away, then restore.")
        for kept, target, link in places:
            with storage_errors(target.name):
                target.parent.mkdir(parents=True, exist_ok=True)
                if link is not None:
                    target.symlink_to(str(link))
                elif kept.is_file():
                    atomic.move_file(kept, target)

    def _entry(self, stamp: int, number: int, file: Path) -> JsonObject:
        entry: JsonObject = {
            "name": f"{stamp}-{number}-{file.name[-150:]}",
            "path": file.relative_to(self._layout.images).as_posix(),
        }
        if file.is_symlink():
            entry["link"] = str(file.readlink())
        return entry

    def _newest(self, image_id: str) -> tuple[Path, JsonObject] | None:
        """The newest readable description of a removal of this image."""
        folder = self._layout.trash_folder(image_id)
        for path in sorted(folder.glob("*.json"), key=lambda p: p.name, reverse=True):
            try:
                document = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue
            if (
                isinstance(document, dict)
                and document.get("image") == image_id
                and {"files", "tags", "info"} <= set(document)
            ):
                return path, document
        return None


def _there(file: Path) -> bool:
    return file.is_symlink() or file.exists()

"""Look at the studies folder: all of it, or what a watcher says has changed; on the first day, at the peer's index too.

What an image or a label found there means is told by `image_scan.py` and `label_scan.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from labelserver.datastore.catalog import Catalog
from labelserver.datastore.image_scan import ImageScan
from labelserver.datastore.index import Index
from labelserver.datastore.label_scan import LabelScan
from labelserver.datastore.layout import Layout
from labelserver.datastore.peer_index import PeerIndex, read_peer_index
from labelserver.datastore.plain_json import dump, load_object, scores_of
from labelserver.datastore.rebuilding import put_scores
from labelserver.datastore.scanning import Scanner
from labelserver.datastore.sides import Sides
from labelserver.imaging.formats import split_ext
from labelserver.storage.locks import exclusive

#: in the index: when the folder was looked at for the first time
LOOKED = "looked"


class Looker:
    """Looks at the folder of one store."""

    def __init__(
        self,
        layout: Layout,
        index: Index,
        catalog: Catalog,
        scanner: Scanner,
        image_scan: ImageScan,
        label_scan: LabelScan,
        sides: Sides,
    ) -> None:
        self._layout = layout
        self._index = index
        self._catalog = catalog
        self._scanner = scanner
        self._image_scan = image_scan
        self._label_scan = label_scan
        self._sides = sides

    def whole(self) -> None:
        """Look at everything. A first look is done by one process, and the others wait for it."""
        self._look()
        self._sides.settle()

    def _look(self) -> None:
        if self._catalog.meta(LOOKED, ""):
            self._image_scan.whole()
            self._label_scan.whole(first=False)
            return
        with exclusive(self._layout.state / "locks" / "first-look"):
            if self._catalog.meta(LOOKED, ""):
                return  # another process has just done it
            first = not self._catalog.meta("opened", "")
            self._image_scan.whole()
            peer = self._read_peer_index() if first else PeerIndex()
            self._label_scan.whole(first=first, infos=peer.labels)
            for key in ("opened", LOOKED):
                self._catalog.set_meta(key, str(int(time.time())))

    def paths(self, paths: Iterable[Path]) -> set[Path]:
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
        self._sides.settle()
        if labels_changed:
            self._label_scan.whole(first=False)
            return set()
        return self._label_scan.files(sorted(label_files))

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

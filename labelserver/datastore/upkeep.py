"""What an operator and the server's idle hours do with a local store: check it, back it up, prune it, erase from it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from labelserver.datastore.audit import AuditFile
from labelserver.datastore.audit_check import Checked, check
from labelserver.datastore.erasing import Eraser, Erasure
from labelserver.datastore.index import Index
from labelserver.datastore.keeping import Keeper
from labelserver.datastore.late_check import LateCheck
from labelserver.datastore.layout import Layout
from labelserver.datastore.pacing import LeftUndone, Pace
from labelserver.datastore.pruning import Prunable, Pruner
from labelserver.datastore.score_shelf import ScoreShelf
from labelserver.datastore.sides import Sides
from labelserver.domain.labels import StoreProblem


class Upkeep:
    """See the module. `read_only`: the studies folder itself cannot be changed."""

    def __init__(
        self,
        layout: Layout,
        index: Index,
        audit_file: AuditFile,
        sides: Sides,
        late_check: LateCheck,
        shelf: ScoreShelf,
        *,
        read_only: bool,
    ) -> None:
        self._layout = layout
        self._index = index
        self._audit = audit_file
        self._sides = sides
        self._late_check = late_check
        self._shelf = shelf
        self._pace = Pace()
        self._keeper = Keeper(layout, index)
        self._pruner = Pruner(layout, index)
        self._eraser = Eraser(layout, index, audit_file, sides, read_only=read_only)

    def backup(self) -> Path:
        """Copy the living index aside; the newest three are kept."""
        return self._index.backup()

    def backup_if_changed(self) -> Path | None:
        """`backup`, unless nothing was committed since the last time."""
        return self._index.backup_if_changed()

    def look_after(self, *, hurry: bool = False) -> list[StoreProblem]:
        """Find, set aside and heal damaged revisions and backups; see `keeping.py`. `hurry`: a person waits for it."""
        pace = Pace(pauses=0) if hurry else self._begun()
        try:
            return self._keeper.look(pace)
        except LeftUndone:
            return []

    def compare_some(self, seconds: float) -> None:
        """Compare the voxels of images that nobody compared yet, for so long."""
        with suppress(LeftUndone):
            self._sides.compare_some(seconds, self._begun())

    def break_off(self) -> None:
        """End what is under way in another thread. The next look begins anew."""
        self._pace.break_off()

    def _begun(self) -> Pace:
        self._pace.begin()
        return self._pace

    def check_imports(self, seconds: float) -> bool:
        """Read labels that were taken by their headers, for so long; True if any are left. See `late_check.py`."""
        try:
            return self._late_check.some(seconds, self._begun())
        except LeftUndone:
            return True
        finally:
            self._audit.keep()

    def verify(self, known_head: str = "") -> Checked:
        """Follow the audit chain and hash every revision; see `audit_check.check`."""
        self._audit.keep()
        return check(self._layout, self._index, known_head)

    def prunable(self, keep_revisions: int, used: Collection[str], trash_days: int, cache_days: int) -> list[Prunable]:
        """What the retention settings let go; `used` are SHA-256 of labels that must stay. See `pruning.py`."""
        return [*self._pruner.revisions(keep_revisions, used), *self._pruner.files(trash_days, cache_days)]

    def prune(self, items: Collection[Prunable], person: str) -> None:
        """Remove what `prunable` found."""
        self._pruner.carry_out(items, person)
        self._audit.keep()

    def plan_erasure(self, who: str, *, uploads: Path | None = None, app: Path | None = None) -> Erasure:
        """What `erase` would remove for an image id or a patient. Raises `ImageNotFound`.

        `uploads`: the folder of uploads, by default in the state folder; `app`: the app folder, if it is to be reached.
        """
        return self._eraser.plan(who, uploads or self._layout.state / "uploads", app)

    def erase(self, erasure: Erasure, person: str) -> None:
        """Really remove images and everything made from them; see `erasing.py`."""
        self._eraser.carry_out(erasure, person)
        self._shelf.forget(erasure.images)

"""Drafts: unfinished drawings that a page saves by itself, one for each person, image and tag.

They lie in ``drafts/<image>/<person>/``, are never labels and are checked against nothing but their size. A draft's
JSON names its data file and is replaced in one rename, so that readers, and a crash, see the old draft or the new one.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from labelserver.datastore.plain_json import plain_object
from labelserver.domain.errors import Conflict, LabelNotFound, TooLarge
from labelserver.domain.ids import ImageId, Tag, folder_key
from labelserver.domain.json_types import JsonObject
from labelserver.storage import atomic
from labelserver.storage.checksums import sha256_of
from labelserver.storage.locks import exclusive

#: bytes; a packed label map of 2048 x 2048 x 512 voxels stays far below.
MAX_DRAFT_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft and its data file, which a later save may remove."""

    image_id: ImageId
    tag: Tag
    person: str
    ext: str
    size_bytes: int
    sha256: str
    updated_ts: float
    info: JsonObject
    file: Path
    number: int = 0  #: grows with each save; 0: saved before drafts were numbered


class Drafts:
    """The drafts below one folder."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "drafts"
        self._lock_file = state / "locks" / "drafts"

    def put(
        self,
        image_id: ImageId,
        tag: Tag,
        person: str,
        file: Path,
        ext: str,
        info: JsonObject,
        *,
        based_on: int | None = None,
    ) -> Draft:
        """Replace the person's draft by a copy of `file`.

        Args:
            based_on: number of the draft that the caller saw last, 0 for none; None: replace whatever is there.

        Raises:
            TooLarge: more than `MAX_DRAFT_BYTES`.
            Conflict: another draft is there.
        """
        size_bytes = file.stat().st_size
        if size_bytes > MAX_DRAFT_BYTES:
            raise TooLarge(f"The draft has {size_bytes} bytes; at most {MAX_DRAFT_BYTES} are kept. Save it as a label.")
        folder = self._of(image_id, person)
        with exclusive(self._lock_file):
            before = self._find(image_id, tag, person)
            there = before.number if before is not None else 0
            if based_on is not None and based_on != there:
                raise Conflict(
                    "You have another draft of this image, saved elsewhere meanwhile. Look at it, or replace it.",
                    number=there,
                    updated_ts=before.updated_ts if before is not None else None,
                )
            now = time.time()
            data = folder / f"{tag}-{time.time_ns()}{ext}"
            atomic.copy_file(file, data)
            document: JsonObject = {
                "image": image_id,
                "tag": tag,
                "person": person,
                "file": data.name,
                "ext": ext,
                "size_bytes": size_bytes,
                "sha256": sha256_of(data),
                "updated_ts": now,
                "number": max(there + 1, int(now * 1000)),  # also after a draft was dropped no number comes again
                "info": plain_object(info),
            }
            atomic.write_json(folder / f"{tag}.draft", document)
            self._remove_data(folder, tag, keep=data.name)
        return self.get(image_id, tag, person)

    def get(self, image_id: ImageId, tag: Tag, person: str) -> Draft:
        """The person's own draft. Raises `LabelNotFound` also for a damaged one."""
        folder = self._of(image_id, person)
        try:
            document = json.loads((folder / f"{tag}.draft").read_bytes())
            draft = Draft(
                image_id=image_id,
                tag=tag,
                person=person,
                ext=str(document["ext"]),
                size_bytes=int(document["size_bytes"]),
                sha256=str(document["sha256"]),
                updated_ts=float(document["updated_ts"]),
                info=plain_object(document["info"]),
                file=folder / Path(str(document["file"])).name,
                number=int(document.get("number", 0)),
            )
            whole = draft.file.stat().st_size == draft.size_bytes and document["person"] == person
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _no_draft(image_id) from error
        if not whole:
            raise _no_draft(image_id)
        return draft

    def of_person(self, person: str) -> list[Draft]:
        """All drafts of one person, the newest first."""
        found = []
        for path in self._folder.glob(f"*/{folder_key(person)}/*.draft"):
            try:
                document = json.loads(path.read_bytes())
                found.append(self.get(ImageId(str(document["image"])), Tag(str(document["tag"])), person))
            except (OSError, ValueError, KeyError, TypeError, LabelNotFound):  # dropped meanwhile, or damaged
                continue
        return sorted(found, key=lambda draft: -draft.updated_ts)

    def remove(self, image_id: ImageId, tag: Tag, person: str, *, number: int | None = None) -> None:
        """Nothing happens if there is none, or another one than that of `number`."""
        folder = self._of(image_id, person)
        with exclusive(self._lock_file), atomic.storage_errors("the draft"):
            if number is not None:
                there = self._find(image_id, tag, person)
                if there is None or there.number != number:
                    return
            (folder / f"{tag}.draft").unlink(missing_ok=True)
            self._remove_data(folder, tag, keep="")

    def _find(self, image_id: ImageId, tag: Tag, person: str) -> Draft | None:
        try:
            return self.get(image_id, tag, person)
        except LabelNotFound:
            return None

    def _of(self, image_id: ImageId, person: str) -> Path:
        return self._folder / folder_key(image_id) / folder_key(person)

    def _remove_data(self, folder: Path, tag: Tag, *, keep: str) -> None:
        """Data files of this tag that no JSON names; also what a crash left."""
        for path in folder.iterdir() if folder.is_dir() else ():
            head, dash, rest = path.name.rpartition("-")
            ours = dash and head == tag and rest.partition(".")[0].isdigit() and path.suffix != ".draft"
            if (ours and path.name != keep) or path.name.startswith(atomic.TEMPORARY_PREFIX):
                path.unlink(missing_ok=True)


def _no_draft(image_id: ImageId) -> LabelNotFound:
    return LabelNotFound(f"You have no draft for the image {image_id!r}.")

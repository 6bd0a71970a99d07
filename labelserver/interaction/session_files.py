"""The folders of sessions, ``STATE/sessions/<id>/``: making, finding, ageing.

A folder without a whole ``session.json`` was never promised to anybody and is removed. The modification time of that
file is the session's last use.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labelserver.domain.errors import QueueFull, SessionNotFound
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId
from labelserver.domain.json_types import JsonObject
from labelserver.domain.prompts import PromptKind
from labelserver.imaging.formats import split_ext
from labelserver.imaging.volumes import read_grid
from labelserver.interaction.described import DescribedTask
from labelserver.interaction.session_log import LOG_NAME
from labelserver.storage import atomic

#: bytes of randomness in an id.
ID_BYTES = 24
#: sessions of one person; the oldest without any prompt gives way to a new one.
MAX_PER_PERSON = 200
#: sessions of everybody.
MAX_SESSIONS = 5000

RECORD = "session.json"
_ID = re.compile(r"^[A-Za-z0-9_-]{16,64}$")


@dataclass(frozen=True, slots=True, eq=False)
class KeptSession:
    """What ``session.json`` says, and when it was last used."""

    session_id: str
    person: str
    hold_person: bool
    task: str
    image_id: ImageId | None
    image_name: str  #: of a file in the session's folder; "" for an image of the datastore
    grid: Grid
    label_values: dict[str, int]
    prompt_kinds: frozenset[PromptKind]
    conversions: dict[str, str]
    params: JsonObject
    created_ts: float
    used_ts: float

    def to_json(self) -> JsonObject:
        return {
            "person": self.person,
            "hold_person": self.hold_person,
            "task": self.task,
            "image_id": self.image_id,
            "image_name": self.image_name,
            "shape": list(self.grid.shape),
            "affine": self.grid.affine.tolist(),
            "label_values": dict(self.label_values),
            "prompt_kinds": sorted(kind.value for kind in self.prompt_kinds),
            "conversions": dict(self.conversions),
            "params": self.params,
            "created_ts": self.created_ts,
        }


class SessionFiles:
    """All methods block and may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(
        self,
        *,
        person: str,
        hold_person: bool,
        described: DescribedTask,
        image_id: ImageId | None,
        image: Path,
        params: JsonObject,
        now: float,
    ) -> tuple[KeptSession, Path]:
        """A new session and its folder. An image without an id is moved into it.

        Raises:
            UnreadableFile, UnsupportedFormat: no image. Refused: of a dimension that the task does not take.
            QueueFull: the person has too many sessions.
        """
        grid = read_grid(image)
        described.check_grid(grid)
        self.make_room(person)
        session_id = secrets.token_urlsafe(ID_BYTES)
        folder = self._folder / session_id
        with atomic.storage_errors("a session"):
            folder.mkdir(parents=True)
        image_name = ""
        if image_id is None:
            image_name = f"image{split_ext(image.name)[1]}"
            with atomic.storage_errors("a session's image"):
                shutil.move(image, folder / image_name)
        kept = KeptSession(
            session_id=session_id,
            person=person,
            hold_person=hold_person,
            task=described.name,
            image_id=image_id,
            image_name=image_name,
            grid=grid,
            label_values=described.label_values,
            prompt_kinds=described.prompt_kinds | {PromptKind.MASK},
            conversions=described.conversions,
            params=params,
            created_ts=now,
            used_ts=now,
        )
        atomic.write_json(folder / RECORD, kept.to_json())
        os.utime(folder / RECORD, (now, now))
        return kept, folder

    def read(self, session_id: str) -> tuple[KeptSession, Path]:
        """Raises `SessionNotFound`."""
        folder = self._folder / session_id
        if not _ID.match(session_id):
            raise SessionNotFound("A session id is what POST /api/v1/sessions answered.")
        try:
            document = json.loads((folder / RECORD).read_text())
            used_ts = (folder / RECORD).stat().st_mtime
            kept = _kept(session_id, document, used_ts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SessionNotFound(
                "You have no open session of this id: it was closed, has expired, or never was. "
                "Open one with POST /api/v1/sessions."
            ) from error
        return kept, folder

    def touch(self, session_id: str, now: float) -> None:
        """Note that a session was used."""
        record = self._folder / session_id / RECORD
        if record.exists():
            os.utime(record, (now, now))

    def unused_since(self, limit_ts: float) -> list[str]:
        """Ids of sessions, and of folders that never became one."""
        return [folder.name for folder, used_ts in self._used() if used_ts < limit_ts]

    def remove(self, session_id: str) -> None:
        """Nothing happens if there is none. The folder vanishes at once, its files a little later."""
        folder = self._folder / session_id
        gone = self._folder / f"{atomic.TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def of_person(self, person: str, image_id: str = "") -> list[str]:
        """Ids of the sessions of `person`, the latest used first."""
        found = []
        for folder, used_ts in self._used():
            record = _record(folder)
            if record.get("person") == person and (not image_id or record.get("image_id") == image_id):
                found.append((used_ts, folder.name))
        return [name for _, name in sorted(found, reverse=True)]

    def make_room(self, person: str) -> None:
        """Let one more session of `person` be made.

        Raises:
            QueueFull: there are too many, and none that could go without losing anything.
        """
        every = self._used()
        if len(every) < min(MAX_PER_PERSON, MAX_SESSIONS):
            return
        own = [(folder, used) for folder, used in every if _record(folder).get("person") == person]
        if len(own) < MAX_PER_PERSON and len(every) < MAX_SESSIONS:
            return
        for folder, _ in sorted(own, key=lambda found: found[1]):
            if not (folder / LOG_NAME).exists():
                self.remove(folder.name)
                return
        raise QueueFull(f"You have {len(own)} open sessions. Close some of them (DELETE /api/v1/sessions/<id>).")

    def _used(self) -> list[tuple[Path, float]]:
        found = []
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            try:
                record = folder / RECORD
                found.append((folder, (record if record.exists() else folder).stat().st_mtime))
            except FileNotFoundError:  # removed meanwhile
                continue
        return found


def _record(folder: Path) -> JsonObject:
    try:
        document = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _kept(session_id: str, document: JsonObject, used_ts: float) -> KeptSession:
    image_id, values, conversions = document["image_id"], document["label_values"], document["conversions"]
    shape, kinds, params = document["shape"], document["prompt_kinds"], document["params"]
    if not (isinstance(shape, list) and isinstance(kinds, list) and isinstance(values, dict)):
        raise TypeError("not a session")
    i, j, k = (int(str(n)) for n in shape)
    return KeptSession(
        session_id=session_id,
        person=str(document["person"]),
        hold_person=bool(document["hold_person"]),
        task=str(document["task"]),
        image_id=ImageId(image_id) if isinstance(image_id, str) else None,
        image_name=str(document["image_name"]),
        grid=Grid((i, j, k), np.asarray(document["affine"], dtype=np.float64)),
        label_values={str(name): int(str(value)) for name, value in values.items()},
        prompt_kinds=frozenset(PromptKind(str(kind)) for kind in kinds),
        conversions={str(k): str(v) for k, v in conversions.items()} if isinstance(conversions, dict) else {},
        params=params if isinstance(params, dict) else {},
        created_ts=float(str(document["created_ts"])),
        used_ts=used_ts,
    )

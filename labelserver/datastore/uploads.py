"""Images that are lent for a while: what the peer calls a session.

An upload is a folder named by a random id with the files in ``content/`` and, written last, ``upload.json``; its
modification time is the last use. When it expires the folder goes and an empty ``<id>.expired`` stays for a month, so
that a client that comes back late is told "gone" and not "never seen" (R-39). Archives are unpacked member by member:
no links, no names of theirs, and no more bytes than allowed.

Any thread or process may read; the server alone creates and removes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tarfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from labelserver.domain.errors import InvalidId, TooLarge, UnreadableFile, UploadNotFound
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.formats import split_ext
from labelserver.storage import atomic

logger = logging.getLogger(__name__)

#: seconds; what 60 or less means, as in the peer.
DEFAULT_EXPIRY_S = 3600
#: seconds that the memory of an expired id is kept.
REMEMBER_EXPIRED_S = 30 * 86400
#: members of one archive; a large whole-body series has a few thousand slices.
MAX_MEMBERS = 100_000

_ID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
_EXTENSION = re.compile(r"^(\.[A-Za-z0-9_-]{1,16}){1,3}$")


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload. `image` is a file, or a folder that holds the files of a DICOM series."""

    upload_id: str
    image: Path
    names: tuple[str, ...]  #: of the files, as the client called them
    created_ts: float  #: Unix seconds
    last_access_ts: float
    expiry_s: int

    @property
    def expires_ts(self) -> float:
        return self.last_access_ts + self.expiry_s

    def to_json(self) -> JsonObject:
        """The peer's ``session_info``, with names relative to the upload instead of the server's paths."""
        return {
            "name": self.upload_id,
            "path": self.upload_id,
            "image": "content" if self.image.name == "content" else f"content/{self.image.name}",
            "meta": {},
            "create_ts": int(self.created_ts),
            "last_access_ts": int(self.last_access_ts),
            "expiry": self.expiry_s,
        }


def parse_upload_id(text: str) -> str:
    """Raises `InvalidId` on anything but a UUID in lower case."""
    if not _ID.match(text):
        raise InvalidId("A session id is a UUID such as 3f2b8c1e-....; use the one that PUT /session/ answered.")
    return text


class UploadStore:
    """The uploads below `folder`."""

    def __init__(self, folder: Path, max_expiry_s: int, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._max_expiry_s = max_expiry_s if max_expiry_s > 60 else DEFAULT_EXPIRY_S
        self._max_bytes = max_bytes
        self._clock = clock

    def add(self, files: Sequence[tuple[Path, str]], *, expiry_s: int = 0, uncompress: bool = False) -> Upload:
        """Take over `files`, given as (path, client's name); they are moved away.

        Args:
            expiry_s: seconds of disuse; 0 or more than the server's maximum means the maximum.
            uncompress: the single file is a zip or tar archive to be unpacked.

        Raises:
            UnreadableFile: not an archive, a broken one, or one with links.
            TooLarge: the archive holds more than `max_bytes` or too many members.
        """
        upload_id = str(uuid.uuid4())
        home = self._folder / upload_id
        content = home / "content"
        content.mkdir(parents=True)
        try:
            if uncompress and len(files) == 1:
                with _archive_errors():
                    names = self._unpack(files[0][0], content)
                files[0][0].unlink(missing_ok=True)
            else:
                names = [name for _, name in files]
                with atomic.storage_errors("the upload"):  # lent for a while, so a power cut may cost it: no sync
                    for number, (path, name) in enumerate(files):
                        shutil.move(path, content / _own_name(number, name))
            found = sorted(content.iterdir())
            if not found:
                raise UnreadableFile("The archive holds no file. Send an archive with the image's files in it.")
            now = self._clock()
            document: JsonObject = {
                "image": f"content/{found[0].name}" if len(found) == 1 else "content",
                "names": names[:1000],
                "created_ts": now,
                "expiry_s": min(expiry_s, self._max_expiry_s) if expiry_s > 0 else self._max_expiry_s,
            }
            atomic.write_json(home / "upload.json", document)
            os.utime(home / "upload.json", (now, now))
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        return self._read(upload_id)

    def get(self, upload_id: str, *, use: bool = True) -> Upload:
        """The upload; `use` counts as a use, which puts off its end.

        Raises:
            InvalidId: not an id of ours.
            UploadNotFound: unknown, removed or expired; the field ``expired`` tells which.
        """
        upload = self._read(parse_upload_id(upload_id))
        now = self._clock()
        if upload.expires_ts < now:
            self._expire(upload_id)
            raise self._gone(upload_id, expired=True)
        if use:
            os.utime(self._folder / upload_id / "upload.json", (now, now))
            return self._read(upload_id)
        return upload

    def remove(self, upload_id: str) -> Upload:
        """Delete it. Raises as `get`."""
        upload = self.get(upload_id, use=False)
        shutil.rmtree(self._folder / upload_id, ignore_errors=True)
        return upload

    def remove_expired(self) -> int:
        """Delete what has expired, half-made folders and old memories. Returns how many uploads."""
        removed = 0
        now = self._clock()
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            if path.suffix == ".expired" and path.stat().st_mtime < now - REMEMBER_EXPIRED_S:
                path.unlink(missing_ok=True)
            elif _ID.match(path.name) and self._is_over(path, now):
                self._expire(path.name)
                removed += 1
        if removed:
            logger.info("uploads expired", extra={"count": removed})
        return removed

    def _is_over(self, home: Path, now: float) -> bool:
        try:
            return self._read(home.name).expires_ts < now
        except UploadNotFound:  # still being written, or left by a crash
            return home.stat().st_mtime < now - DEFAULT_EXPIRY_S

    def _read(self, upload_id: str) -> Upload:
        home = self._folder / upload_id
        try:
            document = json.loads((home / "upload.json").read_bytes())
            return Upload(
                upload_id=upload_id,
                image=home / str(document["image"]),
                names=tuple(str(name) for name in document["names"]),
                created_ts=float(document["created_ts"]),
                last_access_ts=(home / "upload.json").stat().st_mtime,
                expiry_s=int(document["expiry_s"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            expired = (self._folder / f"{upload_id}.expired").exists()
            raise self._gone(upload_id, expired=expired) from error

    def _expire(self, upload_id: str) -> None:
        (self._folder / f"{upload_id}.expired").touch()
        shutil.rmtree(self._folder / upload_id, ignore_errors=True)

    def _gone(self, upload_id: str, *, expired: bool) -> UploadNotFound:
        why = "has expired" if expired else "Not Found"
        return UploadNotFound(f"Session ({upload_id}) {why}. Upload the image again.", expired=expired)

    def _unpack(self, archive: Path, content: Path) -> list[str]:
        names: list[str] = []
        total = 0
        for name, stream in _members(archive):
            if len(names) >= MAX_MEMBERS:
                raise TooLarge(f"The archive holds more than {MAX_MEMBERS} files. Send fewer.")
            with (
                atomic.storage_errors("the archive's files"),
                (content / _own_name(len(names), name)).open("xb") as out,
            ):
                while chunk := stream.read(2**20):
                    total += len(chunk)
                    if total > self._max_bytes:
                        raise TooLarge(f"The archive unpacks to more than {self._max_bytes} bytes. Send less.")
                    out.write(chunk)
            names.append(name)
        return names


def _own_name(number: int, client_name: str) -> str:
    """A name of ours; of the client's only the known extension is kept."""
    ext = split_ext(client_name.replace("\\", "/").rsplit("/", 1)[-1])[1]
    return f"{number:06d}{ext if _EXTENSION.match(ext) else ''}"


@contextmanager
def _archive_errors() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UnreadableFile(f"The archive cannot be unpacked: {error}. Send a zip or tar file.") from error


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, stream) of each regular file. Raises `UnreadableFile` on links and devices."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                mode = member.external_attr >> 16
                if mode and (mode & 0o170000) not in (0, 0o100000, 0o040000):
                    raise UnreadableFile(f"The archive holds a link or device ({member.filename[:80]!r}). Pack files.")
                if not member.is_dir():
                    with packed.open(member) as stream:
                        yield member.filename, stream
        return
    with tarfile.open(archive, "r|*") as tar:
        for entry in tar:
            if entry.isdir():
                continue
            stream_or_none = tar.extractfile(entry) if entry.isreg() else None
            if stream_or_none is None:
                raise UnreadableFile(f"The archive holds a link or device ({entry.name[:80]!r}). Pack plain files.")
            yield entry.name, stream_or_none

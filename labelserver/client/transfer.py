"""Files on their way, with progress."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote

import httpx

from labelserver.client.errors import failure_of

#: called with (bytes done, bytes in all; None if unknown)
OnBytes = Callable[[int, int | None], None]

_EXTENDED = re.compile(r"filename\*=utf-8''([^;]+)", re.IGNORECASE)
_PLAIN = re.compile(r'filename="?([^";]+)"?', re.IGNORECASE)


class CountedFile(io.RawIOBase):
    """A file opened for an upload that tells how far it was read."""

    def __init__(self, path: Path, on_bytes: OnBytes | None) -> None:
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self._on_bytes = on_bytes

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        if self._on_bytes is not None and data:
            self._on_bytes(self._file.tell(), self._size)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def file_name_of(answer: httpx.Response, default: str) -> str:
    """The bare name that Content-Disposition gives, never a path."""
    header = answer.headers.get("content-disposition", "")
    extended, plain = _EXTENDED.search(header), _PLAIN.search(header)
    name = unquote(extended.group(1)) if extended else plain.group(1) if plain else default
    return Path(name.replace("\\", "/")).name or default


def save_stream(answer: httpx.Response, folder: Path, default: str, on_bytes: OnBytes | None) -> Path:
    """Write a streamed answer into `folder`; a half-written file never bears the final name.

    Raises:
        RequestFailed: the answer is not a success.
    """
    if answer.status_code != 200:
        answer.read()
        raise failure_of(answer)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file_name_of(answer, default)
    partial = target.with_name(f".{target.name}.part")
    length = answer.headers.get("content-length", "")
    total = int(length) if length.isdigit() else None
    try:
        with partial.open("wb") as file:
            for chunk in answer.iter_bytes(1 << 16):
                file.write(chunk)
                if on_bytes is not None:
                    on_bytes(file.tell(), total)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target

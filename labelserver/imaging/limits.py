"""A header may claim any size. This is asked before anything is allocated for it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from labelserver.domain.errors import UnreadableFile

#: bytes per compressed byte; deflate cannot do better than 1032:1 (zlib's technical notes).
MAX_DEFLATE_RATIO = 1040

#: bytes of one volume; 2048 x 2048 x 2048 voxels of 2 bytes, beyond any scanner of today.
MAX_VOLUME_BYTES = 16 * 2**30

#: voxels along one axis
MAX_AXIS = 1 << 20

#: What parsers raise on damaged bytes, beside their own errors.
_DAMAGE = (StopIteration, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, OverflowError)


def check_declared(path: Path, shape: Sequence[int], item_bytes: int, *, compressed: bool, data_offset: int = 0) -> int:
    """Refuse a header whose voxels cannot be in the file. Returns the declared number of bytes.

    Args:
        path: the file, for its real size and the message.
        shape: declared length of each axis.
        item_bytes: bytes of one voxel.
        compressed: True if the voxels are deflated.
        data_offset: bytes before the voxels in an uncompressed file.

    Raises:
        UnreadableFile: axes that are not positive, a size beyond `MAX_VOLUME_BYTES`, or more than the file can hold.
    """
    if not shape or any(n < 1 or n > MAX_AXIS for n in shape):
        raise UnreadableFile(f"{path.name} declares the size {tuple(shape)}, which no image can have.")
    declared = math.prod(int(n) for n in shape) * item_bytes
    if declared > MAX_VOLUME_BYTES:
        raise UnreadableFile(f"{path.name} declares {declared} bytes of voxels; at most {MAX_VOLUME_BYTES} are read.")
    stored = path.stat().st_size
    room = stored * MAX_DEFLATE_RATIO if compressed else stored - data_offset
    if declared > room:
        raise UnreadableFile(
            f"{path.name} declares {declared} bytes of voxels, but the file has only {stored} bytes: "
            "it is cut short or damaged. Send it again."
        )
    return declared


@contextmanager
def unreadable(path: Path, what: str, *foreign: type[Exception]) -> Iterator[None]:
    """Translate a library's errors about a damaged file to `UnreadableFile`."""
    caught: tuple[type[Exception], ...] = (*foreign, *_DAMAGE)
    try:
        yield
    except caught as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise UnreadableFile(
            f"{path.name} is not a readable {what} file: {_first_line(error)}. Check the file and send it again."
        ) from error


def _first_line(error: Exception) -> str:
    """The library's reason without paths, short enough for a sentence."""
    text = (str(error).splitlines() or [""])[0].strip().rstrip(".")
    words = [w if os.sep not in w else Path(w.strip("'\"")).name for w in text.split()]
    return " ".join(words)[:200] or type(error).__name__

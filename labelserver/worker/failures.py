"""What the user's code raised becomes an error that can travel: a sentence for the caller, a traceback for the log.

Memory errors of torch are recognised by name, so that this module works without torch.
"""

from __future__ import annotations

import errno
import gc
import sys
from typing import Any

from labelserver.domain.errors import (
    DeviceMemoryFull,
    DiskFull,
    GridsDiffer,
    ImageNotFound,
    LabelNotFound,
    LabelServerError,
    TaskFailed,
    UnreadableFile,
    UnsupportedFormat,
)
from labelserver.domain.jobs import JobReason

#: How torch words an exhausted memory where it raises a plain RuntimeError.
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BAD_DATA = (GridsDiffer, ImageNotFound, LabelNotFound, UnreadableFile, UnsupportedFormat)


def as_error(error: BaseException, what: str) -> LabelServerError:
    """`error` as one of ours.

    Args:
        error: What was raised.
        what: Who raised it, to begin the sentence: "The model segmentation", "The trainer liver".
    """
    if isinstance(error, LabelServerError):
        return error
    if reason_of(error) is JobReason.OUT_OF_MEMORY:
        return DeviceMemoryFull(
            f"{what} ran out of memory. Try a smaller region or image, a smaller batch, or the device 'cpu'."
        )
    if reason_of(error) is JobReason.DISK_FULL:
        return DiskFull(f"{what} found no space left on the disk. Free some space and try again.")
    text = str(error).strip()
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return TaskFailed(f"{what} failed with {said}")


def reason_of(error: BaseException) -> JobReason:
    """Why a job failed, from what its task raised, or from what caused that: libraries wrap what a step raised.

    An error of ours may name the reason itself, in its field `reason`.
    """
    seen: BaseException | None = error
    while seen is not None:
        found = _own_reason(seen)
        if found is not JobReason.APP_ERROR:
            return found
        seen = seen.__cause__
    return JobReason.APP_ERROR


def _own_reason(error: BaseException) -> JobReason:
    if isinstance(error, LabelServerError):
        try:
            return JobReason(str(error.fields.get("reason", "")))
        except ValueError:
            pass
    if isinstance(error, DeviceMemoryFull) or is_out_of_memory(error):
        return JobReason.OUT_OF_MEMORY
    if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in _NO_SPACE):
        return JobReason.DISK_FULL
    if isinstance(error, _BAD_DATA):
        return JobReason.BAD_DATA
    return JobReason.APP_ERROR


def is_out_of_memory(error: BaseException) -> bool:
    """MemoryError, torch's OutOfMemoryError, or a RuntimeError in which torch says so."""
    if isinstance(error, MemoryError) or any(c.__name__ == "OutOfMemoryError" for c in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS)


def free_memory() -> None:
    """Give back what can be given back, so that the next, smaller request finds room."""
    gc.collect()
    torch: Any = sys.modules.get("torch")  # Any: loaded by the app, if at all
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()

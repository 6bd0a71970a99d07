"""What the user's code raises becomes a sentence for the caller and a reason for the job."""

import errno

import pytest

from labelserver.domain.errors import (
    DeviceMemoryFull,
    DiskFull,
    GridsDiffer,
    ImageNotFound,
    TaskFailed,
    TaskNotFound,
)
from labelserver.domain.jobs import JobReason
from labelserver.worker.failures import as_error, free_memory, reason_of


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (ValueError("upside down"), TaskFailed, "The model m failed with ValueError: upside down"),
        (KeyError(), TaskFailed, "The model m failed with KeyError"),
        (MemoryError(), DeviceMemoryFull, "ran out of memory"),
        (OutOfMemoryError("x"), DeviceMemoryFull, "ran out of memory"),
        (RuntimeError("CUDA error: out of memory"), DeviceMemoryFull, "ran out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), DeviceMemoryFull, "ran out of memory"),
        (NO_SPACE, DiskFull, "no space left"),
        (SystemExit(3), TaskFailed, "SystemExit: 3"),
    ],
)
def test_errors_become_sentences(error, kind, says):
    found = as_error(error, "The model m")
    assert type(found) is kind
    assert says in found.message


def test_our_own_errors_stay_as_they_are():
    error = ImageNotFound("There is no image x.", image_id="x")
    assert as_error(error, "The model m") is error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("x"), JobReason.APP_ERROR),
        (TaskNotFound("x"), JobReason.APP_ERROR),
        (TaskFailed("x", reason="nan_loss"), JobReason.NAN_LOSS),
        (TaskFailed("x", reason="no_data"), JobReason.NO_DATA),
        (TaskFailed("x", reason="bad weather"), JobReason.APP_ERROR),
        (GridsDiffer("x"), JobReason.BAD_DATA),
        (ImageNotFound("x"), JobReason.BAD_DATA),
        (MemoryError(), JobReason.OUT_OF_MEMORY),
        (OutOfMemoryError("x"), JobReason.OUT_OF_MEMORY),
        (DeviceMemoryFull("x"), JobReason.OUT_OF_MEMORY),
        (NO_SPACE, JobReason.DISK_FULL),
        (DiskFull("x"), JobReason.DISK_FULL),
    ],
)
def test_a_job_names_its_reason(error, reason):
    assert reason_of(error) is reason


def test_memory_is_freed_without_torch_too():
    free_memory()

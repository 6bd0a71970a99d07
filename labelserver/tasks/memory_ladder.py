"""When a device's memory does not hold a forward pass: the same pass in smaller and smaller ways, then on the CPU.

    full               as the task asks
    one_window         sliding windows one at a time
    accumulate_on_cpu  and their sum in the machine's memory
    half_precision     and numbers of 16 bits where torch finds that safe (autocast)
    cpu                on the CPU

A step that would change nothing is left out. Each failed try is forgotten, tensors and all, before the next begins.
"""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import torch
from monai.inferers import SlidingWindowInferer

from labelserver.domain.errors import DeviceMemoryFull
from labelserver.tasks.devices import CPU

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: how torch words an exhausted memory of the machine itself
_CPU_WORDS = ("defaultcpuallocator", "can't allocate memory", "cannot allocate memory")


class MemoryStep(StrEnum):
    """How a forward pass fitted into memory; what the answer calls ``memory_step``."""

    FULL = "full"
    ONE_WINDOW = "one_window"
    ACCUMULATE_ON_CPU = "accumulate_on_cpu"
    HALF_PRECISION = "half_precision"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to run the pass."""

    step: MemoryStep
    device: str
    inferer: Any  #: of MONAI or of an app
    half: bool = False

    def precision(self) -> Any:
        """The context to run the network in."""
        if not self.half:
            return nullcontext()
        kind = torch.device(self.device).type
        wide = kind != "cuda" or torch.cuda.is_bf16_supported()
        return torch.autocast(kind, dtype=torch.bfloat16 if wide else torch.float16)


def attempts(inferer: Any, device: str) -> Iterator[Attempt]:
    """All ways in the order in which they are tried."""
    yield Attempt(MemoryStep.FULL, device, inferer)
    window = copy.copy(inferer) if isinstance(inferer, SlidingWindowInferer) else None
    if window is not None and window.sw_batch_size > 1:
        window.sw_batch_size = 1
        yield Attempt(MemoryStep.ONE_WINDOW, device, copy.copy(window))
    if window is not None and device != CPU:
        window.sw_batch_size = 1
        window.sw_device, window.device, window.cpu_thresh = device, CPU, None
        yield Attempt(MemoryStep.ACCUMULATE_ON_CPU, device, copy.copy(window))
    yield Attempt(MemoryStep.HALF_PRECISION, device, window or inferer, half=True)
    if device != CPU:
        if window is not None:
            window.sw_device = CPU
        yield Attempt(MemoryStep.CPU, CPU, window or inferer)


def first_that_fits(inferer: Any, device: str, run: Callable[[Attempt], _Result]) -> tuple[_Result, MemoryStep]:
    """What `run` gives for the first attempt that finds enough memory, and which that was.

    Raises:
        DeviceMemoryFull: none of them does; says what to ask for instead.
    """
    for attempt in attempts(inferer, device):
        try:
            return run(attempt), attempt.step
        except RuntimeError as error:
            if not is_memory_full(error):
                raise
            logger.warning("not enough memory", extra={"step": attempt.step, "device": attempt.device})
        # Beyond the except block, where no traceback holds the tensors any more.
        free_memory()
    raise DeviceMemoryFull(
        "There is not enough memory for this image, not even window by window on the CPU. "
        "Ask for a smaller roi_size, or let the app use a larger spacing."
    )


def is_memory_full(error: BaseException) -> bool:
    """torch's OutOfMemoryError, or what its allocator for the machine's memory raises."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _CPU_WORDS)


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

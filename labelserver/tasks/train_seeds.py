"""Random numbers as a function of (seed, epoch, case) and (seed, step), so that a run can be taken up at any step.

Nothing about generators has to be stored: the numbers of step 317 are the same in a run that began there. Promised for
the loaders made here with ``num_workers=0``; worker processes of a loader seed themselves.
"""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import Sampler

_LARGEST = 2**32 - 1  #: numpy's RandomState takes 32 bits


def drawn_seed() -> int:
    """A seed for a run that asked for none."""
    return secrets.randbelow(2**31)


def mixed(*numbers: int) -> int:
    """One 32-bit seed from several numbers, without visible pattern."""
    text = ",".join(str(number) for number in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def seed_libraries(seed: int) -> None:
    """The global generators of torch, numpy and Python, which dropout and apps' own code draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed & _LARGEST)
    random.seed(seed)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch choose algorithms that give the same result each time, where it has them; slower on a GPU."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


class EpochSampler(Sampler[int]):
    """Case indices in an order drawn from (seed, epoch). Each iteration is the next epoch."""

    def __init__(self, size: int, seed: int, *, shuffle: bool) -> None:
        self._size, self._seed, self._shuffle = size, seed, shuffle
        self._epoch, self._skip = 1, 0

    def start_at(self, epoch: int, skip: int) -> None:
        """Let the next iteration be `epoch` (counted from 1) without its first `skip` cases."""
        self._epoch, self._skip = epoch, skip

    def __iter__(self) -> Iterator[int]:
        order = list(range(self._size))
        if self._shuffle:
            random.Random(mixed(self._seed, self._epoch)).shuffle(order)
        order = order[self._skip :]
        self._epoch, self._skip = self._epoch + 1, 0
        return iter(order)

    def __len__(self) -> int:
        return self._size

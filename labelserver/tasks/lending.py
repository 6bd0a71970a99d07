"""Tensors of the prepared images go to a call without a copy, and come back as they were.

A copy of a CT costs time and memory, and hardly any step writes into its input. So a call gets the kept tensor itself
while only steps are at work that are known to leave it alone; `settle` gives the call its own copy before code comes
that may not. A network that writes into its input is noticed afterwards by torch's version counter: then the entry is
forgotten, and the next call makes it anew. No tensor is lent to two calls at once: the second one gets a copy.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from labelserver.tasks.prepared_images import shared

_current: ContextVar[LoanBook | None] = ContextVar("loans", default=None)
_lock = threading.Lock()
_lent: set[int] = set()  #: addresses of the storages that calls have in their hands


@dataclass(frozen=True, slots=True)
class _Loan:
    key: Hashable  #: of the entry
    tensor: torch.Tensor
    version: int

    @property
    def address(self) -> int:
        return self.tensor.untyped_storage().data_ptr()


class LoanBook:
    """What one call has borrowed."""

    def __init__(self) -> None:
        self._loans: list[_Loan] = []

    def borrow(self, key: Hashable, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` itself, or a copy if another call has it."""
        loan = _Loan(key, tensor, tensor._version)
        with _lock:
            if loan.address in _lent:
                return tensor.clone()
            _lent.add(loan.address)
        self._loans.append(loan)
        return tensor

    def settle(self, data: dict[str, Any]) -> None:
        """Replace every value of `data` that shares memory with something borrowed by a copy."""
        addresses = {loan.address: loan.tensor.untyped_storage().nbytes() for loan in self._loans}
        for name, value in data.items():
            at = _address(value)
            if at is not None and any(start <= at < start + size for start, size in addresses.items()):
                data[name] = value.clone() if torch.is_tensor(value) else value.copy()

    def give_back(self) -> None:
        """End all loans; forget the entries that were written into."""
        with _lock:
            _lent.difference_update(loan.address for loan in self._loans)
        for loan in self._loans:
            if loan.tensor._version != loan.version:
                shared().forget(loan.key)
        self._loans = []


@contextmanager
def borrowing(*, allowed: bool) -> Iterator[LoanBook]:
    """Let this call borrow inside the block; unless `allowed`, it gets copies."""
    book = LoanBook()
    token = _current.set(book if allowed else None)
    try:
        yield book
    finally:
        _current.reset(token)
        book.give_back()


def handed_out(key: Hashable, value: Any, *, copy: bool) -> Any:
    """A kept value for a call: tensors borrowed where that is allowed, everything else copied."""
    if isinstance(value, MetaTensor):
        plain = _tensor(key, value.as_tensor(), copy=copy)
        return MetaTensor(plain, meta=_copied(value.meta), applied_operations=_copied(value.applied_operations))
    if torch.is_tensor(value):
        return _tensor(key, value, copy=copy)
    return _copied(value)


def _tensor(key: Hashable, tensor: torch.Tensor, *, copy: bool) -> torch.Tensor:
    book = _current.get()
    return tensor.clone() if copy or book is None else book.borrow(key, tensor)


def _copied(value: Any) -> Any:
    """Containers and what they hold, copied; metadata is small."""
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    if torch.is_tensor(value):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def settle(data: Any) -> None:
    """Before code that may write into ``data``: give the current call its own copy of what it borrowed."""
    book = _current.get()
    if book is not None and isinstance(data, dict):
        book.settle(data)


def _address(value: Any) -> int | None:
    if torch.is_tensor(value):
        return int(value.data_ptr())
    return int(value.__array_interface__["data"][0]) if isinstance(value, np.ndarray) else None

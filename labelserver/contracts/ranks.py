"""Several processes that train one network together: ranks, in torch's word. Rank 0 speaks for all.

Rank 0 is the job's own process. It asks the `RankStarter` of whoever runs it for the others; each of those loads the
app like any job process and runs the same trainer `as_rank`. A task that runs without a job finds no starter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Rank:
    """One of `count` processes."""

    number: int
    count: int


class RankStarter(Protocol):
    """Whoever can start further processes of this job."""

    def others(self, count: int) -> AbstractContextManager[None]:
        """Processes for the ranks 1 to `count` - 1, alive inside the block; what still runs after it is killed.

        Raises (on leaving): `TaskFailed` if one of them failed.
        """


_rank: ContextVar[Rank | None] = ContextVar("labelserver_rank", default=None)
_starter: ContextVar[RankStarter | None] = ContextVar("labelserver_rank_starter", default=None)


def current_rank() -> Rank | None:
    """The rank this process was started as; None in a job's own process and outside of jobs."""
    return _rank.get()


def current_rank_starter() -> RankStarter | None:
    """Who starts further ranks; None outside of jobs, and in a rank."""
    return _starter.get()


@contextmanager
def as_rank(rank: Rank) -> Iterator[None]:
    """Let what runs inside the block be this rank."""
    token = _rank.set(rank)
    try:
        yield
    finally:
        _rank.reset(token)


@contextmanager
def ranks_from(starter: RankStarter) -> Iterator[None]:
    """Let what runs inside the block start further ranks with `starter`."""
    token = _starter.set(starter)
    try:
        yield
    finally:
        _starter.reset(token)

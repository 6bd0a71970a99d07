"""How several processes train one network: each sees its share of the cases, all take the same steps.

Gradients are averaged by torch's DistributedDataParallel through ignite's distributed module; the processes meet
through a file in the job's folder, so nobody but the operating system chooses a port. Which cases there are, which are
held out and when to stop is said by rank 0, because a label may be saved, and a stop asked for, between the looks of
two processes. Every rank measures all held-out cases, so that each knows the same numbers; rank 0 alone writes them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch

from labelserver.contracts.progress import Progress
from labelserver.contracts.ranks import Rank
from labelserver.domain.errors import InvalidParams
from labelserver.storage import atomic
from labelserver.tasks import train_request as asked
from labelserver.tasks.train_context import Case

MEETING_FOLDER = "ranks"
_RENDEZVOUS, _CASES = "rendezvous", "cases.json"

#: more processes on one machine than this are a mistake in a request
MAX_RANKS = 64


def ranks_wanted(request: Mapping[str, Any]) -> int:
    """How many processes a request asks for: ``world_size``, else one for each of its GPUs, else 1.

    Raises:
        InvalidParams: more than `MAX_RANKS`.
    """
    explicit = asked.whole_number(request, "world_size", 0, least=0)
    wanted = explicit or (len(gpus_of(request)) if asked.truth(request, "multi_gpu", True) else 1)
    if wanted > MAX_RANKS:
        raise InvalidParams(f"world_size is the number of processes, at most {MAX_RANKS}.")
    return max(1, wanted)


def gpus_of(request: Mapping[str, Any]) -> list[int]:
    """Indices of the GPUs to use: those listed under ``gpus``, all without a list; none for a training on the CPU."""
    device = str(request.get("device") or "")
    if not torch.cuda.is_available() or device.startswith("cpu") or ":" in device:
        return []
    listed = str(request.get("gpus") or "all")
    if listed == "all":
        return list(range(torch.cuda.device_count()))
    return [int(part) for part in listed.split(",") if part.strip().isdecimal()]


def device_of(number: int, request: Mapping[str, Any]) -> torch.device:
    """The device of a rank: the GPU of its turn, else the CPU."""
    gpus = gpus_of(request)
    return torch.device("cuda", gpus[number % len(gpus)]) if gpus else torch.device("cpu")


def meeting_of(folder: Path) -> Path:
    """Where the ranks of the job in `folder` meet."""
    return folder / MEETING_FOLDER


def new_meeting(folder: Path) -> Path:
    """An empty `meeting_of`, made by rank 0 before the others start."""
    meeting = meeting_of(folder)
    shutil.rmtree(meeting, ignore_errors=True)
    meeting.mkdir(parents=True)
    return meeting


@contextmanager
def joined(rank: Rank, request: Mapping[str, Any], meeting: Path) -> Iterator[None]:
    """Be one of the processes inside the block, which begins once all have met in the folder `meeting`."""
    device = device_of(rank.number, request)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    idist.initialize(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting / _RENDEZVOUS}",
        rank=rank.number,
        world_size=rank.count,
    )
    try:
        yield
    finally:
        idist.finalize()


def together() -> bool:
    """Whether this process is one of several."""
    return int(idist.get_world_size()) > 1


def is_first() -> bool:
    """Whether this process writes down what all of them did."""
    return int(idist.get_rank()) == 0


def agreed(wish: bool) -> bool:
    """What rank 0 wishes. All ranks must call it at the same point of the run."""
    if not together():
        return wish
    return bool(idist.broadcast(float(wish), src=0))


def seed_of_first(seed: int) -> int:
    """The seed that rank 0 drew. All ranks must call it at the same point of the run."""
    return int(idist.broadcast(str(seed), src=0)) if together() else seed


def cases_of_first(meeting: Path, train: list[Case], val: list[Case]) -> tuple[list[Case], list[Case]]:
    """The cases that rank 0 gives, to train on and held out. All ranks must call it at the same point of the run.

    Raises:
        InvalidParams: the app's cases hold more than text and numbers.
    """
    path = meeting / _CASES
    if is_first():
        try:
            text = json.dumps([train, val])
        except TypeError as error:
            raise InvalidParams(
                "Several processes can train only on cases of paths, text and numbers. Set multi_gpu to false."
            ) from error
        atomic.write_bytes(path, text.encode())
    idist.barrier()
    first_train, first_val = json.loads(path.read_text(encoding="utf-8"))
    return first_train, first_val


def fewest(number: int) -> int:
    """The smallest of what all ranks say. All ranks must call it at the same point of the run."""
    return int(idist.all_reduce(number, "MIN")) if together() else number


class AgreedProgress:
    """A progress whose wish to stop is rank 0's."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def should_stop(self) -> bool:
        """All ranks must call it at the same point of the run."""
        return agreed(self._progress.should_stop())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._progress, name)


def share_of(cases: Sequence[Case], rank: Rank) -> list[Case]:
    """Every `count`-th case from the rank's own on. All ranks get equally many, so that they take equally many steps.

    Where the number of cases is no multiple of the number of ranks, the first ones are seen by two ranks in an epoch.
    """
    if not cases:
        return []
    each = -(-len(cases) // rank.count)
    return [cases[(rank.number + turn * rank.count) % len(cases)] for turn in range(each)]


def distributed(network: torch.nn.Module, *, find_unused_parameters: bool) -> torch.nn.Module:
    """`network` with averaged gradients where there are several processes, else itself."""
    if not together():
        return network
    wrapped: torch.nn.Module = idist.auto_model(network, find_unused_parameters=find_unused_parameters)
    return wrapped

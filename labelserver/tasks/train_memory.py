"""How much memory a training will take, said before it starts, and what is kept of the prepared cases because of it.

The cap holds for all prepared cases of a run together, held-out ones included, and is never exceeded. What does not fit
is read from the disk again in each epoch: prepared, if the disk may keep it, else from its files.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Any

import torch

from labelserver import settings
from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import LabelServerError
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.volumes import read_grid
from labelserver.storage.memory import available_memory_bytes
from labelserver.tasks.train_context import Case, Context

logger = logging.getLogger(__name__)

#: Share of the free memory that prepared cases may take; the rest is for the network, batches and the worker beside.
CACHE_SHARE = 0.4

#: Copies of the parameters that a step holds: weights, gradients and the two moments of Adam.
_PARAMETER_COPIES = 4

_MIB = 2**20


class DatasetKind(StrEnum):
    """How a data set holds its prepared cases."""

    PLAIN = "plain"  #: all in memory
    BOUNDED = "bounded"  #: in memory up to the cap, the others come from the disk
    NOTHING_KEPT = "nothing kept"  #: as the request wants it, or because of transforms that nothing is known about


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What is expected of a data set's cases."""

    kind: DatasetKind
    cases: int
    case_bytes: int  #: of one case, prepared, on average
    cap_bytes: int
    on_disk: bool  #: prepared cases are kept on disk, too

    @property
    def total_bytes(self) -> int:
        return self.cases * self.case_bytes

    def sentence(self, what: str) -> str:
        """For people. `what`: which cases, for example ``to train on``."""
        told = (
            f"{self.cases} cases {what} of about {_text(self.case_bytes)} each make {_text(self.total_bytes)}; "
            f"{_text(self.cap_bytes)} may be used"
        )
        if self.kind is DatasetKind.PLAIN:
            return f"{told}, so all stay in memory (plain data set)."
        again = "are read from the prepared cases on disk" if self.on_disk else "are prepared again"
        return f"{told}, so as many as fit stay in memory and the others {again} in each epoch (bounded data set)."

    def to_json(self) -> JsonObject:
        return {
            "dataset": self.kind.value,
            "cases": self.cases,
            "case_bytes": self.case_bytes,
            "total_bytes": self.total_bytes,
            "cap_bytes": self.cap_bytes,
            "on_disk": self.on_disk,
        }


def memory_left(context: Context) -> int:
    """Bytes that prepared cases of this run may still take; the cap is fixed when this is first asked."""
    if context.memory_left_bytes is None:
        cap = settings.current().training_memory_bytes or int(CACHE_SHARE * available_memory_bytes())
        context.memory_left_bytes = cap // max(1, context.world_size)
    return context.memory_left_bytes


def planned(cases: list[Case], first_bytes: int, cap_bytes: int, *, on_disk: bool, wants_bounded: bool) -> MemoryPlan:
    """From the size of the first prepared case and the sizes that the images' headers tell."""
    voxels = [_voxels(case) for case in cases]
    known = [count for count in voxels if count] if voxels and voxels[0] else []
    scale = sum(known) / len(known) / voxels[0] if known else 1.0
    case_bytes = max(1, round(first_bytes * scale))
    fits = case_bytes * len(cases) <= cap_bytes and not wants_bounded
    kind = DatasetKind.PLAIN if fits else DatasetKind.BOUNDED
    return MemoryPlan(kind, len(cases), case_bytes, cap_bytes, on_disk)


def tell_device_memory(context: Context, sample: Any) -> None:
    """Say what a step takes on the device, if that can be told from one item of the data set.

    Args:
        context: with the network.
        sample: a case as the network gets it, or a list of its patches.
    """
    patches = sample if isinstance(sample, list) else [sample]
    image = patches[0].get("image") if patches and isinstance(patches[0], dict) else None
    if not isinstance(image, torch.Tensor) or context.network is None:
        return
    batch = len(patches) * context.train_batch_size
    needed = step_bytes(context.network, (batch, *image.shape))
    if needed is None:
        return
    progress = current_progress()
    told = f"A step on {batch} x {'x'.join(map(str, image.shape))} takes about {_text(needed)} on {context.device}"
    progress.report({"step_bytes": needed, "device": str(context.device)})
    if context.device.type == "cuda":
        free = int(torch.cuda.mem_get_info(context.device)[0])
        if needed > free:
            progress.log(f"{told}, where {_text(free)} are free: use a smaller patch or train_batch_size.")
            return
    progress.log(f"{told}.")


def step_bytes(network: Any, shape: tuple[int, ...]) -> int | None:
    """Bytes of parameters, gradients, optimizer and what the layers keep for the way back; None if it cannot be told.

    The network runs once on tensors without memory.
    """
    kept = [0]

    def count(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and not list(module.children()):
            kept[0] += output.numel() * output.element_size()

    try:
        hollow = deepcopy(network).to("meta")
        for module in hollow.modules():
            module.register_forward_hook(count)
        with torch.no_grad():
            hollow(torch.empty(shape, device="meta"))
    except Exception as error:  # the app's network: not every one can run without values
        logger.info("the device memory of a step cannot be told", exc_info=error)
        return None
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    return int(kept[0] + parameters * _PARAMETER_COPIES + prod(shape) * 4)


def _voxels(case: Case) -> int:
    """Of the image, from its header; 0 if that cannot be told."""
    value = case.get("image")
    if not isinstance(value, str | Path):
        return 0
    try:
        return prod(read_grid(Path(value)).shape)
    except (LabelServerError, OSError):
        return 0


def _text(size_bytes: float) -> str:
    mib = size_bytes / _MIB
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.1f} MiB"

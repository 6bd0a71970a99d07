"""An embedding from any network: the mean of its innermost features, where the image is smallest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from labelserver.tasks.devices import name_to_device
from labelserver.tasks.infer import BasicInferTask

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


@dataclass
class _Sum:
    """Features of one layer, over all windows of an image."""

    places: int  #: voxels of the layer's output
    total: torch.Tensor  #: (C,)
    windows: int


class FeatureTap:
    """Listens to the convolutions of a network during one inference."""

    def __init__(self) -> None:
        self._sums: dict[int, _Sum] = {}

    @contextmanager
    def listening(self, task: BasicInferTask, request: dict[str, Any]) -> Iterator[None]:
        """Hear what the network of `task` computes inside the block."""
        network = task._get_network(name_to_device(request.get("device")), request)
        modules = [] if network is None else [m for m in network.modules() if isinstance(m, _CONVOLUTIONS)]
        handles = [
            module.register_forward_hook(lambda _, __, output, n=number: self._hear(n, output))
            for number, module in enumerate(modules)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Hear nothing inside the block."""
        yield

    def embedding(self) -> tuple[float, ...]:
        """(C,) mean over voxels and windows of the layer with the fewest voxels, of those the one with most channels.

        Empty for a network without convolutions.
        """
        if not self._sums:
            return ()
        best = min(self._sums.values(), key=lambda one: (one.places, -len(one.total)))
        return tuple(float(v) for v in (best.total / best.windows).tolist())

    def _hear(self, number: int, output: Any) -> None:
        if not torch.is_tensor(output) or output.ndim < 3:
            return
        places = math.prod(output.shape[2:])
        means = output.detach().float().flatten(2).mean(dim=2).sum(dim=0).cpu()
        known = self._sums.get(number)
        if known is None:
            self._sums[number] = _Sum(places, means, len(output))
        else:
            known.total, known.windows = known.total + means, known.windows + len(output)

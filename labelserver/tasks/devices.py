"""Where tensors can live on this machine, by the names that clients show."""

from __future__ import annotations

from collections.abc import Sequence

import torch

CPU = "cpu"
CUDA = "cuda"


def device_map() -> dict[str, str]:
    """Display name -> torch device: ``{"cpu": "cpu"}`` without CUDA, else the GPUs (``<name>:<i>`` if several)."""
    if not torch.cuda.is_available():
        return {CPU: CPU}
    count = torch.cuda.device_count()
    if count == 1:
        return {torch.cuda.get_device_name(0): CUDA}
    return {f"{torch.cuda.get_device_name(index)}:{index}": f"{CUDA}:{index}" for index in range(count)}


def device_list() -> list[str]:
    """Display names for a client's drop-down; the first is the default."""
    return list(device_map())


def name_to_device(name: str | Sequence[str] | None) -> str:
    """A torch device for what a client sent: a display name, a torch name, a list (first wins) or nothing.

    Nothing, or CUDA on a machine without it, falls back to what exists.
    """
    first = name if isinstance(name, str) or not name else name[0]
    if not first:
        return CUDA if torch.cuda.is_available() else CPU
    wanted = device_map().get(str(first), str(first))
    return CPU if wanted.startswith(CUDA) and not torch.cuda.is_available() else wanted

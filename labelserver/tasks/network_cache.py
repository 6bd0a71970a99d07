"""Networks in memory: one per device and weight file, read again when the file's content is another.

A freshly published model goes live through this: publishing swaps the file, the next inference sees another identity
(inode, size, modification time in ns) and loads it, while a running inference keeps the network that it holds. One lock
guards each cache, so that two first requests load once.
"""

from __future__ import annotations

import json
import logging
import pickle
import threading
import zipfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from safetensors.torch import load_file

from labelserver.domain.errors import TaskFailed
from labelserver.tasks.devices import CPU
from labelserver.tasks.fast_forward import tune_for_cpu
from labelserver.tasks.transform_runs import stop_if_asked

logger = logging.getLogger(__name__)

Network: TypeAlias = "torch.nn.Module"
#: (inode, size in bytes, modification time in ns); None: no file
FileIdentity: TypeAlias = "tuple[int, int, int] | None"

_Read = TypeVar("_Read")

#: bytes; a safetensors header beyond this is refused by the format's own readers too
_MAX_SAFETENSORS_HEADER = 100 * 2**20


@dataclass(frozen=True, slots=True)
class WeightFile:
    """How the weights of a task are to be read."""

    path: Path | None
    state_key: str = "model"  #: where a checkpoint keeps its state; falls back to the whole checkpoint
    strict: bool = True
    train_mode: bool = False  #: keep dropout active, for sampling


class NetworkCache:
    """The networks of one task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], tuple[FileIdentity, Network]] = {}

    def get(self, device: str, template: Network | None, weights: WeightFile) -> Network:
        """The network with `weights` on `device`, from memory if the file did not change.

        Raises:
            TaskFailed: the file cannot be read as weights, or does not fit the network.
        """
        key = (device, str(weights.path or ""))
        with self._lock:
            # Looked at before reading: a file that is replaced meanwhile is read again at the next call.
            identity = _identity(weights.path)
            known = self._entries.get(key)
            if known is not None and known[0] == identity:
                network = known[1]
                return network if network.training == weights.train_mode else network.train(weights.train_mode)
            network = _loaded(device, template, weights)
            network.register_forward_pre_hook(_between_windows)
            self._entries = {k: v for k, v in self._entries.items() if k[0] != device}
            self._entries[key] = (identity, network)
            return network

    def clear(self) -> None:
        """Forget all networks; those in use live on until their inference ends."""
        with self._lock:
            self._entries = {}


class _Scripted(torch.nn.Module):
    """A TorchScript network as a plain module: scripted ones refuse hooks."""

    def __init__(self, scripted: Network) -> None:
        super().__init__()
        self.scripted = scripted

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.scripted(*args, **kwargs)


def _between_windows(module: Network, args: Any) -> None:
    """Before each forward pass of a sliding window: end if nobody waits for the answer."""
    stop_if_asked()


def _identity(path: Path | None) -> FileIdentity:
    if path is None:
        return None
    stat = path.stat()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _loaded(device: str, template: Network | None, weights: WeightFile) -> Network:
    if template is None:
        if weights.path is None:
            raise TaskFailed("The task has neither a network nor a weight file.")
        network: Network = _Scripted(
            _guarded(lambda: torch.jit.load(str(weights.path), map_location=device), weights.path)
        )
    else:
        network = deepcopy(template).to(device)
        if weights.path is not None:
            load_into(network, read_state(weights.path, weights.state_key, device), weights.strict, weights.path.name)
        if torch.device(device).type == CPU:
            tune_for_cpu(network)
    return network.train(weights.train_mode)


def read_state(path: Path, state_key: str = "model", device: str = "cpu") -> dict[str, Any]:
    """Parameter name -> tensor, from a checkpoint, safetensors or TorchScript file, told apart by content.

    A checkpoint is ``{state_key: state}`` or the bare state. It is unpickled with ``weights_only=True``: a file that
    holds code is refused.

    Raises:
        TaskFailed: not a weight file.
    """
    if _is_safetensors(path):
        return _guarded(lambda: dict(load_file(str(path), device=device)), path)
    if _is_torchscript(path):
        return _guarded(lambda: dict(torch.jit.load(str(path), map_location=device).state_dict()), path)
    checkpoint = _guarded(lambda: torch.load(path, map_location=device, weights_only=True), path)
    state = checkpoint.get(state_key, checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        raise TaskFailed(f"{path.name} holds no parameters. Save network.state_dict() with torch.save, or safetensors.")
    return dict(state)


def load_into(network: Network, state: Mapping[str, Any], strict: bool, name: str) -> None:
    """Copy `state` into `network`, logging the names that differ.

    Raises:
        TaskFailed: names differ although `strict`, or shapes differ.
    """
    own = set(network.state_dict())
    missing, unexpected = sorted(own - set(state)), sorted(set(state) - own)
    if missing or unexpected:
        logger.warning("weights and network differ", extra={"missing": missing[:8], "unexpected": unexpected[:8]})
    try:
        network.load_state_dict(dict(state), strict=strict)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise TaskFailed(f"{name} does not fit the network of this task: {first} Train it again.") from error


def _guarded(read: Callable[[], _Read], path: Path | None) -> _Read:
    """Translate what the readers of torch raise on a file that is not theirs."""
    try:
        return read()
    except (RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, OSError) as error:
        name = path.name if path is not None else "The weights"
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TaskFailed(f"{name} cannot be read as weights: {first}") from error


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of header length, then a JSON object (source: the safetensors format description)."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_MAX_SAFETENSORS_HEADER, path.stat().st_size):
            return False
        try:
            return isinstance(json.loads(stream.read(length)), dict)
        except ValueError:
            return False


def _is_torchscript(path: Path) -> bool:
    """A TorchScript archive carries its code; a plain checkpoint does not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())

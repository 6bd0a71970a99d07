"""TorchScript: the one module that makes and reads it, and that knows that torch advises against making more.

An archive is still what MONAI Label, the Deploy SDK and Triton take. A network is scripted if that works, else traced;
what comes out must give the numbers of the network itself, or nothing is written. Convolutions on a CPU ask for the
same kernel as the server's do (`labelserver.tasks.fast_forward`), so that the numbers are the same to the last bit.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from labelserver.domain.errors import InvalidParams, UnreadableFile
from labelserver.domain.json_types import JsonObject

#: largest difference that an archive may have to the network it was made from
TOLERANCE = 1e-4
_EXTRA = ("metadata.json", "inference.json")


@dataclass(frozen=True, slots=True)
class Scripted:
    """A network as TorchScript and how it was made."""

    program: Any  # torch.jit.ScriptModule
    method: str  #: ``script`` or ``trace``
    max_difference: float  #: to the network itself, on the example


@contextmanager
def _without_advice() -> Iterator[None]:
    """torch says at every call that torch.export is the future; `programs` makes such files, too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=getattr(torch.jit, "TracerWarning"))  # noqa: B009
        yield


def scripted(network: nn.Module, example: torch.Tensor) -> Scripted:
    """`network` as TorchScript on the CPU, in evaluation mode.

    Args:
        network: takes and gives one tensor; is left as it is.
        example: (1, C, ...) float32 of a shape that the network takes.

    Raises:
        InvalidParams: neither scripting nor tracing works, or the result computes something else.
    """
    with torch.no_grad():
        expected = network(example)
    if not torch.is_tensor(expected):
        raise InvalidParams(
            f"{type(network).__name__} gives {type(expected).__name__} instead of one tensor, which TorchScript users "
            "cannot take. Wrap it in a network that returns the scores alone."
        )
    reasons = []
    with _without_advice():
        for method in ("script", "trace"):
            prepared = _with_fast_convolutions(network)
            try:
                program = _script(prepared) if method == "script" else torch.jit.trace(prepared, example)
                with torch.no_grad():
                    found = program(example)
            except Exception as error:  # noqa: BLE001 - torch's compilers raise whatever they meet in the author's code
                reasons.append(f"{method}: {str(error).strip().splitlines()[0][:200] if str(error) else error!r}")
                continue
            difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
            if difference <= TOLERANCE:
                return Scripted(program, method, difference)
            reasons.append(f"{method}: differs by {difference:g} from the network")
    raise InvalidParams(
        f"{type(network).__name__} cannot be written as TorchScript ({'; '.join(reasons)}). Correct its code, or use "
        "a network of MONAI."
    )


def _script(network: nn.Module) -> Any:
    return torch.jit.script(network)


def save(program: Any, path: Path, metadata: JsonObject, inference: JsonObject) -> None:
    """Write an archive called like the file, with both documents under ``extra/``."""
    extra = {
        "metadata.json": json.dumps(metadata, indent=2).encode(),
        "inference.json": json.dumps(inference, indent=2).encode(),
    }
    with _without_advice():
        torch.jit.save(program, str(path), _extra_files=extra)


def load(path: Path, device: str = "cpu") -> Any:
    """The program of an archive, in evaluation mode.

    Raises:
        UnreadableFile: not TorchScript.
    """
    try:
        with _without_advice():
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(f"{path.name} cannot be read as TorchScript: {first}") from error


def documents(path: Path) -> dict[str, JsonObject]:
    """``metadata.json`` and ``inference.json`` inside an archive, as far as they are there; runs nothing of it.

    Raises:
        UnreadableFile: no TorchScript archive, or one of them is no JSON object.
    """
    if not is_torchscript(path):
        raise UnreadableFile(f"{path.name} is no TorchScript archive. It is made by torch.jit.save.")
    found = {}
    with zipfile.ZipFile(path) as archive:
        by_end = {name.partition("/")[2]: name for name in archive.namelist()}
        for wanted in _EXTRA:
            name = by_end.get(f"extra/{wanted}")
            if name is None:
                continue
            try:
                document = json.loads(archive.read(name))
            except ValueError as error:
                raise UnreadableFile(f"{wanted} inside {path.name} is no JSON: {error}") from error
            if not isinstance(document, dict):
                raise UnreadableFile(f"{wanted} inside {path.name} is no JSON object.")
            found[wanted] = document
    return found


def archive_root(path: Path) -> str:
    """The name under which the archive was saved."""
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()[0].partition("/")[0]


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with code of TorchScript; reads only its table of contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False
    return any("/code/" in name for name in names) and any(name.endswith("/data.pkl") for name in names)


class _FastConv3d(nn.Module):
    """A convolution that asks for oneDNN's kernel on a CPU, and for the usual one elsewhere."""

    def __init__(self, original: nn.Conv3d) -> None:
        super().__init__()
        weight = original.weight.detach().contiguous(memory_format=torch.channels_last_3d)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if original.bias is None else nn.Parameter(original.bias.detach(), requires_grad=False)
        self.stride: list[int] = [int(size) for size in original.stride]
        self.padding: list[int] = [int(size) for size in original.padding]
        self.dilation: list[int] = [int(size) for size in original.dilation]
        self.groups: int = int(original.groups)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _convolved(
            inputs, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        return result


def _convolution(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """Chooses where the program runs, also in a traced one."""
    if inputs.device.type == "cpu" and inputs.dtype == torch.float32 and weight.dtype == torch.float32:
        return torch.mkldnn_convolution(inputs, weight, bias, padding, stride, dilation, groups)
    return torch.conv3d(inputs, weight, bias, stride, padding, dilation, groups)


with _without_advice():
    _convolved = torch.jit.script(_convolution)


def untuned(network: nn.Module) -> nn.Module:
    """A copy for the CPU without what the server puts into the networks that it runs: fast paths and hooks."""
    if isinstance(network, torch.jit.ScriptModule):
        return network  # holds neither
    copy = deepcopy(network).to("cpu").eval()
    copy._forward_pre_hooks.clear()
    for module in copy.modules():
        module.__dict__.pop("forward", None)
    return copy


def _with_fast_convolutions(network: nn.Module) -> nn.Module:
    """A copy for the CPU whose plain 3-D convolutions are `_FastConv3d`: the same ones that the server tunes."""
    copy = untuned(network)
    if isinstance(copy, torch.jit.ScriptModule) or not torch.backends.mkldnn.is_available():
        return copy
    for parent in list(copy.modules()):
        for name, child in list(parent.named_children()):
            if _is_tuned(child):
                setattr(parent, name, _FastConv3d(child))
            elif type(child) is nn.Conv3d:
                child.weight.data = child.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return copy


def _is_tuned(module: nn.Module) -> TypeGuard[nn.Conv3d]:
    """As `labelserver.tasks.fast_forward.tune_for_cpu` decides."""
    if type(module) is not nn.Conv3d or module._forward_pre_hooks or module._forward_hooks:
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)

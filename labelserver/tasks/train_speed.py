"""Switches that make the arithmetic of a training faster: numbers of 16 bits, memory layout, compilation.

All of them sit in the network's `forward`, so that they hold for the engines' own steps and for those that an app
writes. Weights, gradients and the loss stay in 32 bits. None of them changes the names or shapes of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

import torch

from labelserver.domain.errors import InvalidParams
from labelserver.tasks import train_request as asked
from labelserver.tasks.train_sampled_dice import as_plain

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Precision(StrEnum):
    """Numbers that a network calculates with."""

    AUTO = "auto"  #: bf16 on a GPU that has it, else fp16 on a GPU, else fp32
    BF16 = "bf16"
    FP16 = "fp16"  #: with scaled losses, on a GPU alone
    FP32 = "fp32"


@dataclass(frozen=True, slots=True)
class Speed:
    """What a run uses."""

    precision: Precision  #: never `AUTO`
    channels_last: bool
    compiled: bool

    @property
    def scales_loss(self) -> bool:
        """Whether the engine's own mixed precision with its loss scaler is used."""
        return self.precision is Precision.FP16


def options() -> dict[str, Any]:
    """The switches as a trainer's config offers them."""
    return {"precision": [precision.value for precision in Precision], "channels_last": False, "compile": False}


def speed_of(request: Mapping[str, Any], device: torch.device, *, amp: bool) -> Speed:
    """What a request asks for on a device.

    Args:
        amp: whether the trainer's author allows numbers of 16 bits where the request leaves it open.

    Raises:
        InvalidParams: an unknown precision, or one that the device does not have.
    """
    text = asked.choice(request, "precision", Precision.AUTO.value)
    try:
        wanted = Precision(text)
    except ValueError:
        known = ", ".join(precision.value for precision in Precision)
        raise InvalidParams(f"precision is one of {known}; got {text[:40]!r}.") from None
    chosen = _automatic(device, amp=amp) if wanted is Precision.AUTO else wanted
    if chosen is Precision.FP16 and device.type != "cuda":
        raise InvalidParams("precision fp16 needs a GPU. Choose bf16, fp32 or auto.")
    if chosen is Precision.BF16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InvalidParams("This GPU does not calculate with bf16. Choose fp16, fp32 or auto.")
    return Speed(chosen, asked.truth(request, "channels_last", False), asked.truth(request, "compile", False))


def _automatic(device: torch.device, *, amp: bool) -> Precision:
    if not amp or device.type != "cuda":
        return Precision.FP32
    return Precision.BF16 if torch.cuda.is_bf16_supported() else Precision.FP16


def lay_out(network: torch.nn.Module, speed: Speed) -> None:
    """Let the weights of convolutions lie with their channels last, if asked for; to be called before the optimizer."""
    if not speed.channels_last:
        return
    for parameter in network.parameters():
        layout = _LAYOUTS.get(parameter.dim())
        if layout is not None:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def speed_up(network: torch.nn.Module, speed: Speed, device: torch.device, say: Callable[[str], None]) -> None:
    """Replace the network's `forward` by one that calculates as `speed` says, and answers in 32 bits.

    Args:
        say: told if the network cannot be compiled here; it then runs as it is.
    """
    if speed.precision is Precision.BF16 or speed.compiled:
        network.forward = _Fast(network, speed, device.type, say)


class _Fast:
    """Stands in for the `forward` of one network."""

    def __init__(self, network: torch.nn.Module, speed: Speed, device_type: str, say: Callable[[str], None]) -> None:
        self._network, self._speed, self._device_type, self._say = network, speed, device_type, say
        self._plain = partial(type(network).forward, network)
        self._compiled = torch.compile(self._plain) if speed.compiled else None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        narrow = self._speed.precision is Precision.BF16
        with torch.autocast(self._device_type, dtype=torch.bfloat16) if narrow else nullcontext():
            return _in_32_bits(self._answer(inputs, named))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Fast:
        """A copied network answers with its own weights, not compiled: copies are made to look at, not to train."""
        speed = replace(self._speed, compiled=False)
        return _Fast(deepcopy(self._network, memo), speed, self._device_type, self._say)

    def _answer(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self._compiled is None:
            return self._plain(*inputs, **named)
        try:
            return self._compiled(*(_bare(value) for value in inputs), **named)
        except RuntimeError as error:
            if not _of_compiler(error):
                raise
            self._compiled = None
            self._say(f"The network cannot be compiled here, so it runs as it is: {_first_line(error)}")
            return self._plain(*inputs, **named)


def _bare(value: Any) -> Any:
    """The compiler does not follow MONAI's metadata."""
    return as_plain(value) if isinstance(value, torch.Tensor) else value


def _in_32_bits(answer: Any) -> Any:
    if isinstance(answer, torch.Tensor):
        return answer.float() if answer.dtype is torch.bfloat16 else answer
    if isinstance(answer, list | tuple):
        return type(answer)(_in_32_bits(part) for part in answer)
    if isinstance(answer, dict):
        return {key: _in_32_bits(part) for key, part in answer.items()}
    return answer


def _of_compiler(error: RuntimeError) -> bool:
    """By its home: importing the compiler for its error types alone would cost every training a second."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""Let a network's 3-D convolutions run on the CPU's fast path.

Torch takes its oneDNN kernels for a convolution only if batch x channels x two axes of the input exceed a constant
(`use_mkldnn` in aten/native/Convolution.cpp, torch 2.13), and else one that is three to five times slower: a single
window of a small network falls below it. Here the kernel is asked for by name, and weights lie in channels-last order,
which it prefers. Numbers differ by rounding. Applies to the copies of networks that inference keeps, never to training.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import nn


def tune_for_cpu(network: nn.Module) -> nn.Module:
    """`network` itself, its weights in channels-last order and its plain 3-D convolutions on oneDNN."""
    plain = [module for module in network.modules() if type(module) is nn.Conv3d]
    if not plain or not torch.backends.mkldnn.is_available():
        return network
    for module in plain:
        module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        hooked = module._forward_pre_hooks or module._forward_hooks
        if module.padding_mode == "zeros" and not isinstance(module.padding, str) and not hooked:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
    return network


def _forward(self: nn.Conv3d, inputs: torch.Tensor) -> torch.Tensor:
    usual = inputs.ndim == 5 and inputs.dtype == self.weight.dtype == torch.float32 and inputs.numel() > 0
    if not usual or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return nn.Conv3d.forward(self, inputs)
    padding = [int(size) for size in self.padding]
    return torch.mkldnn_convolution(inputs, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)

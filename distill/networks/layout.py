"""How a network lies in memory while it is trained: channels last, but where PyTorch's kernels for that crash.

Owns: `channels_last`. Does not own: pixels (batches.py), the loop (fit.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def channels_last(network: nn.Module) -> None:
    """Lay a network out channels last, in place, for the forward and backward pass of training.

    The backward pass of a 1 x 1 convolution of stride 2 with 2 to 15 input channels ends in a segmentation fault there (oneDNN's, in
    PyTorch 2.14 on a processor with AVX-512; the stems of FastViT, MobileOne and RepVGG hold one): such layers stay as they were, and so do
    networks of volumes.
    """
    if any(parameter.ndim == 5 for parameter in network.parameters()):  # 3D convolutions train half as fast there on a CPU
        return
    network.to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _crashes(module):
            # Of a 1 x 1 kernel both layouts look alike to contiguous(); only a clone gets the other strides.
            module.weight.data = module.weight.data.clone(memory_format=torch.contiguous_format)
            if _contiguous not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_contiguous)


def _crashes(conv: nn.Conv2d) -> bool:
    return set(conv.kernel_size) == {1} and max(conv.stride) > 1 and conv.in_channels < 16 and conv.groups == 1


def _contiguous(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Hand a layer its input channels first."""
    return tuple(value.contiguous() for value in inputs)

"""Channels last in training, and the layers that PyTorch cannot train so: their gradients are those of plain tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distill.networks.layout import channels_last


@pytest.mark.parametrize(("wide", "stride"), [(3, 2), (15, 2), (16, 2), (3, 1), (1, 2)])
def test_gradients_are_those_of_the_plain_layout(wide: int, stride: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(wide, 24, 1, stride, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 8, 3, padding=1))
    reference, pixels = copy.deepcopy(network).double(), torch.randn(8, wide, 24, 24)
    channels_last(network)
    channels_last(network)  # a second training of the same network
    for _ in range(3):  # the fault damages memory before it ends the process
        network(pixels.contiguous(memory_format=torch.channels_last)).square().mean().backward()
        reference(pixels.double()).square().mean().backward()
    for own, other in zip(network.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(own.grad.double(), other.grad, rtol=1e-3, atol=1e-5)  # type: ignore[union-attr]


def test_other_layers_lie_channels_last() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 1, 2))
    channels_last(network)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(module._forward_pre_hooks for module in network)

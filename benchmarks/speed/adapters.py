"""What adapters cost, as ratios: a forward of the stacked form against the plain teacher and a loop over experts; starts from an SVD.

Owns: the sub-command adapters of command.py. Does not own: flags and files (command.py), what adapters achieve (accuracy/adapters.py).
"""

from __future__ import annotations

import copy
import resource
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import interleave, ratio, timed
from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import choose_layers, insert
from distill.adapters.layer import Adapter, adapters_of
from distill.adapters.spectral import start_from_svd
from distill.networks.nets import build_net

# Network, side, largest adapter in shares of its layer (--adapt-share; 1: beside every layer as wide as the rank).
TEACHERS = (("vit_base_patch16_224", 224, 0.5), ("tf_efficientnet_lite2", 224, 0.5), ("tf_efficientnet_lite2", 224, 1.0))
KINDS = {"lora, rank 32": AdapterSpec(1, 32, 2.0), "spectral, 8 x 4, top 2": AdapterSpec(8, 4, 16.0, "linear", top_k=2),
         "soft, 8 x 4": AdapterSpec(8, 4, 1.0, "mlp")}


class Loop(nn.Module):
    """The same adapter, expert by expert."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, inputs: Tensor) -> Tensor:
        """The stacked form's answer, one expert after another."""
        adapter, rank = self.adapter, self.adapter.spec.rank
        gates = adapter.gates(inputs)
        total: Tensor = adapter.base(inputs)
        for index in range(adapter.spec.experts):
            down, up = adapter.down.weight[index * rank:(index + 1) * rank], adapter.up.weight[:, index * rank:(index + 1) * rank]  # type: ignore[index]
            if isinstance(adapter.down, nn.Conv2d):
                low = adapter.down._conv_forward(inputs, down, None)
                one = nn.functional.conv2d(low, up)
                share = 1.0 if gates is None else gates[:, index:index + 1]
            else:
                one = nn.functional.linear(nn.functional.linear(inputs, down), up)
                share = 1.0 if gates is None else gates[..., index:index + 1]
            total = total + adapter.spec.scale * share * one
        return total


def adapters(samples: int, rounds: int, batch: int = 16) -> dict[str, Any]:
    """Forward at batch 16 and total rank 32: plain, stacked (goal 1.25), by a loop; then the SVD start of a ViT-L."""
    rows: dict[str, Any] = {}
    for arch, side, share in TEACHERS:
        plain = build_net(arch, side, side, 10).eval().to(memory_format=torch.channels_last)
        pixels = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
        nets: dict[str, nn.Module] = {"plain": plain}
        for name, spec in KINDS.items():
            net = copy.deepcopy(plain)
            insert(net, dict.fromkeys(choose_layers(net, "all-linear", 32, 32, share).layers, spec))
            nets[name] = net.eval().to(memory_format=torch.channels_last)
        nets["spectral, by a loop"] = looped(nets["spectral, 8 x 4, top 2"])
        with torch.no_grad():
            difference = (nets["spectral, by a loop"](pixels) - nets["spectral, 8 x 4, top 2"](pixels)).abs().max()
            assert float(difference) < 1e-3, difference
            found = interleave({name: lambda net=net, pixels=pixels: [timed(lambda: net(pixels))[0] for _ in range(samples)]  # type: ignore[misc]
                                for name, net in nets.items()}, rounds)
        goal = {name: f"{name} / plain{'' if 'loop' in name else ' (goal 1.25)'}" for name in nets if name != "plain"}
        rows[f"{arch} {side} px, --adapt-share {share:g}"] = found | {text: ratio(found[name], found["plain"])
                                                                      for name, text in goal.items()}
    rows["vit_large_patch16_224"] = svd_start()
    return rows


def looped(net: nn.Module) -> nn.Module:
    """A copy whose adapters go expert by expert."""
    made = copy.deepcopy(net)
    for name, adapter in list(adapters_of(made)):
        parent, _, own = name.rpartition(".")
        setattr(made.get_submodule(parent), own, Loop(adapter))
    return made


def svd_start() -> dict[str, Any]:
    """Seconds to start spectral experts in every linear layer of a ViT-L, and the process's peak memory before and after."""
    net = build_net("vit_large_patch16_224", 224, 224, 10)
    spec = KINDS["spectral, 8 x 4, top 2"]
    insert(net, dict.fromkeys(choose_layers(net, "all-linear", 32, 32).layers, spec))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    found = [adapter for _, adapter in adapters_of(net)]
    for adapter in found:
        start_from_svd(adapter)
    return {"layers": len(found), "SVD start s": time.perf_counter() - start, "peak memory before MiB": before / 1024,
            "peak memory after MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

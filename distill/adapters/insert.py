"""Where adapters go: layers of a network chosen by kind, wrapped in place, and found unused ones taken out again.

Owns: the choice of layers and why a layer is left alone, inserting from specs, freezing the rest. Does not own: the adapter
itself (adapters.py), starts from an SVD (spectral.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distill.adapters.experts import AdapterSpec
from distill.adapters.layer import Adapter, adapters_of
from runtimes.errors import USAGE, UserError

Layers = Literal["all-linear", "attention", "mlp", "pointwise"]
POOLED = "rd_pooled"  # the adapter of pooled features: no layer of the network, run behind its pool
SLICES = "rd_slices"  # the pooling of a volume's slices: no layer of the network either
ATTENTION = re.compile(r"(^|\.)(\w*attn\w*|\w*attention\w*)(\.|$)")
MLP = re.compile(r"(^|\.)(mlp\w*|ffn|feed_forward|intermediate|fc[12]|w[123])(\.|$)")


@dataclass(frozen=True)
class LayerChoice:
    """Names of the layers that get an adapter, and of those left alone with the reason."""

    layers: tuple[str, ...]
    left: dict[str, str]


def choose_layers(net: nn.Module, kind: Layers, least: int = 1, ranks: int = 1, share: float = 1.0) -> LayerChoice:
    """Layers of a kind, in the network's order; `least` is the smallest min(inputs, outputs) an adapter fits beside.

    A layer whose factors of so many ranks would hold more than `share` of its own weights is left alone: beside it an adapter is
    not low-rank, and costs more time than all others.

    all-linear: every linear layer and every ungrouped convolution. attention, mlp: the linear layers of blocks named so.
    pointwise: 1x1 convolutions. The classifier is never chosen. Raises UserError (exit 2) when no layer matches.
    """
    layers, left = [], {}
    last = set(_classifier(net)) | {f"{SLICES}.look", f"{SLICES}.weigh"}
    for name, module in net.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d) or name in last:
            continue
        if not _of_kind(name, module, kind):
            continue
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            left[name] = "depthwise" if module.groups == module.in_channels else f"{module.groups} groups"
        elif min(module.weight.shape[0], module.weight[0].numel()) < least:
            left[name] = f"too small for rank {least}"
        elif ranks * (module.weight.shape[0] + module.weight[0].numel()) > share * module.weight.numel():
            left[name] = f"too small for an adapter of at most {share:g} of its weights"
        else:
            layers.append(name)
    if not layers:
        kinds = ", ".join(option for option in ("all-linear", "attention", "mlp", "pointwise")
                          if any(_of_kind(name, module, option) for name, module in net.named_modules()))  # type: ignore[arg-type]
        raise UserError(f"--adapt-layers {kind} matches no layer that takes rank {least} ({len(left)} too small or grouped); "
                        f"this network has {kinds or 'no such layers'}; choose another kind, a lower --rank or a higher --adapt-share",
                        USAGE)
    return LayerChoice(tuple(layers), left)


def _classifier(net: nn.Module) -> list[str]:
    head = net.get_classifier() if hasattr(net, "get_classifier") else None  # type: ignore[operator]
    return [name for name, module in net.named_modules() if module is head]


def _of_kind(name: str, module: nn.Module, kind: Layers) -> bool:
    if isinstance(module, nn.Conv2d):
        return kind == "all-linear" or (kind == "pointwise" and module.kernel_size == (1, 1))
    if not isinstance(module, nn.Linear) or kind == "pointwise":
        return False
    inside = bool(ATTENTION.search(name))
    return kind == "all-linear" or (kind == "attention" and inside) or (kind == "mlp" and not inside and bool(MLP.search(name)))


def insert(net: nn.Module, specs: Mapping[str, AdapterSpec], width: int = 0) -> None:
    """Freeze a network and wrap the named layers, in place; an unknown name is an error. width: that of pooled features."""
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    for name, spec in specs.items():
        if name == POOLED:
            setattr(net, POOLED, Adapter(nn.Identity(), spec, width))
            continue
        parent, _, own = name.rpartition(".")
        try:
            holder = net.get_submodule(parent)
            base = net.get_submodule(name)
        except AttributeError:
            raise UserError(f"adapters name the layer {name}, which this network lacks: they belong to another teacher") from None
        setattr(holder, own, Adapter(base, spec))


def remove(net: nn.Module, name: str) -> None:
    """Put a frozen layer back in the place of its adapter."""
    parent, _, own = name.rpartition(".")
    adapter = net.get_submodule(name)
    assert isinstance(adapter, Adapter)
    setattr(net.get_submodule(parent), own, adapter.base)


def remove_unused(net: nn.Module, run: Callable[[], Tensor]) -> list[str]:
    """Take out adapters that a forward pass does not call: some networks read a layer's weight instead of calling it."""
    called: set[str] = set()
    handles = [adapter.register_forward_hook(lambda *_, name=name: called.add(name)) for name, adapter in adapters_of(net)]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    unused = [name for name, _ in adapters_of(net) if name not in called]
    for name in unused:
        remove(net, name)
    return unused


def added_parameters(net: nn.Module) -> int:
    """Parameters that adapters bring: factors and gates."""
    return sum(parameter.numel() for _, adapter in adapters_of(net) for name, parameter in adapter.named_parameters()
               if not name.startswith("base."))

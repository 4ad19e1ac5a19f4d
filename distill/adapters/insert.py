"""Where adapters go: layers of a network chosen by kind, wrapped in place, and found unused ones taken out again.

Owns: the choice of layers and why a layer is left alone, inserting from specs, freezing the rest. Does not own: the adapter
itself (adapters.py), starts from an SVD (spectral.py).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
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
Kind = Literal["attention", "mlp"]
# Names of blocks, and of the layers in a block that make it attention whatever its own name is.
ATTENTION = re.compile(r"\w*(attn|attention)\w*")
MLP = re.compile(r"\w*mlp\w*|ffn\w*|feed_forward")
QUERIES = re.compile(r"(to_|w)?(q|k|v|qk|kv|qkv)s?(_proj)?|(to_)?(query|queries|keys?|values?)(_\w+)?")
COORDINATES = 3  # inputs at most of an MLP that makes biases of places, as in Swin V2: it belongs to its attention


@dataclass(frozen=True)
class LayerChoice:
    """Names of the layers that get an adapter, and of those left alone with the reason."""

    layers: tuple[str, ...]
    left: dict[str, str]


def choose_layers(net: nn.Module, kind: Layers, least: int = 1, ranks: int = 1, share: float = 1.0) -> LayerChoice:
    """Layers of a kind, in the network's order; `least` is the smallest min(inputs, outputs) an adapter fits beside.

    A layer whose factors of so many ranks would hold more than `share` of its own weights is left alone: beside it an adapter is
    not low-rank, and costs more time than all others.

    all-linear: every linear layer and every ungrouped convolution. attention, mlp: see kinds_of. pointwise: 1x1 convolutions. The
    classifier is never chosen, nor what is no layer of the network. Raises UserError (exit 2) when no layer matches.
    """
    layers, left = [], {}
    candidates, kinds = _candidates(net), kinds_of(net)
    of_kind: dict[str, list[str]] = {
        "all-linear": list(candidates), **{own: [name for name in kinds if kinds[name] == own] for own in ("attention", "mlp")},
        "pointwise": [name for name, module in candidates.items() if _is_1x1(module)]}
    for name in of_kind[kind]:
        module = candidates[name]
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            left[name] = "depthwise" if module.groups == module.in_channels else f"{module.groups} groups"
        elif not _is_linear_in_its_weight(module):
            left[name] = "of standardised weights"
        elif min(module.weight.shape[0], module.weight[0].numel()) < least:
            left[name] = f"too small for rank {least}"
        elif ranks * (module.weight.shape[0] + module.weight[0].numel()) > share * module.weight.numel():
            left[name] = f"too small for an adapter of at most {share:g} of its weights"
        else:
            layers.append(name)
    if not layers:
        options = ", ".join(option for option, names in of_kind.items() if names)
        reasons = [*left.values()]
        counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))
        raise UserError(f"--adapt-layers {kind} matches no layer that takes rank {least} ({counts or 'there is none of that kind'}); "
                        f"this network has {options or 'no such layers'}; choose another kind, a lower --rank or a higher --adapt-share",
                        USAGE)
    return LayerChoice(tuple(layers), left)


def _classifier(net: nn.Module) -> list[str]:
    head = net.get_classifier() if hasattr(net, "get_classifier") else None  # type: ignore[operator]
    return [name for name, module in net.named_modules() if module is head]


def _candidates(net: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Layers that could take an adapter, by name: not the classifier, and nothing of ours that hangs on the network."""
    last = _classifier(net)
    return {name: module for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d) and name not in last
            and name.split(".")[0] not in (POOLED, SLICES)}


def _is_1x1(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)


def _is_dense(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1)


def _is_linear_in_its_weight(module: nn.Linear | nn.Conv2d) -> bool:
    """Whether a change of a layer's weight is a change of its output: not where it standardises its weight first, as in BiT or NFNet."""
    if type(module).forward in (nn.Linear.forward, nn.Conv2d.forward):
        return True
    shape = (1, module.in_features) if isinstance(module, nn.Linear) else (1, module.in_channels, *module.kernel_size)
    inputs = torch.linspace(0, 1, math.prod(shape)).view(shape)
    double = copy.deepcopy(module).cpu().float()
    double.bias = None
    with torch.no_grad():
        before = double(inputs)
        double.weight.mul_(2)
        return bool((double(inputs) - 2 * before).norm() < 0.01 * before.norm())


def kinds_of(net: nn.Module) -> dict[str, Kind]:
    """Which linear layers, and 1x1 convolutions in their place, belong to attention and which to an MLP, in the network's order.

    The innermost block around a layer decides. It is attention if it projects to queries, keys or values, or is named so (of linear
    layers alone: convolutions named so weigh channels); an MLP if it is named so and takes more than coordinates, or if its linear
    layers widen and come back to where they started. A layer in neither (patches, shortcuts, pooler) is on no list.
    """
    layers = {name: module for name, module in _candidates(net).items() if _is_dense(module)}
    kinds = {name: kind for name in layers if (kind := _kind_by_blocks(net, name)) is not None}
    blocks: dict[str, list[str]] = {}
    for name, layer in layers.items():
        if name not in kinds and isinstance(layer, nn.Linear):
            for block in _blocks(name)[:2]:  # fc1 beside fc2, or intermediate.dense beside output.dense
                blocks.setdefault(block, []).append(name)
    for block, names in blocks.items():
        first, last = layers[names[0]].weight, layers[names[-1]].weight
        if not isinstance(net.get_submodule(block), nn.ModuleList) and first.shape[1] == last.shape[0] < last.shape[1]:
            kinds |= dict.fromkeys(names, "mlp")
    return {name: kinds[name] for name in layers if name in kinds}


def _blocks(name: str) -> list[str]:
    """Names of the modules around a layer, the innermost first; the network itself is not among them."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _kind_by_blocks(net: nn.Module, name: str) -> Kind | None:
    """What the blocks around a layer say by their names, or by those of the layers in them."""
    for block in _blocks(name):
        module, own = net.get_submodule(block), block.rpartition(".")[2]
        if MLP.fullmatch(own) and next(_widths(module), 0) > COORDINATES:
            return "mlp"
        if any(QUERIES.fullmatch(child) and any(_widths(part)) for child, part in module.named_children()) or (
                ATTENTION.fullmatch(own) and isinstance(net.get_submodule(name), nn.Linear)):
            return "attention"
    return None


def _widths(module: nn.Module) -> Iterator[int]:
    """Inputs of the linear layers in a module, and of 1x1 convolutions in their place."""
    return (layer.weight.shape[1] for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d) and _is_dense(layer))


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


def remove_unused(net: nn.Module, names: Iterable[str], run: Callable[[], object]) -> list[str]:
    """Take out those of the named adapters that a forward pass does not call, in training or in evaluation, and return their names.

    Some networks read a layer's weight instead of calling it, always or only without gradients. run: forward passes in both modes; no
    adapter adds anything or learns in them, and none is watched by a hook, since PyTorch leaves its fast paths where it meets one.
    """
    called: dict[bool, set[str]] = {False: set(), True: set()}
    adapters = {name: adapter for name, adapter in adapters_of(net) if name in set(names)}

    def watched(name: str, adapter: Adapter) -> Callable[[Tensor], Tensor]:
        def forward(inputs: Tensor) -> Tensor:
            called[adapter.training].add(name)
            return adapter.base(inputs)  # type: ignore[no-any-return]

        return forward

    for name, adapter in adapters.items():
        adapter.forward = watched(name, adapter)  # type: ignore[assignment,method-assign]
    try:
        with torch.no_grad():
            run()
    finally:
        for adapter in adapters.values():
            del adapter.forward
    unused = [name for name in adapters if not (name in called[False] and name in called[True])]
    for name in unused:
        remove(net, name)
    return unused


def added_parameters(net: nn.Module) -> int:
    """Parameters that adapters bring: factors and gates."""
    return sum(parameter.numel() for _, adapter in adapters_of(net) for name, parameter in adapter.named_parameters()
               if not name.startswith("base."))

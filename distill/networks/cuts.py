"""What pruning left of a network, as data: shapes of the tensors and sizes that modules remember, replayed on a fresh network.

Owns: reading the cuts off a pruned network, making them on a fresh one. Does not own: which channels go (prune.py), their weights,
which a folder's file holds. Needs no pruning library: a folder must load whatever becomes of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from runtimes.errors import UserError

Cuts = Mapping[str, Any]  # {"shapes": {tensor: [sizes]}, "sizes": {module: {attribute: number or list}}}


def read_cuts(whole: nn.Module, pruned: nn.Module) -> Cuts:
    """The cuts that turn a fresh `whole` network into one shaped as `pruned`, ready for JSON; empty when nothing was cut."""
    was = {name: list(tensor.shape) for name, tensor in _tensors(whole)}
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(pruned) if list(tensor.shape) != was[name]}
    sizes = {}
    modules = dict(whole.named_modules())
    for name, module in pruned.named_modules():
        before = _remembered(modules[name])
        changed = {key: value for key, value in _remembered(module).items() if value != before[key]}
        if changed:
            sizes[name] = changed
    return {"shapes": shapes, "sizes": sizes} if shapes or sizes else {}


def make_cuts(net: nn.Module, cuts: Cuts) -> None:
    """Shape a fresh network as the cuts say, in place; its cut tensors are zeros until weights are loaded strictly."""
    tensors, modules = dict(_tensors(net)), dict(net.named_modules())
    for name, shape in cuts.get("shapes", {}).items():
        if name not in tensors:
            raise UserError(f"the cuts name {name}, which this network lacks; it was pruned from another network or timm version")
        tensor = tensors[name]
        if len(shape) != tensor.ndim or any(not 0 < size <= most for size, most in zip(shape, tensor.shape, strict=True)):
            raise UserError(f"the cuts give {name} the shape {list(shape)}, of {list(tensor.shape)} at most; "
                            "it was pruned from another network or timm version")
        owner, _, own = name.rpartition(".")
        fresh: Tensor = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
        setattr(modules[owner], own, nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh)
    for name, sizes in cuts.get("sizes", {}).items():
        before = _remembered(modules[name]) if name in modules else {}
        if any(key not in before or isinstance(value, int) != isinstance(before[key], int) for key, value in sizes.items()) or not before:
            raise UserError(f"the cuts name {name} and its {', '.join(sizes)}, which this network lacks; "
                            "it was pruned from another network or timm version")
        for key, value in sizes.items():
            setattr(modules[name], key, value if isinstance(value, int) else tuple(value))


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters(remove_duplicate=False)
    yield from net.named_buffers(remove_duplicate=False)


def _remembered(module: nn.Module) -> dict[str, Any]:
    """The numbers a module keeps beside its tensors: channels, groups, heads, normalised shapes."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(module).items()
            if not key.startswith("_") and not isinstance(value, bool)
            and (isinstance(value, int) or (isinstance(value, tuple) and all(isinstance(item, int) for item in value)))}

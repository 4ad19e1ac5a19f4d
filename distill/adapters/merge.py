"""Folding adapters into plain weights: exact where gates are constant, and a measured approximation where they are not.

Owns: the merged weight, the mean-gate fold, the least-squares fold, the error of a fold per layer. Does not own: training
that makes gates constant (adapt.py), what a fold does to decisions (commands).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.adapters.insert import remove
from distill.adapters.layer import Adapter, adapters_of


def constant_gates(adapter: Adapter) -> Tensor | None:
    """Gates (E,) that no longer depend on the input, in float64; None while they do."""
    if adapter.router is None:
        return torch.ones(adapter.spec.experts, dtype=torch.float64)
    if adapter.router.share != 0.0:
        return None
    training = adapter.router.training
    adapter.router.eval()
    with torch.no_grad():
        gates = adapter.router(adapter.router.bias.new_zeros(1, 1)).double()[0]
    adapter.router.train(training)
    return gates  # type: ignore[no-any-return]


@torch.no_grad()
def weight_change(adapter: Adapter, gates: Tensor) -> Tensor:
    """s sum_i g_i B_i A_i, (m, n) in float64, for gates (E,)."""
    down, up = adapter.factors
    spread = gates.double().repeat_interleave(adapter.spec.rank)
    return adapter.spec.scale * (up.double() * spread) @ down.double()


@torch.no_grad()
def fold(net: nn.Module, name: str, change: Tensor, shift: Tensor | None = None) -> None:
    """Add a change (m, n), float64, to a frozen layer's weight, cast once, and take its adapter out; shift (m,) to its bias."""
    adapter = net.get_submodule(name)
    assert isinstance(adapter, Adapter)
    base = adapter.base
    assert isinstance(base, nn.Linear | nn.Conv2d)
    base.weight.copy_((base.weight.double().flatten(1) + change).to(base.weight.dtype).view_as(base.weight))
    if shift is not None:
        if base.bias is None:
            base.bias = nn.Parameter(torch.zeros_like(base.weight[:, 0].flatten(1)[:, 0]), requires_grad=False)
        base.bias.copy_((base.bias.double() + shift).to(base.bias.dtype))
    remove(net, name)


def merge_exact(net: nn.Module) -> list[str]:
    """Fold every adapter whose gates are constant; returns the names of those that had to stay."""
    stay = []
    for name, adapter in list(adapters_of(net)):
        gates = constant_gates(adapter) if adapter.foldable else None
        if gates is None:
            stay.append(name)
        else:
            fold(net, name, weight_change(adapter, gates))
    return stay


@dataclass
class FoldMoments:
    """What one adapter saw over calibration inputs: gate sums, second moments of its input, products with its change."""

    count: int = 0
    gates: Tensor | None = None
    inputs: Tensor | None = None
    moments: Tensor | None = None
    changes: Tensor | None = None
    products: Tensor | None = None
    gate_rows: int = 0


@torch.no_grad()
def watch(net: nn.Module, batches: Iterable[Any], run: Callable[[Any], Tensor], *, moments: bool) -> dict[str, FoldMoments]:
    """Run calibration batches and collect, for each adapter with a gate, what its folds need; `moments` for least squares."""
    statistics = {name: FoldMoments() for name, adapter in adapters_of(net) if adapter.router is not None and adapter.foldable}

    def look(name: str, adapter: Adapter, inputs: Tensor) -> None:
        sums = statistics[name]
        gates = adapter.gates(inputs)
        assert gates is not None
        mean = _rows(adapter, gates).double()
        sums.gates = mean.sum(0) + (0 if sums.gates is None else sums.gates)
        sums.gate_rows += len(mean)
        if moments:
            x = unfolded(adapter, inputs).double()
            y = _rows(adapter, adapter.change(inputs)).double()
            sums.count += len(x)
            for slot, value in (("inputs", x.sum(0)), ("moments", x.T @ x), ("changes", y.sum(0)), ("products", y.T @ x)):
                total = getattr(sums, slot)
                setattr(sums, slot, value if total is None else total + value)

    with _hooks(net, look):
        for batch in batches:
            run(batch)
    return statistics


def mean_gates(statistics: FoldMoments) -> Tensor:
    """Gates averaged over the calibration inputs, (E,) float64."""
    assert statistics.gates is not None
    return statistics.gates / statistics.gate_rows


def least_squares(statistics: FoldMoments, ridge: float = 1e-6) -> tuple[Tensor, Tensor]:
    """The linear map (m, n) and shift (m,) nearest to the routed change over the calibration inputs, float64.

    min E |c(x) - M x - b|^2 from centred moments, with a ridge relative to the mean eigenvalue (METHODS 5.3).
    """
    assert statistics.inputs is not None
    assert statistics.moments is not None
    assert statistics.changes is not None
    assert statistics.products is not None
    x, y = statistics.inputs / statistics.count, statistics.changes / statistics.count
    covariance = statistics.moments / statistics.count - torch.outer(x, x)
    cross = statistics.products / statistics.count - torch.outer(y, x)
    covariance += torch.eye(len(x), dtype=covariance.dtype) * (ridge * covariance.diagonal().mean() + 1e-30)
    mapped = torch.linalg.solve(covariance, cross.T).T
    return mapped, y - mapped @ x


@torch.no_grad()
def fold_errors(net: nn.Module, folds: dict[str, tuple[Tensor, Tensor | None]], batches: Iterable[Any],
                run: Callable[[Any], Tensor]) -> dict[str, dict[str, float]]:
    """Relative errors of folds on inputs they were not fitted on, by layer: of the change alone and of the whole output.

    |c(x) - fold(x)| / |c(x)| and / |base(x) + c(x)|, root sums of squares over all places.
    """
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in folds}

    def look(name: str, adapter: Adapter, inputs: Tensor) -> None:
        if name not in folds:
            return
        change, shift = folds[name]
        exact = _rows(adapter, adapter.change(inputs)).double()
        folded = unfolded(adapter, inputs).double() @ change.T + (0 if shift is None else shift)
        whole = _rows(adapter, adapter.base(inputs)).double() + exact
        sums[name] += torch.stack([(exact - folded).pow(2).sum(), exact.pow(2).sum(), whole.pow(2).sum()])

    with _hooks(net, look):
        for batch in batches:
            run(batch)
    return {name: {"of_change": float((squares[0] / squares[1].clamp_min(1e-30)).sqrt()),
                   "of_output": float((squares[0] / squares[2].clamp_min(1e-30)).sqrt())} for name, squares in sums.items()}


def unfolded(adapter: Adapter, inputs: Tensor) -> Tensor:
    """An adapter's inputs as rows (places, n), as its flattened A multiplies them."""
    if adapter.stride is None:
        return inputs.flatten(0, -2)
    base = adapter.down
    assert isinstance(base, nn.Conv2d)
    if adapter.pointwise:
        return inputs[:, :, ::base.stride[0], ::base.stride[1]].permute(0, 2, 3, 1).flatten(0, 2)
    # The layer itself cuts the patches: one-hot kernels, so padding is whatever the layer does.
    kernel = base.weight[0].numel()
    weight = base.weight
    base.weight = nn.Parameter(torch.eye(kernel, dtype=inputs.dtype, device=inputs.device).view(kernel, *weight.shape[1:]),
                               requires_grad=False)
    try:
        return base(inputs).permute(0, 2, 3, 1).flatten(0, 2)  # type: ignore[no-any-return]
    finally:
        base.weight = weight


def _rows(adapter: Adapter, values: Tensor) -> Tensor:
    return values.flatten(0, -2) if adapter.stride is None else values.permute(0, 2, 3, 1).flatten(0, 2)


@contextmanager
def _hooks(net: nn.Module, look: Callable[[str, Adapter, Tensor], None]) -> Iterator[None]:
    handles = [adapter.register_forward_pre_hook(lambda module, args, name=name: look(name, module, args[0]))
               for name, adapter in adapters_of(net) if adapter.router is not None and adapter.foldable]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Experts that start from segments of a layer's singular value decomposition, with the residual folded into the frozen weight.

Owns: the start of Sparse Spectral LoRA (arXiv 2604.01310, GOAT arXiv 2502.16894) and of PiSSA. Does not
own: the adapter layer (adapters.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.adapters.layer import Adapter
from runtimes.errors import UserError


def spectral_factors(weight: Tensor, experts: int, rank: int, *, scale: float, rho: float) -> tuple[Tensor, Tensor]:
    """Stacked A (E r, n) and B (m, E r) of a weight (m, n): expert j takes the first r triplets of its segment.

    B_j = (s rho)^-1/2 U S^1/2 and A_j = (s rho)^-1/2 S^1/2 V^T (GOAT eq. 13 and 19); segments are floor(min(m, n) / E) long.
    Raises UserError when a segment holds fewer than r triplets.
    """
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    segment = len(values) // experts
    if rank > segment:
        raise UserError(f"a layer of {weight.shape[0]} x {weight.shape[1]} has {len(values)} singular values: too few for {experts} "
                        f"experts of rank {rank}; lower --rank or --experts")
    places = torch.cat([torch.arange(rank) + index * segment for index in range(experts)]).to(weight.device)
    root = (values[places] / (scale * rho)).sqrt()
    return root[:, None] * right[places], left[:, places] * root


@torch.no_grad()
def start_from_svd(adapter: Adapter, *, rho: float = 10.0) -> None:
    """Start an adapter's experts from its layer's spectrum and take their mean out of the frozen weight, in place.

    W_res = (s / E) sum_j B_j A_j (GOAT theorem 3.4), in float64, subtracted once. One expert and rho 1 is PiSSA.
    """
    spec, base = adapter.spec, adapter.base
    assert isinstance(base, nn.Linear | nn.Conv2d)
    flat = base.weight.flatten(1)
    down, up = spectral_factors(flat, spec.experts, spec.rank, scale=spec.scale, rho=rho)
    for layer, factor in ((adapter.down, down), (adapter.up, up)):
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        layer.weight.copy_(factor.view(layer.weight.shape))
    own_down, own_up = adapter.factors  # as stored, in the layer's own precision
    residual = spec.scale / spec.experts * own_up.double() @ own_down.double()
    base.weight.copy_((flat.double() - residual).to(base.weight.dtype).view_as(base.weight))

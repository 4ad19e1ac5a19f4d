"""From the features of a volume's slices to one feature of the volume: attention over slices, or their mean.

Owns: SlicePool, the mean over slices that a probe takes. Does not own: features of slices (models.py), what is a slice (volumes.py).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["attention", "mean"]
HIDDEN = 64


class SlicePool(nn.Module):
    """v = sum_s a_s h_s, a = softmax over the slices that are there of w . tanh(V h_s); or their mean, a_s = 1 / n.

    Attention as MoLRE pools slices (arXiv 2603.00675; its exact form is not published, this is that of Ilse et al. 2018 for bags of
    instances). w starts at zero, so that attention starts as the mean.
    """

    def __init__(self, width: int, pooling: Pooling) -> None:
        super().__init__()
        self.look = nn.Linear(width, HIDDEN) if pooling == "attention" else None
        self.weigh = nn.Linear(HIDDEN, 1, bias=False) if pooling == "attention" else None
        if self.weigh is not None:
            nn.init.zeros_(self.weigh.weight)

    def weights(self, slices: Tensor, mask: Tensor) -> Tensor:
        """What each slice weighs, (B, S), of features (B, S, D) and a mask (B, S) that is above 0 where a slice is there."""
        scores = mask.new_zeros(mask.shape) if self.look is None or self.weigh is None else (
            self.weigh(torch.tanh(self.look(slices))).squeeze(-1))
        return torch.softmax(torch.where(mask > 0, scores.float(), torch.full_like(scores, -1e9, dtype=torch.float32)), dim=1)

    def forward(self, slices: Tensor, mask: Tensor) -> Tensor:
        """The volume's feature (B, D)."""
        return weighted(slices, self.weights(slices, mask))


def weighted(slices: Tensor, weights: Tensor) -> Tensor:
    """Sum over slices (B, S, D) by weights (B, S)."""
    return (weights.to(slices.dtype).unsqueeze(-1) * slices).sum(dim=1)


def mean_of_slices(slices: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the slices that are there: features (B, S, D), mask (B, S), to (B, D); without a mask they are whole images' already."""
    if mask is None:
        return slices
    there = (mask > 0).to(slices.dtype)
    return weighted(slices, there / there.sum(dim=1, keepdim=True))

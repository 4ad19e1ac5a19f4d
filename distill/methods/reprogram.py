"""Bridges between banked teacher features and the student's feature space: RD's reprogramming module, FitNet's projection, CRD's.

Owns: the residual block phi, the projections of hints and contrasts. Does not own: the statistics that standardise their input
(probe.py), the shared classifier, losses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Reprogram(nn.Module):
    """phi(f) = E(h + W2 drop(GELU(W1 LN(h)))), h = P drop((f - mean) / sd): a residual block, (B, D) to (B, d).

    RD (arXiv 2407.06504) picks "an ordinary residual block"; W2 starts at zero, so phi starts as a linear map. The block
    is `inner` wide, whatever the student: at the width of a small student it would cost a quarter of the student's step.
    """

    mean: Tensor
    sd: Tensor
    reprograms = True

    def __init__(self, mean: Tensor, sd: Tensor, width: int, *, inner: int = 128, dropout: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("sd", sd.float())
        self.drop = nn.Dropout(dropout)
        self.project = nn.Linear(mean.numel(), inner)
        self.norm = nn.LayerNorm(inner)
        self.widen = nn.Linear(inner, inner)
        self.narrow = nn.Linear(inner, inner)
        self.gelu = nn.GELU()
        self.expand = nn.Linear(inner, width)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Teacher features (B, D) to reprogrammed features (B, d)."""
        start = self.project(self.drop((features - self.mean) / self.sd))
        return self.expand(start + self.narrow(self.drop(self.gelu(self.widen(self.norm(start))))))  # type: ignore[no-any-return]

    @torch.no_grad()
    def target(self, features: Tensor) -> Tensor:
        """The block in eval mode without gradient: what the student is taught."""
        training = self.training
        self.eval()
        try:
            return self(features)  # type: ignore[no-any-return]
        finally:
            self.train(training)


class Hint(nn.Module):
    """A linear projection of student features (B, d) to standardised teacher features (B, D) (FitNets, Romero 2015)."""

    mean: Tensor
    sd: Tensor

    def __init__(self, mean: Tensor, sd: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("sd", sd.float())
        self.project = nn.Linear(width, mean.numel())

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Projected student features and standardised teacher features, both (B, D)."""
        return self.project(student), (teacher - self.mean) / self.sd


class Contrast(nn.Module):
    """Linear embeddings (B, 128) of student features (B, d) and standardised teacher features (B, D), as CRD compares them.

    images: how many training images there are, which the critic's prior needs (Tian et al. 2020).
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, mean: Tensor, sd: Tensor, width: int, images: int, embedding: int = 128) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("sd", sd.float())
        self.images = images
        self.student = nn.Linear(width, embedding)
        self.teacher = nn.Linear(mean.numel(), embedding)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both, (B, 128) each."""
        return self.student(student), self.teacher((teacher - self.mean) / self.sd)

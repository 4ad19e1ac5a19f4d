"""Similarity-preserving knowledge distillation: which images of a batch are alike (SPKD, Tung and Mori, ICCV 2019).

Owns: SPKD's formula and what spkd adds up. Does not own: the task loss (losses.py).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from distill.methods.plain import build as build
from distill.methods.step import Step

SPKD_WEIGHT = 3000.0  # the paper's gamma, beside cross-entropy


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """SPKD (eq. 2 to 4) of features (B, d) and (B, D): ||G_S - G_T||_F^2 / B^2, G the row-normalised Q Q^T; none flows into the teacher."""
    def similarities(features: Tensor) -> Tensor:
        return F.normalize(features.float() @ features.float().T, dim=1)

    return (similarities(student) - similarities(teacher.detach())).square().sum() / len(student) ** 2


def losses(step: Step) -> dict[str, Tensor]:
    """Task loss and the difference of the similarities within the batch."""
    distance = similarity_loss(step.features, step.teacher_features())
    return {"task": step.on_labels(step.logits), "hint": step.weights.hint * SPKD_WEIGHT * distance}

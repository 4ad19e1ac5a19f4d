"""Relational knowledge distillation: distances and angles between the features of a batch (Park et al. 2019).

Owns: what rkd adds up. Does not own: the formula (relatives.py).
"""

from __future__ import annotations

from torch import Tensor

from distill.methods.plain import build as build
from distill.methods.relatives import relational_loss
from distill.methods.step import Step


def losses(step: Step) -> dict[str, Tensor]:
    """Task loss and the difference of the relations within the batch."""
    return {"task": step.on_labels(step.logits),
            "hint": step.weights.hint * relational_loss(step.features, step.teacher_features())}

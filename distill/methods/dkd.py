"""Decoupled knowledge distillation of the linear probe's logits (Zhao et al. 2022).

Owns: what dkd adds up. Does not own: the formula (relatives.py).
"""

from __future__ import annotations

from torch import Tensor

from distill.methods.plain import build as build
from distill.methods.relatives import decoupled_loss
from distill.methods.step import Step, required


def losses(step: Step) -> dict[str, Tensor]:
    """Task loss and the decoupled distance to the probe's logits."""
    taught = decoupled_loss(step.logits, required(step.batch.probe_logits), step.batch.labels, step.weights.temperature)
    return {"task": step.on_labels(step.logits), "kd": step.weights.kd * taught}

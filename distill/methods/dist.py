"""Distillation by correlation of the linear probe's logits (DIST, Huang et al. 2022).

Owns: what dist adds up. Does not own: the formula (relatives.py).
"""

from __future__ import annotations

from torch import Tensor

from distill.methods.plain import build as build
from distill.methods.relatives import correlation_loss
from distill.methods.step import Step, required


def losses(step: Step) -> dict[str, Tensor]:
    """Task loss and what is missing of perfect correlation with the probe's logits."""
    taught = correlation_loss(step.logits, required(step.batch.probe_logits), step.student.spec.task, step.weights.temperature)
    return {"task": step.on_labels(step.logits), "kd": step.weights.kd * taught}

"""Knowledge distillation of the linear probe's logits (Hinton et al. 2015).

Owns: what kd adds up. Does not own: the formula (losses.py).
"""

from __future__ import annotations

from torch import Tensor

from distill.evaluation.losses import distillation_loss
from distill.methods.plain import build as build
from distill.methods.step import Step, required


def losses(step: Step) -> dict[str, Tensor]:
    """Task loss and the distance to the probe's softened logits."""
    taught = distillation_loss(step.logits, required(step.batch.probe_logits), step.student.spec.task, step.weights.temperature)
    return {"task": step.on_labels(step.logits), "kd": step.weights.kd * taught}

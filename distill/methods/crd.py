"""Contrastive representation distillation within the batch (Tian et al. 2020).

Owns: what crd builds and adds up. Does not own: the embeddings (reprogram.py), the formula (relatives.py).
"""

from __future__ import annotations

from torch import Tensor

from distill.methods.relatives import contrastive_loss
from distill.methods.reprogram import Contrast
from distill.methods.step import Branches, Step
from distill.networks.models import Model, feature_width
from distill.networks.stages import Stages
from distill.settings.method import MethodOptions
from distill.teacher.teaching import TeacherSignals


def build(options: MethodOptions, student: Model, signals: TeacherSignals, *, images: int, stages: Stages | None) -> Branches:
    """The student and embeddings of both networks' features; images: how many the critic's prior counts."""
    return Branches(student, beside={"contrast": Contrast(signals.mean, signals.sd, feature_width(student), images)})


def losses(step: Step) -> dict[str, Tensor]:
    """Task loss and the contrast of embeddings."""
    contrast = step.branches.get_submodule("contrast")
    assert isinstance(contrast, Contrast)
    ours, theirs = contrast(step.features, step.teacher_features())
    return {"task": step.on_labels(step.logits), "hint": step.weights.hint * contrastive_loss(ours, theirs, contrast.images)}

"""Hints: the student's features, projected, against the teacher's (FitNets, Romero et al. 2015).

Owns: what fitnet builds and adds up. Does not own: the projection (reprogram.py), the formula (losses.py).
"""

from __future__ import annotations

from torch import Tensor

from distill.evaluation.losses import hint_loss
from distill.methods.reprogram import Hint
from distill.methods.step import Branches, Step
from distill.networks.models import Model, feature_width
from distill.networks.stages import Stages
from distill.settings.method import MethodOptions
from distill.teacher.teaching import TeacherSignals


def build(options: MethodOptions, student: Model, signals: TeacherSignals, *, images: int, stages: Stages | None) -> Branches:
    """The student and a projection of its features to the teacher's."""
    return Branches(student, beside={"hint": Hint(signals.mean, signals.sd, feature_width(student))})


def losses(step: Step) -> dict[str, Tensor]:
    """Task loss and the distance of projected features."""
    hint = step.branches.get_submodule("hint")
    return {"task": step.on_labels(step.logits),
            "hint": step.weights.hint * hint_loss(*hint(step.features, step.teacher_features()))}

"""Reprogramming Distillation: a module reprograms the frozen teacher's features, one classifier serves both branches (arXiv 2407.06504).

Owns: what rd builds and adds up: co-training, KD and CKA. Does not own: the module (reprogram.py), formulas (losses.py).
"""

from __future__ import annotations

from torch import Tensor, nn

from distill.evaluation.losses import cka_loss, distillation_loss
from distill.methods.reprogram import Reprogram
from distill.methods.step import Branches, Step, required
from distill.networks.models import Model, feature_width
from distill.networks.stages import Stages
from distill.settings.method import MethodOptions
from distill.teacher.teaching import TeacherSignals


def build(options: MethodOptions, student: Model, signals: TeacherSignals, *, images: int, stages: Stages | None) -> Branches:
    """The student and the reprogramming module, with a classifier of its own where that is asked for."""
    width = feature_width(student)
    phi = Reprogram(signals.mean, signals.sd, width, inner=options.phi_width, dropout=options.phi_dropout)
    return Branches(student, phi, stages=stages,
                    classifier=nn.Linear(width, student.spec.outputs) if options.classifier == "own" else None)


def losses(step: Step) -> dict[str, Tensor]:
    """Task losses of both branches, KD and 1 - CKA; the taught target is phi on the clean image.

    Of volumes phi reprograms slices, and one pooling, too, serves both branches.
    """
    student, batch, weights, phi = step.student, step.batch, step.weights, step.branches.phi
    assert phi is not None
    task = step.on_labels(step.logits)
    viewed = student.pool(phi(required(batch.viewed)), batch.taught_mask)
    teacher_task = weights.teacher * step.on_labels(step.branches.taught_logits(viewed))
    target = student.pool(phi.target(required(batch.clean)), batch.taught_mask)
    if student.spec.bag:
        target = target.detach()  # of the pooling's own share in it
    teaching = required(batch.probe_logits) if weights.probed else step.branches.taught_logits(target)
    kd = weights.kd * distillation_loss(step.logits, teaching, student.spec.task, weights.temperature)
    likened = step.teacher_features() if weights.raw else target
    return {"task": task, "teacher_task": teacher_task, "kd": kd,
            "cka": weights.cka * cka_loss(likened, step.features, debiased=weights.debiased)}

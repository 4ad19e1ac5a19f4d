"""Deep Reprogramming Distillation: RD, and banked maps of the teacher's stages that go on through the student's (arXiv 2605.04447).

Owns: what drd builds and adds up beside rd. Does not own: its modules (deep.py), its last stage (rd.py), cutting a student (stages.py).
"""

from __future__ import annotations

from torch import Tensor

from distill.evaluation.losses import distillation_loss
from distill.methods import rd
from distill.methods.deep import Deep
from distill.methods.step import Branches, Step
from distill.networks.models import Model
from distill.networks.stages import Stages
from distill.settings.method import MethodOptions
from distill.teacher.teaching import TeacherSignals


def build(options: MethodOptions, student: Model, signals: TeacherSignals, *, images: int, stages: Stages | None) -> Branches:
    """RD's branches and a reprogramming module a stage."""
    assert stages is not None
    deep = Deep(list(signals.bank.deepest(options.stages - 1).values()), stages.shapes)
    branches = rd.build(options, student, signals, images=images, stages=stages)
    branches.add_module("deep", deep)
    return branches


def losses(step: Step) -> dict[str, Tensor]:
    """RD's losses, and over stages the task loss of hybrid logits, the student's distance to them, and 1 - CKA."""
    added = rd.losses(step)
    deep, stages, weights = step.branches.get_submodule("deep"), step.branches.stages, step.weights
    assert isinstance(deep, Deep)
    assert stages is not None

    def distance(hybrid: Tensor) -> Tensor:
        return distillation_loss(step.logits, hybrid, step.student.spec.task, weights.temperature)

    task, kd, cka = deep.losses(step.student, stages, step.batch.maps, step.maps, step.on_labels, distance, debiased=weights.debiased)
    return added | {"stage_task": weights.teacher * task, "stage_kd": weights.kd * kd, "stage_cka": weights.cka * cka}

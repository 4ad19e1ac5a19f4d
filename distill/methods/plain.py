"""A student with nothing beside it: what methods build that compare its answers as they are.

Owns: build. Does not own: any loss.
"""

from __future__ import annotations

from distill.methods.step import Branches
from distill.networks.models import Model
from distill.networks.stages import Stages
from distill.settings.method import MethodOptions
from distill.teacher.teaching import TeacherSignals


def build(options: MethodOptions, student: Model, signals: TeacherSignals, *, images: int, stages: Stages | None) -> Branches:
    """The student alone, in its stages where the method is about some."""
    return Branches(student, stages=stages)

"""A method looked up by its name: what it builds beside a student, and the parts of its loss on a batch.

Owns: build_branches, method_losses, the cut of a student into the stages that a method is about. Does not own: any method.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor

from distill.methods.step import Batch, Branches, Step, Weights
from distill.networks.models import Model
from distill.networks.stages import Stages, cut_stages
from distill.settings.method import MethodOptions
from distill.settings.method_table import METHODS
from distill.teacher.teaching import TeacherSignals
from runtimes.errors import USAGE, UserError

DEEP_GRID = 8


def build_branches(options: MethodOptions, student: Model, signals: TeacherSignals | None, images: int) -> Branches:
    """The student with what its method trains beside it; images: how many there are to train on."""
    row = METHODS[options.method]
    if signals is None:
        return Branches(student)
    stages = banked_stages(options, student, signals) if row.stages else None
    return _module(options.method).build(options, student, signals, images=images, stages=stages)  # type: ignore[no-any-return]


def method_losses(method: str, branches: Branches, batch: Batch, weights: Weights,
                  class_weights: Tensor | None = None) -> dict[str, Tensor]:
    """The weighted parts of a method's loss on one batch, by name; their sum is what is minimised."""
    return _module(method).losses(Step(branches, batch, weights, class_weights))  # type: ignore[no-any-return]


def _module(method: str) -> Any:
    return import_module(METHODS[method].module if method in METHODS else f"distill.methods.{method}")


def banked_stages(options: MethodOptions, student: Model, signals: TeacherSignals) -> Stages:
    """The student cut into as many stages as a method is about; UserError where the bank holds fewer of the teacher."""
    count = len(signals.bank.deepest(options.stages - 1))
    if count < options.stages - 1:
        raise UserError(f"the bank {signals.bank.folder} holds {count} stages of the teacher, --stages {options.stages} needs "
                        f"{options.stages - 1}; ask for fewer, or bank them with --bank-grid {DEEP_GRID}", USAGE)
    return cut_stages(student, options.stages - 1)


def grid_of(options: MethodOptions, asked: int) -> int:
    """Side of the grid that the teacher's stages are banked in; a method of stages needs one."""
    return asked or (DEEP_GRID if options.method in METHODS and METHODS[options.method].stages else 0)

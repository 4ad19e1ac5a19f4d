"""What each method trains beside the student: a reprogramming module, one a stage, a projection, or nothing.

Owns: building Branches from settings. Does not own: the modules (reprogram.py, deep.py), what a method adds up (objective.py).
"""

from __future__ import annotations

from torch import nn

from distill.config import DistillSettings
from distill.deep import Deep
from distill.models import Model, feature_width
from distill.objective import PROBED, STAGED, Branches
from distill.reprogram import Contrast, Hint, Reprogram
from distill.stages import cut_stages
from distill.teaching import Taught
from runtimes.errors import USAGE, UserError


def build_branches(settings: DistillSettings, student: Model, taught: Taught | None, images: int) -> Branches:
    """The student with what its method trains beside it; images: how many there are to train on."""
    width = feature_width(student)
    if taught is None or settings.method in (*PROBED, "rkd"):
        return Branches(student)
    stages, channels = None, list(taught.bank.deepest(settings.stages - 1).values())
    if settings.method in STAGED:
        if len(channels) < settings.stages - 1:
            raise UserError(f"the bank {taught.bank.folder} holds {len(channels)} stages of the teacher, --stages {settings.stages} needs "
                            f"{settings.stages - 1}; ask for fewer, or bank them with --bank-grid 8", USAGE)
        stages = cut_stages(student, settings.stages - 1)
    if settings.method == "at":
        return Branches(student, stages=stages)
    if settings.method == "fitnet":
        return Branches(student, hint=Hint(taught.mean, taught.sd, width))
    if settings.method == "crd":
        return Branches(student, contrast=Contrast(taught.mean, taught.sd, width, images))
    deep = None if stages is None else Deep(channels, stages.shapes)
    phi = Reprogram(taught.mean, taught.sd, width, inner=settings.phi_width, dropout=settings.phi_dropout)
    return Branches(student, phi=phi, deep=deep, stages=stages,
                    classifier=nn.Linear(width, student.spec.outputs) if settings.classifier == "own" else None)

"""How a student is taught, and how a method or a student is chosen by trial.

Owns: MethodOptions, SelectionOptions. Does not own: losses, what a method builds (methods), the trials (choosing.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from distill.settings.group import Group
from distill.settings.method_table import MethodName, chosen, described
from runtimes.errors import USAGE, UserError
from runtimes.settings import Help


@dataclass(frozen=True)
class MethodOptions(Group):
    """Method: how the student is taught."""

    method: Annotated[MethodName, Help(described())] = "rd"
    views: Literal["fresh", "tied"] = "fresh"
    """fresh: the student draws its own augmentation; tied: it sees exactly the banked view."""
    labelled_batch: int = 16
    """Labelled images a step, on top of `batch`, when unlabelled images are there."""
    phi_lr: float = 0.1
    """Learning rate of the reprogramming module, as a factor of --lr."""
    phi_weight_decay: float = 0.05
    """AdamW weight decay of the reprogramming module."""
    phi_width: int = 128
    """Inner width of the reprogramming module."""
    phi_dropout: float = 0.5
    """Dropout in the reprogramming module."""
    stages: int = 3
    """Stages of drd and at, the pooled features being the last."""
    classifier: Literal["shared", "own"] = "shared"
    """own: the teacher branch of rd gets a classifier of its own, to see what sharing is worth."""
    kd_weight: float = 1.0
    """Weight of the logit distillation."""
    cka_weight: float = 1.0
    """Weight of 1 - CKA; 0 switches it off."""
    teacher_weight: float = 1.0
    """Weight of the task loss on the teacher branch."""
    hint_weight: float = 1.0
    """Weight of the feature loss of fitnet, rkd, crd and at."""
    cka: Literal["debiased", "biased"] = "debiased"
    """Estimator of the CKA in the loss; the reported CKA is always debiased."""
    cka_against: Literal["reprogrammed", "teacher"] = "reprogrammed"
    """teacher: rd's CKA compares the student with the teacher's own features, to see what reprogramming them is worth."""
    kd_from: Literal["auto", "branch", "probe"] = "auto"
    """Whose logits rd and drd distil: branch: of the teacher branch, which learns beside the student, as published; probe: of the
    linear probe, fitted before; auto: of the probe for rd of images that all carry a label, else of the branch."""
    temperature: float = 4.0
    """Temperature of the logit distillation."""
    decay: Literal["auto", "none", "linear"] = "auto"
    """linear: kd and teacher-branch weights fall to zero during training; auto: for drd, as published."""
    ema: float = 0.0
    """Decay of a moving average of the weights, such as 0.999; 0 switches it off."""

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        self.above_zero("labelled_batch", "temperature", "phi_width")
        self.not_negative("phi_lr", "kd_weight", "cka_weight", "teacher_weight", "hint_weight")
        self.shares("phi_dropout", "ema")
        row = chosen(self.method)
        if row and row.stages and not 2 <= self.stages <= 5:
            raise UserError(f"--stages {self.stages} must be 2 to 5; one stage is --method rd", USAGE)


@dataclass(frozen=True)
class SelectionOptions(Group):
    """Selection: the trials behind --method auto and --student auto."""

    auto_folds: int = 3
    """Folds of the training images on which --method auto tries rd, drd, fitnet, kd and vanilla; --student auto uses the first."""
    auto_steps: int = 400
    """Steps of each training of --method auto."""
    auto_students: int = 8
    """Networks that --student auto tries, of all that fit the budget."""
    proxy_steps: int = 150
    """Steps of each training of --student auto."""

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        self.above_zero("auto_steps", "auto_students", "proxy_steps")
        if not 2 <= self.auto_folds <= 20:
            raise UserError(f"--auto-folds {self.auto_folds} must be 2 to 20", USAGE)

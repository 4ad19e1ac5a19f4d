"""How a student is taught, and how a method or a student is chosen by trial.

Owns: MethodOptions, SelectionOptions. Does not own: losses, what a method builds (methods), the trials (choosing.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from distill.settings.group import Group
from distill.settings.method_table import METHODS, MethodName, described, needs_bank
from runtimes.commands.settings import Expert, Help
from runtimes.errors import USAGE, UserError

MOST_MIXED = 100  # of --mixup: shares are one half within 0.1 there


@dataclass(frozen=True)
class MethodOptions(Group):
    """Method: how the student is taught."""

    method: Annotated[MethodName, Help(described())] = "rd"
    views: Annotated[Literal["fresh", "tied"], Expert] = "fresh"
    """fresh: the student draws its own augmentation; tied: it sees exactly the banked view."""
    labelled_batch: Annotated[int, Expert] = 16
    """Labelled images a step, on top of `batch`, when unlabelled images are there."""
    phi_lr: Annotated[float, Expert] = 0.1
    """Learning rate of the reprogramming module, as a factor of --lr."""
    phi_weight_decay: Annotated[float, Expert] = 0.05
    """AdamW weight decay of the reprogramming module."""
    phi_width: Annotated[int, Expert] = 128
    """Inner width of the reprogramming module."""
    phi_dropout: Annotated[float, Expert] = 0.5
    """Dropout in the reprogramming module."""
    stages: Annotated[int, Expert] = 3
    """Stages of drd and at, the pooled features being the last."""
    classifier: Annotated[Literal["shared", "own"], Expert] = "shared"
    """own: the teacher branch of rd gets a classifier of its own, to see what sharing is worth."""
    kd_weight: Annotated[float, Expert] = 1.0
    """Weight of the logit distillation."""
    cka_weight: Annotated[float, Expert] = 1.0
    """Weight of 1 - CKA; 0 switches it off."""
    teacher_weight: Annotated[float, Expert] = 1.0
    """Weight of the task loss on the teacher branch."""
    hint_weight: Annotated[float, Expert] = 1.0
    """Weight of the feature loss of fitnet, rkd, crd and at."""
    cka: Annotated[Literal["debiased", "biased"], Expert] = "debiased"
    """Estimator of the CKA in the loss; the reported CKA is always debiased."""
    cka_against: Annotated[Literal["reprogrammed", "teacher"], Expert] = "reprogrammed"
    """teacher: rd's CKA compares the student with the teacher's own features, to see what reprogramming them is worth."""
    kd_from: Annotated[Literal["auto", "branch", "probe"], Expert] = "auto"
    """Whose logits rd and drd distil: branch: of the teacher branch, which learns beside the student, as published; probe: of the
    linear probe, fitted before; auto: of the probe for rd of images that all carry a label, else of the branch."""
    temperature: Annotated[float, Expert] = 4.0
    """Temperature of the logit distillation."""
    decay: Annotated[Literal["auto", "none", "linear", "outgrown"], Expert] = "auto"
    """linear: kd and teacher-branch weights fall to zero during training; auto: for drd, as published. outgrown: all that the teacher says
    falls to a quarter after each epoch in which the student did better than the teacher's probe on validation."""
    ema: Annotated[float, Expert] = 0.0
    """Decay of a moving average of the weights, such as 0.999; 0 switches it off."""
    mixup: Annotated[float, Expert] = 0.0
    """Mix each image with another of its batch, and what the teacher says of both alike: the share is drawn from Beta(a, a) of this
    number, such as 0.4; 0 switches it off. Labels are not needed."""
    pretrain: Annotated[Literal["on", "off"], Expert] = "off"
    """on: before it sees a label, the student learns the teacher's features of every training image."""
    pretrain_steps: Annotated[int | None, Expert] = None
    """Steps of that first stage; twice those of the training when not given."""

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        self.above_zero("labelled_batch", "temperature", "phi_width", "pretrain_steps")
        self.not_negative("phi_lr", "kd_weight", "cka_weight", "teacher_weight", "hint_weight", "mixup")
        self.shares("phi_dropout", "ema")
        if self.mixup > MOST_MIXED:
            raise UserError(f"--mixup {self.mixup:g} must be 0 to {MOST_MIXED}; the larger, the nearer is each share to one half", USAGE)
        row = METHODS.get(self.method)
        if row and row.stages and not 2 <= self.stages <= 5:
            raise UserError(f"--stages {self.stages} must be 2 to 5; one stage is --method rd", USAGE)

    @property
    def banked(self) -> bool:
        """Whether a teacher's bank is needed."""
        return self.pretrain == "on" or needs_bank(self.method)


@dataclass(frozen=True)
class SelectionOptions(Group):
    """Selection: the trials behind --method auto and --student auto."""

    auto_folds: Annotated[int, Expert] = 3
    """Trials of each method by --method auto, each on another fold of the training images. Where validation has 300 labelled images, or
    as many as there are to train on, it judges them instead, each from another seed. --student auto uses the first fold."""
    auto_steps: Annotated[int, Expert] = 400
    """Steps of each training of --method auto, and of those that judge how long a run is (--min-steps) and what a teacher is worth
    (--weak-teacher)."""
    weak_teacher: Annotated[Literal["leave", "keep"], Expert] = "leave"
    """leave: where every training image carries a label, the student learns from labels alone if a trial finds it better, without a
    teacher, than the teacher's linear probe. keep: no trial."""
    auto_students: Annotated[int, Expert] = 8
    """Networks that --student auto tries, of all that fit the budget."""
    proxy_steps: Annotated[int, Expert] = 150
    """Steps of each training of --student auto."""

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        self.above_zero("auto_steps", "auto_students", "proxy_steps")
        if not 2 <= self.auto_folds <= 20:
            raise UserError(f"--auto-folds {self.auto_folds} must be 2 to 20", USAGE)

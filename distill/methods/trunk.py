"""The first of two stages: a student's trunk learns the teacher's features of every image, labels unread.

Owns: what a first stage builds and adds up. Does not own: when there is one and how long (training/pretrain.py), what follows it. It is no
method of rd-distill and has no row in the table.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.methods.reprogram import Hint
from distill.methods.step import Branches, Step
from distill.networks.models import Model, feature_width
from distill.teacher.teaching import TeacherSignals


def build(student: Model, signals: TeacherSignals) -> Branches:
    """The student and a projection of its features to each teacher's."""
    width, start = feature_width(student), 0
    hints: dict[str, Hint] = {}
    for number, count in enumerate(signals.bank.widths):
        hints[f"hint{number}"] = Hint(signals.mean[start:start + count], signals.sd[start:start + count], width)
        start += count
    return Branches(student, beside=hints)


def losses(step: Step) -> dict[str, Tensor]:
    """1 - cosine of projected features and a teacher's standardised ones, mean over images and teachers (B, D)."""
    hints = [module for name, module in step.branches.named_children() if name.startswith("hint")]
    taught = step.teacher_features().split([hint.mean.numel() for hint in hints], dim=1)  # type: ignore[union-attr,operator]
    return {"features": torch.stack([away(*hint(step.features, own)) for hint, own in zip(hints, taught, strict=True)]).mean()}


def away(projected: Tensor, taught: Tensor) -> Tensor:
    """1 - cosine of rows (B, D), mean over rows."""
    return (1 - F.cosine_similarity(projected.float(), taught.detach().float(), dim=1)).mean()

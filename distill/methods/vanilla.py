"""Labels alone: what every method is compared with.

Owns: vanilla's loss. Does not own: the task loss (losses.py).
"""

from __future__ import annotations

from torch import Tensor

from distill.methods.plain import build as build
from distill.methods.step import Step


def losses(step: Step) -> dict[str, Tensor]:
    """The task loss."""
    return {"task": step.on_labels(step.logits)}

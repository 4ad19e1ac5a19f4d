"""Attention transfer: where both networks look, stage by stage (Zagoruyko and Komodakis 2017).

Owns: what at adds up. Does not own: the formula (relatives.py), cutting a student (stages.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.methods.plain import build as build
from distill.methods.relatives import attention_loss
from distill.methods.step import Step


def losses(step: Step) -> dict[str, Tensor]:
    """Task loss and the distance of attention maps, summed over stages."""
    pairs = zip(step.maps, step.batch.maps, strict=True)
    distance = torch.stack([attention_loss(own, banked) for own, banked in pairs]).sum()
    return {"task": step.on_labels(step.logits), "hint": step.weights.hint * distance}

"""A teacher's own adaptation as a training: labels, and the balance of its gates.

Owns: what rd-adapt adds up. Does not own: adapters (adapters.py). It is no method of rd-distill and has no row in the table.
"""

from __future__ import annotations

from torch import Tensor

from distill.adapters.layer import balance_loss
from distill.methods.step import Step


def losses(step: Step) -> dict[str, Tensor]:
    """The adapted model is its own student; with an adapter of pooled features alone, banked features are all it needs."""
    student, batch = step.student, step.batch
    features = student.features(batch.pixels, batch.mask) if batch.viewed is None else (
        student.pool(student.adapted(batch.viewed), batch.mask))
    added = {"task": step.on_labels(student.logits(features))}
    balance = balance_loss(student.net)
    return added if balance is None else added | {"balance": step.weights.balance * balance}

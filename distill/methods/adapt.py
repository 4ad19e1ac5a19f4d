"""A teacher's own adaptation as a training: labels, the balance of its gates, what holds it to earlier tasks.

Owns: what rd-adapt adds up. Does not own: adapters (adapters.py). It is no method of rd-distill and has no row in the table.
"""

from __future__ import annotations

from torch import Tensor

from distill.adapters.layer import balance_loss
from distill.methods.step import Step


def losses(step: Step) -> dict[str, Tensor]:
    """The adapted model is its own student; with an adapter of pooled features alone, banked features are all it needs."""
    student, batch = step.student, step.batch
    whole = (student.adapted(batch.viewed) if batch.viewed is not None else student.slice_features(batch.pixels, batch.mask)
             if student.spec.bag else student.features(batch.pixels))
    added = {"task": step.on_labels(student.logits(student.pool(whole, batch.mask)))}
    balance = balance_loss(student.net)
    if balance is not None:
        added["balance"] = step.weights.balance * balance
    if step.branches.keeping is not None:
        added["keep"] = step.branches.keeping.loss(student, batch.pixels, whole, batch.mask)
        balance_loss(student.net)  # of kept images: not what is balanced
    return added

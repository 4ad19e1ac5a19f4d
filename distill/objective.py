"""What each method adds up: vanilla, RD, its competitors, and a teacher's own adaptation, over one batch.

Owns: Batch, Branches and the losses of a method by name. Does not own: formulas (losses.py, relatives.py), the loop (fit.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distill.adapters import balance_loss
from distill.deep import Deep
from distill.losses import cka_loss, distillation_loss, hint_loss, task_loss
from distill.models import Model, class_scores
from distill.relatives import attention_loss, contrastive_loss, correlation_loss, decoupled_loss, relational_loss
from distill.reprogram import Contrast, Hint, Reprogram
from distill.slices import mean_of_slices
from distill.stages import Stages

Method = Literal["rd", "kd", "dkd", "dist", "fitnet", "rkd", "crd", "at", "drd", "vanilla", "adapt"]
STAGED = ("at", "drd")  # taught maps of the teacher's stages
PROBED = ("kd", "dkd", "dist")  # taught the logits of the teacher's linear probe


@dataclass(frozen=True)
class Batch:
    """One step's input: pixels (B, 3, h, w), labels, and teacher features (B, D) of the clean image and of a view.

    Of volumes: pixels (B, S, 3, h, w), features of slices (B, S, D), and the mask (B, S) of slices that are there. For DRD: maps of the
    teacher's stages (B, C, g, g) on the view.
    """

    pixels: Tensor
    labels: Tensor
    clean: Tensor | None = None
    viewed: Tensor | None = None
    probe_logits: Tensor | None = None
    mask: Tensor | None = None
    maps: tuple[Tensor, ...] = ()


class Branches(nn.Module):
    """All that is trained: the student and, by method, the reprogramming module (and a classifier of its own), or a projection."""

    def __init__(self, student: Model, phi: Reprogram | None = None, hint: Hint | None = None, contrast: Contrast | None = None,
                 classifier: nn.Linear | None = None, deep: Deep | None = None, stages: Stages | None = None) -> None:
        super().__init__()
        self.student = student
        self.phi = phi
        self.hint = hint
        self.contrast = contrast
        self.classifier = classifier
        self.deep = deep
        self.__dict__["stages"] = stages  # pieces of the student, no modules beside it
        self.stages: Stages | None

    def taught_logits(self, features: Tensor) -> Tensor:
        """The teacher branch's logits of reprogrammed features (B, d): by the shared classifier unless it has its own."""
        student = self.student
        return student.logits(features) if self.classifier is None else class_scores(self.classifier(features), student.spec.task)


@dataclass(frozen=True)
class Weights:
    """Weights and temperature of the parts of a loss."""

    teacher: float = 1.0
    kd: float = 1.0
    cka: float = 1.0
    hint: float = 1.0
    temperature: float = 4.0
    debiased: bool = True
    focal_gamma: float = 2.0
    balance: float = 1e-3
    raw: bool = False  # CKA with the teacher's own features, not the reprogrammed ones
    probed: bool = False  # RD distils the logits of the teacher's probe, not of the teacher branch


def parts(method: Method, branches: Branches, batch: Batch, weights: Weights,
          class_weights: Tensor | None = None) -> dict[str, Tensor]:
    """The weighted parts of a method's loss on one batch, by name; their sum is what is minimised."""
    student = branches.student
    task = student.spec.task

    def on_labels(logits: Tensor) -> Tensor:
        return task_loss(logits, batch.labels, task, class_weights=class_weights, focal_gamma=weights.focal_gamma)

    if method == "adapt":
        # The adapted model is its own student; with an adapter of pooled features alone, banked features are all it needs.
        features = student.features(batch.pixels, batch.mask) if batch.viewed is None else (
            student.pool(student.adapted(batch.viewed), batch.mask))
        losses = {"task": on_labels(student.logits(features))}
        balance = balance_loss(student.net)
        return losses if balance is None else losses | {"balance": weights.balance * balance}
    own: list[Tensor] = []
    if branches.stages is None:
        features = student.features(batch.pixels, batch.mask)
    else:
        own, features = branches.stages.maps(batch.pixels)
    logits = student.logits(features)
    losses = {"task": on_labels(logits)}
    if method in PROBED:
        assert batch.probe_logits is not None
        temperature = weights.temperature
        if method == "kd":
            taught = distillation_loss(logits, batch.probe_logits, task, temperature)
        elif method == "dkd":
            taught = decoupled_loss(logits, batch.probe_logits, batch.labels, temperature)
        else:
            taught = correlation_loss(logits, batch.probe_logits, task, temperature)
        losses["kd"] = weights.kd * taught
    elif method in ("fitnet", "rkd", "crd"):
        assert batch.clean is not None
        whole = _pooled(batch.clean, batch.mask)
        if method == "rkd":
            regression = relational_loss(features, whole)
        elif method == "crd":
            assert branches.contrast is not None
            ours, theirs = branches.contrast(features, whole)
            regression = contrastive_loss(ours, theirs, branches.contrast.images)
        else:
            assert branches.hint is not None
            regression = hint_loss(*branches.hint(features, whole))
        losses["hint"] = weights.hint * regression
    elif method == "at":
        pairs = zip(own, batch.maps, strict=True)
        losses["hint"] = weights.hint * torch.stack([attention_loss(mine, banked) for mine, banked in pairs]).sum()
    elif method in ("rd", "drd"):
        # RD: co-training of both branches through one classifier; the taught target is phi on the clean image. Of volumes phi
        # reprograms slices, and one pooling, too, serves both branches.
        phi = branches.phi
        assert phi is not None
        assert batch.clean is not None
        assert batch.viewed is not None
        losses["teacher_task"] = weights.teacher * on_labels(branches.taught_logits(student.pool(phi(batch.viewed), batch.mask)))
        target = student.pool(phi.target(batch.clean), batch.mask)
        if student.spec.slices:
            target = target.detach()  # of the pooling's own share in it
        teaching = batch.probe_logits if weights.probed else branches.taught_logits(target)
        assert teaching is not None
        losses["kd"] = weights.kd * distillation_loss(logits, teaching, task, weights.temperature)
        likened = _pooled(batch.clean, batch.mask) if weights.raw else target
        losses["cka"] = weights.cka * cka_loss(likened, features, debiased=weights.debiased)
        if branches.deep is not None and branches.stages is not None:
            def distance(taught: Tensor) -> Tensor:
                return distillation_loss(logits, taught, task, weights.temperature)

            hybrid = branches.deep.losses(student, branches.stages, batch.maps, own, on_labels, distance, debiased=weights.debiased)
            losses |= {"stage_task": weights.teacher * hybrid[0], "stage_kd": weights.kd * hybrid[1], "stage_cka": weights.cka * hybrid[2]}
    return losses


def _pooled(clean: Tensor, mask: Tensor | None) -> Tensor:
    """The teacher's features (B, F) of images, or of volumes the mean of their slices."""
    return clean if mask is None else mean_of_slices(clean, mask)

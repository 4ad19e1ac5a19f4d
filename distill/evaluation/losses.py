"""Losses as pure functions of tensors: the task's own, distillation per task, hints, CKA.

Owns: the formulas. Does not own: which of them a method adds up (build.py), weights and their decay.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.scores import Task


def task_loss(logits: Tensor, labels: Tensor, task: Task, *, class_weights: Tensor | None = None,
              focal_gamma: float = 2.0) -> Tensor:
    """Loss on the labelled rows: cross-entropy, or for multi-label focal loss with class weights; 0 when none is labelled.

    logits (B, C); labels int64 (B,) with -1 = unlabelled, or float (B, C) with nan = missing. Ordinal logits are
    log-probabilities, so cross-entropy is the CORN likelihood. Focal: Lin et al. 2017, gamma 2 as in MoLRE. Multi-label
    sums over labels (a missing one counts as the mean of the known), so that it weighs beside CKA as cross-entropy does.
    """
    logits = logits.float()
    if task == "multilabel":
        known = torch.isfinite(labels)
        target = torch.where(known, labels, 0.0)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if focal_gamma:
            likelihood = torch.exp(-entropy)
            entropy = (1 - likelihood).clamp_min(0.0) ** focal_gamma * entropy
        weights = known.float() if class_weights is None else known * class_weights
        return labels.shape[1] * (entropy * weights).sum() / known.sum().clamp_min(1)
    known = labels >= 0
    losses = F.cross_entropy(logits, labels.clamp_min(0), weight=class_weights, reduction="none")
    return (losses * known).sum() / known.sum().clamp_min(1)


def image_losses(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Loss of each image (n,), as task_loss without focus and weights averages it; nan where an image carries no label."""
    logits = logits.float()
    if task == "multilabel":
        known = torch.isfinite(labels)
        entropy = F.binary_cross_entropy_with_logits(logits, torch.where(known, labels, 0.0), reduction="none")
        return labels.shape[1] * (entropy * known).sum(1) / known.sum(1)
    losses = F.cross_entropy(logits, labels.clamp_min(0), reduction="none")
    return torch.where(labels >= 0, losses, torch.nan)


def prevalence_weights(labels: Tensor) -> Tensor:
    """Weight of each label, 1 / sqrt(prevalence) scaled to mean 1, from labels (N, C) with nan = missing.

    A weight a label, not one a positive: rare findings count more in the sum and probabilities stay unbiased.
    """
    known = torch.isfinite(labels)
    positives = torch.where(known, labels, 0.0).sum(0)
    prevalence = (positives + 1) / (known.sum(0) + 2)
    weights = prevalence.rsqrt()
    return weights / weights.mean()


def distillation_loss(student: Tensor, teacher: Tensor, task: Task, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at a temperature: over classes, or per label (Bernoulli) for multi-label.

    Hinton et al. 2015. The teacher is taken as given (no gradient). Multi-label sums over labels, as its task loss does.
    """
    student, teacher = student.float() / temperature, teacher.detach().float() / temperature
    if task == "multilabel":
        target = torch.sigmoid(teacher)
        cross = F.binary_cross_entropy_with_logits(student, target, reduction="none")
        own = F.binary_cross_entropy_with_logits(teacher, target, reduction="none")
        return temperature**2 * (cross - own).sum(1).mean()
    divergence = F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), log_target=True, reduction="batchmean")
    return temperature**2 * divergence


def hint_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error between projected student features and standardised teacher features (FitNets, Romero 2015)."""
    return F.mse_loss(projected.float(), teacher.detach().float())


def cka(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """Linear CKA of features (n, d1) and (n, d2), a scalar; 0 when n < 4 or when either is constant.

    Kornblith et al. 2019; debiased: the unbiased HSIC of Song et al. 2012 as used by Nguyen et al. 2021, eq. 3.
    Features are centred first, in fp32 with autocast off, and scaled: Gram entries stay near 1 and gradients finite.
    """
    count = x.shape[0]
    if count < 4:
        return (x.sum() + y.sum()).float() * 0.0
    with torch.autocast(x.device.type, enabled=False):
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        grams = [_gram(features.to(wide)) for features in (x, y)]
        if debiased:
            grams = [_u_centred(gram) for gram in grams]
        k, el = grams
        own = (k * k).sum() * (el * el).sum()
        return (k * el).sum() / torch.sqrt(own.clamp_min(1e-12))


def cka_loss(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """1 - CKA, finite for every batch; batches under 4 samples give no signal."""
    if x.shape[0] < 4:
        return (x.sum() + y.sum()).float() * 0.0
    return 1.0 - cka(x, y, debiased=debiased)


def _gram(features: Tensor) -> Tensor:
    centred = features - features.mean(0, keepdim=True)
    scale = centred.detach().pow(2).mean().clamp_min(1e-24).sqrt()
    centred = centred / (scale * features.shape[1] ** 0.5)
    return centred @ centred.T


def _u_centred(gram: Tensor) -> Tensor:
    """U-centring (Szekely and Rizzo 2014): the steadier form of unbiased HSIC; n >= 4."""
    count = gram.shape[0]
    hollow = gram - torch.diag_embed(torch.diagonal(gram))
    means = hollow.sum(1) / (count - 2)
    means = means - means.sum() / (2 * (count - 1))
    centred = hollow - means[:, None] - means[None, :]
    return centred - torch.diag_embed(torch.diagonal(centred))

"""RD's competitors as pure functions of tensors: decoupled and correlation KD on logits, relational and contrastive KD on features,
attention transfer on maps.

Owns: the formulas and their papers' constants. Does not own: Hinton's KD, hints and CKA (losses.py), what a method adds up
(build.py). Logits and features of the teacher are taken as given: no gradient flows into them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.scores import Task

DKD_BETA = 8.0  # DKD's weight of the classes that are not the label's, alpha being 1 (its CIFAR-100 setting)
RKD_DISTANCE, RKD_ANGLE = 25.0, 50.0  # 1 : 2 as in the paper, at the scale used beside cross-entropy
CRD_TEMPERATURE, CRD_WEIGHT = 0.07, 0.8
AT_WEIGHT = 1000.0


def decoupled_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """DKD (Zhao et al. 2022, eq. 7) of logits (B, C), C >= 2, labels (B,): T^2 (TCKD + 8 NCKD).

    A row without a label (-1) is decoupled at the teacher's own first choice. Of two classes NCKD is zero and TCKD is plain KD.
    """
    student, teacher = student.float() / temperature, teacher.detach().float() / temperature
    target = torch.where(labels >= 0, labels, teacher.argmax(1))[:, None]
    own, taught = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    rest = torch.zeros_like(own, dtype=torch.bool).scatter(1, target, True)
    pairs = [torch.stack([each.gather(1, target).squeeze(1), each.masked_fill(rest, -torch.inf).logsumexp(1)], 1)
             for each in (own, taught)]
    hit = F.kl_div(pairs[0], pairs[1], log_target=True, reduction="batchmean")
    if student.shape[1] == 2:
        return temperature**2 * hit
    # A mask below any logit in place of -inf: its probability is 0 in both, and 0 times infinity never comes up.
    low = -1e4 * rest
    missed = F.kl_div(F.log_softmax(student + low, 1), F.log_softmax(teacher + low, 1), log_target=True, reduction="batchmean")
    return temperature**2 * (hit + DKD_BETA * missed)


def correlation_loss(student: Tensor, teacher: Tensor, task: Task, temperature: float) -> Tensor:
    """DIST (Huang et al. 2022, eq. 10, weights 1): T^2 times one minus the Pearson correlations between classes and within them.

    Logits (B, C); of multi-label probabilities are sigmoids. A correlation needs two values that differ: a single label has none
    between classes, and constant rows or columns give neither signal nor nan.
    """
    student, teacher = student.float() / temperature, teacher.detach().float() / temperature
    p, q = (torch.sigmoid(student), torch.sigmoid(teacher)) if task == "multilabel" else (student.softmax(1), teacher.softmax(1))
    loss = 1 - _pearson(p.T, q.T)
    return temperature**2 * (loss if p.shape[1] < 2 else loss + 1 - _pearson(p, q))


def relational_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD (Park et al. 2019, eq. 4 to 8) of features (B, d1) and (B, d2): distances and angles among the samples of a batch."""
    student, teacher = student.float(), teacher.detach().float()
    if len(student) < 2:
        return student.sum() * 0.0
    distance = F.smooth_l1_loss(_distances(student), _distances(teacher))
    return RKD_DISTANCE * distance + RKD_ANGLE * F.smooth_l1_loss(_angles(student), _angles(teacher))


def contrastive_loss(student: Tensor, teacher: Tensor, images: int) -> Tensor:
    """CRD (Tian et al. 2020, eq. 17 to 19) of embeddings (B, e) of both sides; negatives are the batch mates, not a memory.

    images: size M of the training set, in the critic exp(s t / tau) / (exp(s t / tau) + N / M) with N = B - 1.
    """
    count = student.shape[0]
    if count < 2:
        return student.sum() * 0.0
    scores = F.normalize(student.float(), dim=1) @ F.normalize(teacher.float(), dim=1).T / CRD_TEMPERATURE
    odds = scores - torch.log(torch.tensor((count - 1) / max(images, 1), device=scores.device))
    same = torch.eye(count, dtype=torch.bool, device=scores.device)
    return CRD_WEIGHT * -(F.logsigmoid(odds[same]).sum() + F.logsigmoid(-odds[~same]).sum()) / count


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """AT (Zagoruyko and Komodakis 2017, eq. 2, p = 2) of maps (B, c, h, w) and (B, C, g, g) of one view, on the teacher's grid."""
    own = F.adaptive_avg_pool2d(student.float().pow(2).mean(1, keepdim=True), (teacher.shape[2], teacher.shape[3])).flatten(1)
    target = teacher.detach().float().pow(2).mean(1).flatten(1)
    return AT_WEIGHT * F.mse_loss(F.normalize(own, dim=1), F.normalize(target, dim=1))


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Mean correlation of the rows of two matrices."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return F.cosine_similarity(x, y, dim=1, eps=1e-8).mean()


def _distances(features: Tensor) -> Tensor:
    """Distances of all pairs (B (B - 1) / 2,) over their mean."""
    distances = F.pdist(features)
    return distances / distances.mean().clamp_min(1e-8)


def _angles(features: Tensor) -> Tensor:
    """Cosines of the angles at sample j between i and k, (B, B, B)."""
    rays = F.normalize(features[:, None] - features[None], dim=2)
    return rays.transpose(0, 1) @ rays.transpose(0, 1).transpose(1, 2)

"""A linear probe of banked teacher features: what this teacher has to teach, in seconds, and the teacher of Hinton KD.

Owns: Probe, fitting it by L-BFGS with the strength of its penalty chosen on validation. Does not own: metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.evaluation.losses import task_loss
from distill.networks.models import class_scores
from runtimes.scores import Task

STRENGTHS = (0.0001, 0.0003, 0.001, 0.01, 0.1, 1.0)  # scikit-learn's C

SMALLEST_SD = 0.1  # of the mean deviation: a feature that is dead on most images must not be blown up on the next one


def standardiser(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (D,) that standardise features (n, D); deviations of nearly dead features are raised to a floor."""
    mean, sd = features.mean(0), features.std(0)
    return mean, sd.clamp_min(max(SMALLEST_SD * float(sd.mean()), 1e-6))


@dataclass(frozen=True)
class Probe:
    """Logits (n, C) = class_scores(standardised features @ weight + bias)."""

    mean: Tensor
    sd: Tensor
    weight: Tensor
    bias: Tensor
    task: Task
    strength: float

    def logits(self, features: Tensor) -> Tensor:
        """Logits (n, C) of features (n, D)."""
        return class_scores((features - self.mean) / self.sd @ self.weight + self.bias, self.task)

    def folded(self) -> tuple[Tensor, Tensor]:
        """The same as one linear layer of features as they are: weight (C, D) and bias (C,), standardised in float64 and cast once."""
        weight = (self.weight.double() / self.sd.double()[:, None]).t().contiguous()
        return weight.float(), (self.bias.double() - weight @ self.mean.double()).float()


def fit_probe(features: Tensor, labels: Tensor, val_features: Tensor, val_labels: Tensor, task: Task, outputs: int,
              strengths: tuple[float, ...] | None = None) -> Probe:
    """Fit logistic regression (cross-entropy, or per label, or ordinal) with the L2 strength C best on validation loss.

    features (n, D), labels as task_loss takes them; every row must be labelled. Warm-started from strong to weak penalty.
    """
    mean, sd = standardiser(features)
    inputs, held_out = (features - mean) / sd, (val_features - mean) / sd
    weight, bias = torch.zeros(features.shape[1], outputs), torch.zeros(outputs)
    best: tuple[float, Tensor, Tensor, float] | None = None
    for strength in strengths or STRENGTHS:
        weight, bias = fit_linear(inputs, labels, task, strength, weight, bias)
        with torch.no_grad():
            loss = float(task_loss(class_scores(held_out @ weight + bias, task), val_labels, task, focal_gamma=0.0))
        if best is None or loss < best[0]:
            best = (loss, weight, bias, strength)
    assert best is not None
    return Probe(mean, sd, best[1], best[2], task, best[3])


def fit_linear(inputs: Tensor, labels: Tensor, task: Task, strength: float, weight: Tensor, bias: Tensor,
               steps: int = 200) -> tuple[Tensor, Tensor]:
    """Minimise the sum of losses + |W|^2 / (2 C) from a starting point, as scikit-learn's LogisticRegression does."""
    # a row an output: both products of a step read it along its rows, several times faster than down three columns
    weight, bias = weight.t().clone(memory_format=torch.contiguous_format).requires_grad_(), bias.clone().requires_grad_()
    count = len(inputs)
    solver = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=10, line_search_fn="strong_wolfe",
                               tolerance_grad=1e-6, tolerance_change=1e-9)

    def closure() -> Tensor:
        solver.zero_grad()
        loss = _mean_loss(F.linear(inputs, weight, bias), labels, task) + weight.pow(2).sum() / (2 * strength * count)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[arg-type]
    return weight.detach().t().contiguous(), bias.detach()


def _mean_loss(scores: Tensor, labels: Tensor, task: Task) -> Tensor:
    if task == "multilabel":  # each label its own regression: a mean over images, a sum over labels
        known = torch.isfinite(labels)
        entropy = F.binary_cross_entropy_with_logits(scores, torch.where(known, labels, 0.0), reduction="none")
        return (entropy * known).sum() / len(labels)
    return task_loss(class_scores(scores, task), labels, task)

"""Temperatures and decision thresholds, fitted on validation logits.

Owns: temperature scaling (Guo et al. 2017; one temperature for a softmax, one per label for independent sigmoids), the
negative log-likelihood it minimises, and the multi-label thresholds. Does not run a network or choose the split, nor
judge the result (evaluate.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtimes.scores import TASKS, Task

Array = NDArray[Any]
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
_SMALLEST_GAP = 1e-6  # scores nearer than this are one score: float32 round-off on another runtime could swap them


def fit_temperatures(logits: ArrayLike, labels: ArrayLike, task: Task) -> tuple[float, ...]:
    """Temperatures in 0.05..20 that minimise the negative log-likelihood of logits (N, C): one, or C for multi-label.

    Never worse than temperature 1; missing labels (-1 or nan) are left out; where only one outcome occurs the
    temperature stays 1. ValueError when a logit is nan.
    """
    scores, given = _arrays(logits, labels, task)
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {scores.size} logits are nan: the training has diverged")
    if task != "multilabel":
        kept = given >= 0
        rows, index = scores[kept], given[kept].astype(np.int64)
        if len(np.unique(index)) < 2:
            return (1.0,)
        at = np.arange(len(index))
        return (_best_temperature(lambda temperature: float(-_log_softmax(rows / temperature)[at, index].mean())),)
    temperatures = []
    for c in range(scores.shape[1]):
        kept = ~np.isnan(given[:, c])
        # log(1 + exp(-z)) for a positive, log(1 + exp(z)) for a negative: one formula with the sign folded into z.
        signed = np.where(given[kept, c] == 1, -scores[kept, c], scores[kept, c])
        one_outcome = len(np.unique(given[kept, c])) < 2
        temperatures.append(1.0 if one_outcome else _best_temperature(_sigmoid_loss(signed)))
    return tuple(temperatures)


def apply_temperatures(logits: ArrayLike, temperatures: Sequence[float], task: Task) -> NDArray[np.float64]:
    """Probabilities (N, C) in float64: softmax or, for multi-label, sigmoid of logits / temperatures; order is kept."""
    scores = np.asarray(logits, dtype=np.float64)
    expected = scores.shape[1] if task == "multilabel" else 1
    if len(temperatures) != expected or min(temperatures) <= 0:
        found = f"temperatures {tuple(temperatures)} for {task} logits of shape {scores.shape}"
        raise ValueError(f"{found}: expected {expected}, above 0")
    scaled = scores / np.asarray(temperatures, dtype=np.float64)
    if task != "multilabel":
        return np.asarray(np.exp(_log_softmax(scaled)), dtype=np.float64)
    from scipy.special import expit

    return np.asarray(expit(scaled), dtype=np.float64)


def fit_thresholds(probabilities: ArrayLike, labels: ArrayLike, task: Task) -> tuple[float, ...]:
    """Thresholds (C) for multi-label probabilities (N, C) by Youden's J (1950), empty for tasks that decide by argmax.

    A threshold lies midway between neighbouring scores, of equally good places in the widest gap, so that round-off
    does not flip a decision; 0.5 where a label lacks an outcome or no threshold beats chance.
    """
    scores, given = _arrays(probabilities, labels, task)
    if task != "multilabel":
        return ()
    thresholds = []
    for c in range(scores.shape[1]):
        kept = ~np.isnan(given[:, c])
        thresholds.append(_youden(scores[kept, c], given[kept, c] == 1))
    return tuple(thresholds)


def nll(probabilities: ArrayLike, labels: ArrayLike, task: Task) -> float:
    """Mean negative log-likelihood in nats, per labelled image (multi-label: per label present); ValueError if none."""
    scores, given = _arrays(probabilities, labels, task)
    if task == "multilabel":
        kept = ~np.isnan(given)
        likelihood = np.where(given == 1, scores, 1.0 - scores)[kept]
    else:
        kept = given >= 0
        likelihood = scores[kept, given[kept].astype(np.int64)]
    if len(likelihood) == 0:
        raise ValueError("the likelihood of no labels is undefined")
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())


def _best_temperature(loss: Callable[[float], float]) -> float:
    """Minimiser over log temperature: the loss is convex in 1 / temperature, so it has one minimum there too."""
    from scipy.optimize import minimize_scalar

    bounds = (np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE))
    found = minimize_scalar(lambda t: loss(float(np.exp(t))), bounds=bounds, method="bounded", options={"xatol": 1e-6})
    temperature = float(np.clip(np.exp(found.x), LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
    return temperature if loss(temperature) < loss(1.0) else 1.0


def _sigmoid_loss(signed: Array) -> Callable[[float], float]:
    return lambda temperature: float(np.logaddexp(0.0, signed / temperature).mean())


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _youden(scores: Array, positive: Array) -> float:
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return 0.5
    order = np.argsort(scores, kind="stable")
    score, is_positive = scores[order], positive[order]
    gap = np.diff(score)
    # J = tp / P - fp / N, kept in whole numbers (times P N) so that equal places compare equal.
    tp = n_positive - np.cumsum(is_positive)[:-1]
    fp = n_negative - np.cumsum(~is_positive)[:-1]
    j = np.where(gap > _SMALLEST_GAP, tp * n_negative - fp * n_positive, -1)
    if len(j) == 0 or j.max() <= 0:
        return 0.5
    best = np.flatnonzero(j == j.max())
    at = best[np.argmax(gap[best])]
    return float(score[at] + gap[at] / 2)


def _arrays(scores: ArrayLike, labels: ArrayLike, task: Task) -> tuple[Array, Array]:
    values, given = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(TASKS)}")
    if values.ndim != 2 or given.shape != (values.shape if task == "multilabel" else values.shape[:1]):
        raise ValueError(f"labels of shape {given.shape} do not fit {task} scores of shape {values.shape}")
    return values, given

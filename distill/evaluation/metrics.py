"""Metrics of a classifier, each written once, for rows with weights.

Owns: AUROC, accuracy, balanced accuracy, F1, quadratic kappa, Brier score and expected calibration error as functions
of a truth table and row weights. Weights of one give the value, "how often was this row drawn" gives a bootstrap
resample, so the two can never disagree. Does not own: resampling, intervals, checks of the input (evaluate.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.scores import Task

Array = NDArray[Any]


def statistics(
    truth: Array, valid: Array, predicted: Array, scores: Array, task: Task, weights: Array
) -> dict[str, Array]:
    """Every metric that fits the task, one value (B,) per column of weights (n, B); nan where undefined."""
    multilabel = task == "multilabel"
    tp, fn, fp, tn = (
        (cell & valid).T.astype(np.float64) @ weights
        for cell in (truth & predicted, truth & ~predicted, ~truth & predicted, ~truth & ~predicted)
    )
    total = weights.sum(axis=0)
    present = valid.T.astype(np.float64) @ weights
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    per_class = aurocs(truth, valid, scores, task, weights)
    error = np.where(valid, (scores - truth) ** 2, 0.0)
    result = {
        "auroc": column_mean(per_class),
        "auroc_per_class": per_class,
        "accuracy": column_mean(_ratio(tp + tn, present)) if multilabel else tp.sum(axis=0) / total,
        "balanced_accuracy": column_mean((sensitivity + specificity) / 2 if multilabel else sensitivity),
        "f1": column_mean(np.where(tp + fn > 0, _ratio(2 * tp, 2 * tp + fp + fn), np.nan)),
    }
    if task == "ordinal":
        result["kappa"] = _quadratic_kappa(truth.argmax(axis=1), predicted.argmax(axis=1), weights)
    if multilabel:
        result["brier"] = column_mean(_ratio(error.T @ weights, present))
        confidence, outcome, judged = scores, truth, valid
    else:
        result["brier"] = (error[:, 1] if task == "binary" else error.sum(axis=1)) @ weights / total
        best = scores.argmax(axis=1)[:, None]
        confidence, outcome = np.take_along_axis(scores, best, axis=1), np.take_along_axis(truth, best, axis=1)
        judged = np.ones_like(outcome)
    gaps = np.zeros((len(scores), 15))
    rows = np.broadcast_to(np.arange(len(scores))[:, None], judged.shape)
    np.add.at(gaps, (rows[judged], bin_of(confidence[judged])), (outcome - confidence)[judged])
    result["ece"] = np.abs(gaps.T @ weights).sum(axis=0) / (judged.sum(axis=1) @ weights)
    return result


def auroc_columns(task: Task, n_classes: int) -> range:
    """The columns that have an AUROC: class 1 alone for binary, else every class."""
    return range(1, 2) if task == "binary" else range(n_classes)


def aurocs(truth: Array, valid: Array, scores: Array, task: Task, weights: Array) -> Array:
    """One-against-rest AUROC (K, B) for weights (n, B): the share of (positive, negative) pairs in order, ties half."""
    columns = auroc_columns(task, truth.shape[1])
    result = np.full((len(columns), weights.shape[1]), np.nan)
    for k, c in enumerate(columns):
        rows = np.flatnonzero(valid[:, c])
        rows = rows[np.argsort(scores[rows, c], kind="stable")]
        positive, score = truth[rows, c], scores[rows, c]
        if positive.all() or not positive.any():
            continue
        # Only the negative weight below each positive row is needed; rows of equal score share the middle of their run.
        below = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights[rows[~positive]], axis=0)])
        negative_score = score[~positive]
        first = np.searchsorted(negative_score, score[positive], side="left")
        last = np.searchsorted(negative_score, score[positive], side="right")
        weight = weights[rows[positive]]
        pairs = np.einsum("pb,pb->b", weight, below[first] + below[last]) / 2
        result[k] = _ratio(pairs, weight.sum(axis=0) * below[-1])
    return result


def _quadratic_kappa(truth: Array, predicted: Array, weights: Array) -> Array:
    """Cohen's kappa with quadratic weights (B,); sum (i - j)^2 r_i c_j is written with first and second moments."""
    mean = weights / weights.sum(axis=0)
    t, p = truth.astype(np.float64), predicted.astype(np.float64)
    expected = t**2 @ mean + p**2 @ mean - 2 * (t @ mean) * (p @ mean)
    observed = (t - p) ** 2 @ mean
    return np.where(expected > 1e-12, 1 - _ratio(observed, expected), np.nan)


def bin_of(confidences: Array, bins: int = 15) -> NDArray[np.intp]:
    """Index of the equal-width bin (low, high] that holds each confidence; 0 belongs to the first."""
    return np.clip(np.searchsorted(np.linspace(0.0, 1.0, bins + 1), confidences, side="left") - 1, 0, bins - 1)


def _ratio(numerator: Array, denominator: Array) -> Array:
    empty = np.full(np.shape(numerator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=empty, where=denominator > 0))


def column_mean(values: Array) -> Array:
    """Mean over axis 0 of the entries that are defined; nan where none is (np.nanmean would warn)."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))

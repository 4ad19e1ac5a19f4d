"""Temperatures and decision thresholds, fitted on validation logits.

Owns: temperature scaling (Guo et al. 2017; one temperature for a softmax, one per label for independent sigmoids), the
negative log-likelihood it minimises, whether cross-validation shows that a temperature helps, and the multi-label
thresholds. Does not run a network or choose the split, nor judge the result (evaluate.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtimes.scores import TASKS, Task

Array = NDArray[Any]
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
FEWEST_IMAGES = 50  # labelled validation images; fewer show nothing about probabilities
FEWEST_OF_OUTCOME = 10  # validation images with and without a finding that its threshold should rest on
FOLDS = 5
_SMALLEST_GAP = 1e-6  # scores nearer than this are one score: float32 round-off on another runtime could swap them


def fit_temperatures(logits: ArrayLike, labels: ArrayLike, task: Task) -> tuple[float, ...]:
    """Temperatures in 0.05..20 that minimise the negative log-likelihood of logits (N, C): one, or C for multi-label.

    Never worse than temperature 1; missing labels (-1 or nan) are left out; where only one outcome occurs the
    temperature stays 1. ValueError when a logit is nan.
    """
    return tuple(_fitted(scores, targets) for scores, targets, _ in _columns(logits, labels, task))


def choose_temperatures(
    logits: ArrayLike, labels: ArrayLike, task: Task, *, groups: ArrayLike | None = None, fallback: Sequence[float] = (), seed: int = 0,
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Temperatures of fit_temperatures where cross-validation shows that they help, else `fallback` (1); and why one is not shown to.

    A reason is "" where the temperature lowers the log loss of images that it was not fitted on, by more than one standard
    error over images, on FEWEST_IMAGES at least and inside its bounds. groups: images of one group (a patient) share a fold.
    """
    columns = _columns(logits, labels, task)
    names = np.arange(len(np.asarray(labels))) if groups is None else np.asarray(groups)
    chosen = [_chosen(scores, targets, names[rows], before, seed)
              for (scores, targets, rows), before in zip(columns, fallback or [1.0] * len(columns), strict=True)]
    return tuple(temperature for temperature, _ in chosen), tuple(reason for _, reason in chosen)


def apply_temperatures(logits: ArrayLike, temperatures: Sequence[float], task: Task) -> NDArray[np.float64]:
    """Probabilities (N, C) in float64: softmax or, for multi-label, sigmoid of logits / temperatures; order is kept."""
    scores = np.asarray(logits, dtype=np.float64)
    expected = scores.shape[1] if task == "multilabel" else 1
    if len(temperatures) != expected or min(temperatures) <= 0:
        problem = f"temperatures {tuple(temperatures)} for {task} logits of shape {scores.shape}"
        raise ValueError(f"{problem}: expected {expected}, above 0")
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
    scores, targets = _arrays(probabilities, labels, task)
    if task != "multilabel":
        return ()
    thresholds = []
    for c in range(scores.shape[1]):
        labelled = ~np.isnan(targets[:, c])
        thresholds.append(_youden(scores[labelled, c], targets[labelled, c] == 1))
    return tuple(thresholds)


def nll(probabilities: ArrayLike, labels: ArrayLike, task: Task) -> float:
    """Mean negative log-likelihood in nats, per labelled image (multi-label: per label present); ValueError if none."""
    scores, targets = _arrays(probabilities, labels, task)
    if task == "multilabel":
        labelled = ~np.isnan(targets)
        likelihood = np.where(targets == 1, scores, 1.0 - scores)[labelled]
    else:
        labelled = targets >= 0
        likelihood = scores[labelled, targets[labelled].astype(np.int64)]
    if len(likelihood) == 0:
        raise ValueError("the likelihood of no labels is undefined")
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())


def few_images(labels: ArrayLike, task: Task, classes: Sequence[str]) -> dict[str, str]:
    """Findings whose threshold rests on few images, and on how many; empty for tasks that decide by argmax."""
    if task != "multilabel":
        return {}
    few = {}
    for name, column in zip(classes, np.asarray(labels, dtype=np.float64).T, strict=True):
        counts = [int((column == value).sum()) for value in (1, 0)]
        if min(counts) < FEWEST_OF_OUTCOME or sum(counts) < FEWEST_IMAGES:
            few[name] = f"{counts[0]} with it, {counts[1]} without"
    return few


def _columns(logits: ArrayLike, labels: ArrayLike, task: Task) -> list[tuple[Array, Array, Array]]:
    """What each temperature is fitted to: logits (n, C) and labels (n,) of labelled images, and their rows; sigmoids as two classes."""
    scores, targets = _arrays(logits, labels, task)
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {scores.size} logits are nan: the training has diverged")
    if task != "multilabel":
        rows = np.flatnonzero(targets >= 0)
        return [(scores[rows], targets[rows].astype(np.int64), rows)]
    columns = []
    for c in range(scores.shape[1]):
        rows = np.flatnonzero(~np.isnan(targets[:, c]))
        columns.append((scores[rows, c:c + 1], (targets[rows, c] == 1).astype(np.int64), rows))
    return columns


def _losses(scores: Array, targets: Array, temperature: float) -> Array:
    """Log loss of each image (n,): a softmax over classes, or of a single column a sigmoid."""
    if scores.shape[1] == 1:
        # log(1 + exp(-z)) for a positive, log(1 + exp(z)) for a negative: one formula with the sign folded into z.
        return np.asarray(np.logaddexp(0.0, np.where(targets == 1, -scores[:, 0], scores[:, 0]) / temperature))
    return np.asarray(-_log_softmax(scores / temperature)[np.arange(len(targets)), targets])


def _fitted(scores: Array, targets: Array) -> float:
    if len(np.unique(targets)) < 2:
        return 1.0
    return _best_temperature(lambda temperature: float(_losses(scores, targets, temperature).mean()))


def _chosen(scores: Array, targets: Array, groups: Array, before: float, seed: int) -> tuple[float, str]:
    """The temperature of one column, and why it is not shown to help ("" where it is)."""
    count = f"{len(targets)} labelled validation images"
    if len(np.unique(targets)) < 2:
        return before, f"{count} of one outcome alone"
    temperature = _fitted(scores, targets)
    loss, *ends = (_losses(scores, targets, value).mean() for value in (temperature, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
    if min(ends) <= loss + 1e-9:  # all decisions right, or hardly any: the sharper, or the flatter, the better
        return before, f"the best temperature for {count} lies beyond {LOWEST_TEMPERATURE:g} to {HIGHEST_TEMPERATURE:g}"
    parts = _folds(targets, groups, seed)
    gain = np.zeros(len(targets))
    for part in np.unique(parts):
        out = parts == part
        gain[out] = _losses(scores[out], targets[out], before) - _losses(scores[out], targets[out], _fitted(scores[~out], targets[~out]))
    if gain.mean() <= gain.std() / np.sqrt(len(gain)):
        return before, f"cross-validation on {count} does not show that a temperature lowers the log loss"
    return temperature, f"only {count}, fewer than {FEWEST_IMAGES}" if len(targets) < FEWEST_IMAGES else ""


def _folds(targets: Array, groups: Array, seed: int) -> Array:
    """A fold for each image (n,), whole groups in one, classes spread alike: shuffled groups, dealt out class by class."""
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    dealt = shuffled[np.argsort(targets[first][shuffled], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[dealt] = np.arange(len(first)) % FOLDS
    return np.asarray(fold[member.reshape(-1)])


def _best_temperature(loss: Callable[[float], float]) -> float:
    """Minimiser over log temperature: the loss is convex in 1 / temperature, so it has one minimum there too."""
    from scipy.optimize import minimize_scalar

    bounds = (np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE))
    minimum = minimize_scalar(lambda t: loss(float(np.exp(t))), bounds=bounds, method="bounded", options={"xatol": 1e-6})
    temperature = float(np.clip(np.exp(minimum.x), LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
    return temperature if loss(temperature) < loss(1.0) else 1.0


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
    values, targets = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(TASKS)}")
    if values.ndim != 2 or targets.shape != (values.shape if task == "multilabel" else values.shape[:1]):
        raise ValueError(f"labels of shape {targets.shape} do not fit {task} scores of shape {values.shape}")
    return values, targets

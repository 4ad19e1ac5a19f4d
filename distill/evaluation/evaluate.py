"""A classifier judged: metrics with bootstrap intervals.

Owns: `evaluate` (the inner object of metrics.json), 95 % percentile intervals over whole patients, the paired
difference of two classifiers, decisions, calibration error. Does not own: the metrics' formulas (metrics.py), fitting
(calibrate.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.evaluation.metrics import Array, auroc_columns, aurocs, bin_of, column_mean, statistics
from runtimes.scores import TASKS, Task, decide

COMMON = 10  # images with a finding, and without, below which its AUROC is mostly chance
_CHUNK_ELEMENTS = 500_000  # rows x resamples held at once: 4 MB of float64, which stays in the cache


def evaluate(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    task: Task,
    classes: Sequence[str],
    groups: ArrayLike | None = None,
    thresholds: Sequence[float] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of probabilities (N, C), each {"value", "low", "high"}: the inner object of metrics.json.

    Rows without any label are dropped; groups (N,) are patients, resampled whole. A class without positives or without
    negatives is named under "undefined" and left out of means; a metric that does not apply is absent. "auroc_common", where a
    finding of several is rare, is the mean AUROC of the "findings" with COMMON images of either outcome at least. With n_bootstrap
    0 low and high equal the value. ValueError for shapes or values that do not fit the task.
    """
    truth, valid, scores, labelled = _tables(labels, probabilities, task)
    names = [str(name) for name in classes]
    if truth.shape[1] != len(names):
        raise ValueError(f"probabilities have {truth.shape[1]} columns, but {len(names)} classes are named: {names}")
    result: dict[str, Any] = {"n": len(truth)}
    columns = auroc_columns(task, len(names))
    positives, negatives = (truth & valid).sum(0), (~truth & valid).sum(0)
    result["undefined"] = [names[c] for c in columns if positives[c] == 0 or negatives[c] == 0]
    if len(truth) == 0:
        return result
    chosen = decisions(scores, task, thresholds)
    predicted = chosen.astype(bool) if task == "multilabel" else chosen[:, None] == np.arange(len(names))
    point = statistics(truth, valid, predicted, scores, task, np.ones((len(truth), 1)))
    draws: dict[str, list[Array]] = {key: [] for key in point}
    for weights in _resamples(labelled, groups, n_bootstrap, seed):
        for key, values in statistics(truth, valid, predicted, scores, task, weights).items():
            draws[key].append(values)
    per_class: dict[str, dict[str, float]] = {}
    for key, values in point.items():
        drawn = np.concatenate(draws[key], axis=-1) if draws[key] else np.empty((*values.shape[:-1], 0))
        if key == "auroc_per_class":
            common = (np.minimum(positives, negatives) >= COMMON)[list(columns)]
            if task == "multilabel" and 0 < common.sum() < np.isfinite(values[:, 0]).sum():
                result["auroc_common"] = {**_interval(float(values[common, 0].mean()), column_mean(drawn[common])),
                                          "findings": int(common.sum())}
            rows = zip(columns, values[:, 0], drawn, strict=True)
            per_class = {names[c]: _interval(value, row) for c, value, row in rows if np.isfinite(value)}
        elif np.isfinite(values[0]):
            result[key] = _interval(values[0], _centred(values[0], drawn) if key == "ece" else drawn)
    return result | ({"auroc_per_class": per_class} if per_class else {})


def auroc_difference(
    labels: ArrayLike,
    p_a: ArrayLike,
    p_b: ArrayLike,
    task: Task,
    groups: ArrayLike | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """AUROC of p_a minus that of p_b, both (N, C), with a paired 95 % interval; empty if no class has both outcomes."""
    truth, valid, scores_a, labelled = _tables(labels, p_a, task)
    _, _, scores_b, _ = _tables(labels, p_b, task)
    if scores_a.shape != scores_b.shape:
        raise ValueError(f"the two sets of probabilities differ in shape: {scores_a.shape} and {scores_b.shape}")

    def difference(weights: Array) -> Array:
        a, b = (column_mean(aurocs(truth, valid, scores, task, weights)) for scores in (scores_a, scores_b))
        return a - b

    value = difference(np.ones((len(truth), 1)))[0] if len(truth) else np.nan
    if not np.isfinite(value):
        return {}
    drawn = [difference(weights) for weights in _resamples(labelled, groups, n_bootstrap, seed)]
    return _interval(value, np.concatenate(drawn) if drawn else np.empty(0))


def decisions(probabilities: ArrayLike, task: Task, thresholds: Sequence[float] | None = None) -> NDArray[np.int64]:
    """Decisions as the device takes them (`decide`): int64, class index (N,), or for multi-label 0/1 (N, C)."""
    scores = np.asarray(probabilities, dtype=np.float64)
    limits = () if thresholds is None else thresholds
    if task == "multilabel" and len(limits) not in (0, scores.shape[1]):
        raise ValueError(f"{len(limits)} thresholds for {scores.shape[1]} labels")
    return decide(scores, task, limits).astype(np.int64)


def ece(confidences: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error of confidences (N,) in 0..1 against outcomes (N,) (Guo et al. 2017, equation 3)."""
    confidence, outcome = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if len(confidence) == 0:
        raise ValueError("the calibration error of no decisions is undefined")
    gap = np.bincount(bin_of(confidence, bins), weights=outcome - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def confidences(labels: ArrayLike, probabilities: ArrayLike, task: Task) -> tuple[Array, Array]:
    """What calibration is judged on: (confidences, outcomes), flat.

    One row per image for softmax tasks (largest probability, was it right); for multi-label one per label present
    (probability of the finding, was it there), pooled over labels.
    """
    truth, valid, scores, _ = _tables(labels, probabilities, task)
    if task == "multilabel":
        return scores[valid], truth[valid].astype(np.float64)
    best = scores.argmax(axis=1)
    rows = np.arange(len(scores))
    return scores[rows, best], truth[rows, best].astype(np.float64)


def _tables(labels: ArrayLike, probabilities: ArrayLike, task: Task) -> tuple[Array, Array, Array, Array]:
    """Truth, presence (both bool (n, C)) and scores (n, C) of the labelled rows, and which rows (N,) those are."""
    scores = np.asarray(probabilities, dtype=np.float64)
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(TASKS)}")
    if scores.ndim != 2 or (task == "binary" and scores.shape[1] != 2):
        expected = "(N, 2)" if task == "binary" else "(N, C)"
        raise ValueError(f"{task} probabilities have shape {scores.shape}, expected {expected}")
    targets = np.asarray(labels)
    if targets.shape != (scores.shape if task == "multilabel" else scores.shape[:1]):
        raise ValueError(f"labels of shape {targets.shape} do not fit {task} probabilities of shape {scores.shape}")
    if task == "multilabel":
        targets = targets.astype(np.float64)
        valid = ~np.isnan(targets)
        if not np.isin(targets[valid], (0.0, 1.0)).all():
            raise ValueError("multi-label labels must be 0, 1 or nan")
        truth, labelled = targets == 1, valid.any(axis=1)
    else:
        if targets.size and (targets.max() >= scores.shape[1] or targets.min() < -1):
            raise ValueError(f"labels run from {targets.min()} to {targets.max()}, expected -1 to {scores.shape[1] - 1}")
        truth, labelled = targets[:, None] == np.arange(scores.shape[1]), targets >= 0
        valid = np.ones(scores.shape, dtype=bool)
    if not np.isfinite(scores[labelled]).all():
        raise ValueError(f"{int((~np.isfinite(scores[labelled])).sum())} probabilities are not finite")
    return truth[labelled], valid[labelled], scores[labelled], labelled


def _resamples(labelled: Array, groups: ArrayLike | None, n_bootstrap: int, seed: int) -> Iterator[Array]:
    """Chunks (n, b) of weights of the n kept rows: how often each was drawn when whole groups are, with replacement."""
    n = int(labelled.sum())
    group = np.arange(n)
    if groups is not None:
        if np.shape(groups) != labelled.shape:
            raise ValueError(f"groups of shape {np.shape(groups)} do not fit {len(labelled)} rows")
        group = np.unique(np.asarray(groups)[labelled], return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    n_groups = int(group.max()) + 1
    chunk = max(1, _CHUNK_ELEMENTS // n)
    for start in range(0, n_bootstrap, chunk):
        b = min(chunk, n_bootstrap - start)
        drawn = generator.integers(n_groups, size=(b, n_groups)) * b + np.arange(b)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=n_groups * b).reshape(n_groups, b)
        yield counts[group].astype(np.float64)


def _centred(value: float, drawn: Array) -> Array:
    """Draws moved so that their median is the value: noise in each bin makes every resample look worse calibrated."""
    return np.asarray(np.maximum(drawn - np.median(drawn) + value, 0.0)) if len(drawn) else drawn


def _interval(value: float, drawn: Array) -> dict[str, float]:
    defined = drawn[np.isfinite(drawn)]
    low, high = np.percentile(defined, (2.5, 97.5)) if len(defined) else (value, value)
    return {"value": float(value), "low": float(low), "high": float(high)}

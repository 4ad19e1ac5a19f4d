"""Whether a graph of lower precision still decides as the PyTorch model does: the figures, and the limits they are held against.

Owns: Verdict and `judge`. Pure numbers. Does not own: the limits (options.py), making a graph (fp16.py, int8.py), running one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.networks.checkpoint import Calibration
from export.options import Limits
from runtimes.scores import Task, calibrated, decide

MOST_MEAN_CHANGE = 0.02  # of probabilities, on average over images and classes: beyond it a graph is another model


@dataclass(frozen=True)
class Verdict:
    """Figures of a graph against the PyTorch model on the same images; auroc_change is None where AUROC is undefined.

    flips: images of which any decision changed; changed, decisions: single decisions, one an image or, of several labels, one each.
    """

    images: int
    flips: int
    changed: int
    decisions: int
    auroc_change: float | None
    mean_probability_change: float
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    def describe(self) -> str:
        """One line for people."""
        change = "undefined" if self.auroc_change is None else f"{self.auroc_change:+.4f}"
        return (f"{self.changed} of {self.decisions} decisions flipped, AUROC {change}, probabilities by "
                f"{self.mean_probability_change:.4f} on average")


def judge(probabilities: NDArray[Any], expected: NDArray[Any], labels: NDArray[Any], *, task: Task, thresholds: Sequence[float],
          limits: Limits) -> Verdict:
    """Compare probabilities (N, C) with PyTorch's; labels as in ImageSet. A score that is not finite fails by itself."""
    from distill.evaluation.evaluate import auroc_difference

    count = len(expected)
    if not np.isfinite(probabilities).all():
        return Verdict(count, count, count, count, None, 1.0, ("scores are not finite",))
    changed = decide(probabilities, task, thresholds) != decide(expected, task, thresholds)
    flips = int((changed.any(axis=1) if changed.ndim == 2 else changed).sum())
    change = auroc_difference(labels, probabilities, expected, task, n_bootstrap=0).get("value")
    mean = float(np.abs(probabilities.astype(np.float64) - expected).mean())
    reasons = []
    if changed.sum() > limits.max_flips * changed.size:
        allowed = int(limits.max_flips * changed.size)
        reasons.append(f"{changed.sum()} of {changed.size} decisions flipped, allowed {allowed} (--max-flips {100 * limits.max_flips:g}%)")
    if change is not None and change < -limits.max_auc_drop:
        reasons.append(f"AUROC fell by {-change:.4f}, allowed {limits.max_auc_drop:g} (--max-auc-drop)")
    if mean > MOST_MEAN_CHANGE:
        reasons.append(f"probabilities moved by {mean:.3f} on average, allowed {MOST_MEAN_CHANGE:g}")
    return Verdict(count, flips, int(changed.sum()), changed.size, None if change is None else float(change), mean, tuple(reasons))


def judge_logits(logits: NDArray[Any], expected: NDArray[Any], labels: NDArray[Any], task: Task, calibration: Calibration,
                 limits: Limits) -> Verdict:
    """Compare logits (N, C), under the calibration of the PyTorch model, with its probabilities (N, C)."""
    finite = np.isfinite(logits).all()
    probabilities = calibrated(logits, task, calibration.temperatures) if finite else np.full_like(expected, np.nan)
    return judge(probabilities, expected, labels, task=task, thresholds=calibration.thresholds, limits=limits)

"""Whether two sets of scores say the same: distance of logits, decisions that flipped, and which of those stood on the border.

Owns: Agreement, `compare`, `border_distance`, `tail_difference`, what each precision is allowed. Used by the self-test on a device and
by parity at export, so that both mean the same by "the same decisions". Does not own: where scores come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.scores import Task, calibrated, decide

# How far probabilities may lie from the calibration of their own logits: bf16 may compute softmax and temperature, too.
TAIL = {"fp32": 1e-4, "fp16": 1e-3, "int8": 1e-3, "bf16": 2e-2}

# How far logits may lie from the golden ones, relative above 1. fp32: the largest difference seen on 15 families is 6e-6. Lower
# precisions: kernels of other processors round otherwise, int8 by whole steps. No artifact may allow itself more.
TOLERANCES = {"fp32": 1e-4, "fp16": 3e-2, "bf16": 5e-2, "int8": 1e-1}


@dataclass(frozen=True)
class Agreement:
    """How far scores are from a reference: `difference` is the largest |logit - reference| / max(1, |reference|).

    flips counts images of which any decision changed; excused are those where the reference itself stood within twice the
    tolerance of the border at every changed decision, so that round-off alone tips it.
    """

    difference: float
    probability_difference: float
    flips: int
    excused: int

    def within(self, tolerance: float) -> bool:
        """Whether logits agree within the tolerance and no decision flipped that was not on the border."""
        return bool(self.difference <= tolerance) and self.flips == self.excused


def compare(logits: NDArray[Any], probabilities: NDArray[Any], expected_logits: NDArray[Any], expected: NDArray[Any], *,
            task: Task, temperatures: Sequence[float], thresholds: Sequence[float], tolerance: float) -> Agreement:
    """Compare scores (N, C) with expected ones; anything not finite counts as infinitely far."""
    scale = np.maximum(1.0, np.abs(expected_logits.astype(np.float64)))
    distance = np.abs(logits.astype(np.float64) - expected_logits) / scale
    difference = float(distance.max(initial=0.0)) if np.isfinite(distance).all() else float("inf")
    apart = np.abs(probabilities.astype(np.float64) - expected)
    probability_difference = float(apart.max(initial=0.0)) if np.isfinite(apart).all() else float("inf")
    changed = decide(probabilities, task, thresholds) != decide(expected, task, thresholds)
    margins = border_distance(expected_logits, task, temperatures, thresholds)
    on_border = margins <= 2 * tolerance
    if changed.ndim == 2:
        flipped, excused = changed.any(axis=1), changed.any(axis=1) & (on_border | ~changed).all(axis=1)
    else:
        flipped, excused = changed, changed & on_border
    return Agreement(difference, probability_difference, int(flipped.sum()), int(excused.sum()))


def border_distance(logits: NDArray[Any], task: Task, temperatures: Sequence[float],
                    thresholds: Sequence[float]) -> NDArray[np.float64]:
    """How far each decision is from tipping, in logits over max(1, |logit|): (N,), or for multi-label (N, C)."""
    values = logits.astype(np.float64)
    if task == "multilabel":
        limits = np.clip(np.asarray(thresholds if len(thresholds) else [0.5] * values.shape[1]), 1e-12, 1 - 1e-12)
        border = np.log(limits / (1 - limits)) * np.asarray(temperatures)
        return np.asarray(np.abs(values - border) / np.maximum(1.0, np.abs(values)))
    if values.shape[1] < 2:
        return np.full(len(values), np.inf)
    ranked = np.sort(values, axis=1)
    return np.asarray((ranked[:, -1] - ranked[:, -2]) / np.maximum(1.0, np.abs(ranked[:, -1])))


def tail_difference(logits: NDArray[Any], probabilities: NDArray[Any], task: Task, temperatures: Sequence[float]) -> float:
    """The furthest that probabilities (N, C) lie from the calibration of their own logits: another temperature shows here alone."""
    apart = np.abs(probabilities.astype(np.float64) - calibrated(logits, task, temperatures))
    return float(apart.max(initial=0.0)) if np.isfinite(apart).all() else float("inf")

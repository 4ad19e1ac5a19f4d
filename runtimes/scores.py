"""What a session answers: logits, probabilities and the decision taken from them.

Owns: Task, Scores, `decide`, softmax and sigmoid in numpy. Does not own: metrics, calibration fitting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Task = Literal["binary", "multiclass", "multilabel", "ordinal"]
TASKS: tuple[str, ...] = get_args(Task)


def decide(probabilities: NDArray[Any], task: Task, thresholds: Sequence[float] = ()) -> NDArray[Any]:
    """Decisions from probabilities (N, C): class index (N,), or for multi-label a bool per label (N, C)."""
    if task == "multilabel":
        limits = np.asarray(thresholds if len(thresholds) else [0.5] * probabilities.shape[1], dtype=np.float64)
        return np.asarray(probabilities >= limits)
    best: NDArray[Any] = probabilities.argmax(axis=1)
    return best


def calibrated(logits: NDArray[Any], task: Task, temperatures: Sequence[float]) -> NDArray[np.float32]:
    """Probabilities (N, C) of logits (N, C): softmax, or for multi-label sigmoid, of logits / temperatures."""
    scaled = logits.astype(np.float64) / np.asarray(temperatures, dtype=np.float64)
    if task == "multilabel":
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scaled)), dtype=np.float32)  # tanh does not overflow
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(slots=True)  # not frozen: that costs six calls at every image, and the arrays could be written to all the same
class Scores:
    """The answer for N images: logits (N, C), probabilities (N, C) and decisions, (N,) or for multi-label (N, C).

    attention: for volumes what each slice the network saw weighed, (N, S), rows sum to 1; None for images. notes: of `run_file` what a
    person should know of the scan that was read, such as a tilted gantry.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    decisions: NDArray[Any]
    classes: tuple[str, ...]
    task: Task
    attention: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> list[Any]:
        """The decided class name of each image, or for multi-label the list of names found."""
        if self.task == "multilabel":
            return [[name for name, hit in zip(self.classes, row, strict=True) if hit] for row in self.decisions]
        return [self.classes[index] for index in self.decisions]

"""The self-test of an artifact on the machine that will use it: bytes, golden vectors, facts. No torch, no onnx package.

Owns: `verify`, the comparison of scores with golden scores. Does not own: reading tensors (tensor_proto.py), flags (cli.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact import Artifact, read_artifact
from runtimes.errors import DONE, FAILED, PARITY, UserError
from runtimes.scores import Task, calibrated, decide
from runtimes.session import open_session
from runtimes.tensor_proto import read_tensor


@dataclass(frozen=True)
class Agreement:
    """How far scores are from a reference: `difference` is the largest |logit - reference| / max(1, |reference|).

    flips counts changed decisions, one an image or, for multi-label, one a label; excused are those where the reference itself
    stood within twice the tolerance of the border, so that round-off alone can tip it.
    """

    difference: float
    probability_difference: float
    flips: int
    excused: int

    def within(self, tolerance: float) -> bool:
        """Whether logits agree within the tolerance and no decision flipped that was not on the border."""
        return bool(self.difference <= tolerance) and self.flips == self.excused


def compare(logits: NDArray[Any], probabilities: NDArray[Any], expected_logits: NDArray[Any], expected: NDArray[Any], *,
            task: Task, temperatures: tuple[float, ...], thresholds: tuple[float, ...], tolerance: float) -> Agreement:
    """Compare scores (N, C) with expected ones; anything not finite counts as infinitely far."""
    scale = np.maximum(1.0, np.abs(expected_logits.astype(np.float64)))
    distance = np.abs(logits.astype(np.float64) - expected_logits) / scale
    difference = float(distance.max(initial=0.0)) if np.isfinite(distance).all() else float("inf")
    apart = np.abs(probabilities.astype(np.float64) - expected)
    probability_difference = float(apart.max(initial=0.0)) if np.isfinite(apart).all() else float("inf")
    changed = decide(probabilities, task, thresholds) != decide(expected, task, thresholds)
    margins = border_distance(expected_logits, task, temperatures, thresholds)
    excused = changed & (margins <= 2 * tolerance)
    return Agreement(difference, probability_difference, int(changed.sum()), int(excused.sum()))


def border_distance(logits: NDArray[Any], task: Task, temperatures: tuple[float, ...],
                    thresholds: tuple[float, ...]) -> NDArray[np.float64]:
    """How far each decision is from tipping, in logits over max(1, |logit|): (N,), or for multi-label (N, C)."""
    values = logits.astype(np.float64)
    if task == "multilabel":
        limits = np.clip(np.asarray(thresholds or [0.5] * values.shape[1]), 1e-12, 1 - 1e-12)
        border = np.log(limits / (1 - limits)) * np.asarray(temperatures)
        return np.asarray(np.abs(values - border) / np.maximum(1.0, np.abs(values)))
    if values.shape[1] < 2:
        return np.full(len(values), np.inf)
    ranked = np.sort(values, axis=1)
    return np.asarray((ranked[:, -1] - ranked[:, -2]) / np.maximum(1.0, np.abs(ranked[:, -1])))


def read_golden(artifact: Artifact) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The golden input, logits (N, C) and probabilities (N, C); probabilities of a logits-only graph are computed."""
    folder = artifact.golden
    inputs, logits = read_tensor(folder / "input_0.pb"), read_tensor(folder / "output_0.pb")
    shape = (len(inputs) if inputs.ndim else 0, len(artifact.classes))
    if logits.shape != shape or logits.dtype != np.float32 or shape[0] == 0:
        raise UserError(f"{folder}: golden logits are {logits.dtype} {logits.shape}, expected float32 {shape}")
    if artifact.input_kind == "tensor":
        return inputs, logits, calibrated(logits, artifact.task, artifact.temperatures)
    probabilities = read_tensor(folder / "output_1.pb")
    if probabilities.shape != shape or probabilities.dtype != np.float32:
        raise UserError(f"{folder}: golden probabilities are {probabilities.dtype} {probabilities.shape}, expected float32 {shape}")
    return inputs, logits, probabilities


def verify(folder: Path, *, threads: int | None = None, device: str = "cpu") -> tuple[int, dict[str, Any]]:
    """Check an artifact on this machine: exit code (0, 1, 3) and facts; UserError where it cannot be checked (1, 2, 5)."""
    artifact = read_artifact(folder)
    inputs, logits, probabilities = read_golden(artifact)
    session = open_session(folder, threads=threads, device=device, check=False)  # the bytes were checked a moment ago
    try:
        scores = session.run(inputs)
        facts = session.facts()
    finally:
        session.close()
    found = compare(scores.logits, scores.probabilities, logits, probabilities, task=artifact.task,
                    temperatures=artifact.temperatures, thresholds=artifact.thresholds, tolerance=artifact.tolerance)
    report = {"artifact": str(folder), "files": len(artifact.manifest["files"]), **facts, "golden_images": len(inputs),
              "difference": found.difference, "tolerance": artifact.tolerance, "flips": found.flips, "excused": found.excused}
    if scores.logits.shape != logits.shape:
        return FAILED, report
    return (DONE if found.within(artifact.tolerance) else PARITY), report

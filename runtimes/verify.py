"""The self-test of an artifact on the machine that will use it: bytes, golden vectors, facts. No torch, no onnx package.

Owns: `verify`, reading golden vectors. Does not own: what agreement means (agreement.py), tensors (tensor_proto.py), signatures
(signature.py), flags (cli.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.agreement import TAIL, compare, tail_difference
from runtimes.artifact import Artifact, read_artifact
from runtimes.errors import DONE, PARITY, UserError
from runtimes.scores import calibrated
from runtimes.session import CheckedSession, open_runtime
from runtimes.signature import is_signed
from runtimes.tensor_proto import read_tensor


def read_golden(artifact: Artifact) -> tuple[Any, NDArray[Any], NDArray[Any]]:
    """The golden input (volumes: slices and mask), logits (N, C) and probabilities (N, C); those of a logits-only graph are computed."""
    folder = artifact.golden
    given, logits = read_tensor(folder / "input_0.pb"), read_tensor(folder / "output_0.pb")
    inputs: Any = given if artifact.image_spec.volume is None else (given, read_tensor(folder / "input_1.pb"))
    shape = (len(given) if given.ndim else 0, len(artifact.classes))
    if logits.shape != shape or logits.dtype != np.float32 or shape[0] == 0:
        raise UserError(f"{folder}: golden logits are {logits.dtype} {logits.shape}, expected float32 {shape}")
    if artifact.input_kind == "tensor":
        return inputs, logits, calibrated(logits, artifact.task, artifact.temperatures)
    probabilities = read_tensor(folder / "output_1.pb")
    if probabilities.shape != shape or probabilities.dtype != np.float32:
        raise UserError(f"{folder}: golden probabilities are {probabilities.dtype} {probabilities.shape}, expected float32 {shape}")
    return inputs, logits, probabilities


def verify(folder: Path, *, threads: int | None = None, device: str = "cpu",
           public_key: Path | None = None) -> tuple[int, dict[str, Any]]:
    """Check an artifact on this machine: exit code (0, 1, 3) and facts; UserError where it cannot be checked (1, 2, 5).

    public_key: the PEM file of the key that must have signed it; nothing of the artifact is opened before that is known.
    """
    artifact = read_artifact(folder, public_key=public_key)
    signature = "good" if artifact.signed_by else "not checked" if is_signed(folder) else "none"
    inputs, logits, probabilities = read_golden(artifact)
    session = CheckedSession(artifact, open_runtime(artifact, threads=threads, device=device))
    try:
        scores = session.run(inputs)
        facts = session.facts()
    finally:
        session.close()
    found = compare(scores.logits, scores.probabilities, logits, probabilities, task=artifact.task,
                    temperatures=artifact.temperatures, thresholds=artifact.thresholds, tolerance=artifact.tolerance)
    tail = tail_difference(scores.logits, scores.probabilities, artifact.task, artifact.temperatures)
    good = found.within(artifact.tolerance) and tail <= TAIL[artifact.precision]
    report = {"artifact": str(folder), "files": len(artifact.manifest["files"]), "signature": signature,
              "signed_by": artifact.signed_by or None, **facts, "golden_images": len(logits), "difference": found.difference,
              "tolerance": artifact.tolerance, "flips": found.flips, "excused": found.excused,
              "calibration_difference": tail, "calibration_tolerance": TAIL[artifact.precision]}
    return (DONE if good else PARITY), report

"""The self-test of an artifact on the machine that will use it: bytes, golden vectors, facts. No torch, no onnx package.

Owns: `verify`, reading golden vectors, an image answered once that is passed. Does not own: what agreement means (agreement.py), tensors
(tensor_proto.py), signatures (signature.py), flags (cli.py), what is written of an answer (results/).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.agreement import TAIL, compare, tail_difference
from runtimes.artifact.artifact import GOLDEN, Artifact, read_artifact
from runtimes.artifact.claims import check_beside
from runtimes.artifact.signature import is_signed
from runtimes.errors import DONE, PARITY, UserError
from runtimes.models.tensor_proto import named_tensor
from runtimes.results.findings import findings_of
from runtimes.results.record import check_results
from runtimes.scores import calibrated
from runtimes.session import CheckedSession, open_runtime


def read_golden(artifact: Artifact) -> tuple[Any, NDArray[Any], NDArray[Any]]:
    """The golden input (volumes: slices and mask), logits (N, C) and probabilities (N, C); those of a logits-only graph are computed.

    UserError where they are not what the manifest speaks of, or could prove nothing.
    """
    folder = artifact.golden
    images, logits = _tensor(artifact, "input_0.pb"), _tensor(artifact, "output_0.pb")
    count = len(images) if images.ndim else 0
    _check_golden(images, input_form(artifact), count, folder / "input_0.pb")
    inputs: Any = images
    if artifact.image_spec.masked:
        mask = _tensor(artifact, "input_1.pb")
        _check_golden(mask, (np.uint8, (artifact.image_spec.slices,)), count, folder / "input_1.pb")
        inputs = (images, mask)
    if count > 1 and (images == images[:1]).all():
        raise UserError(f"{folder / 'input_0.pb'}: all {count} golden images are the same one, which proves next to nothing; "
                        "export the artifact again")
    scores = (np.float32, (len(artifact.classes),))
    _check_golden(logits, scores, count, folder / "output_0.pb")
    if artifact.input_kind == "tensor":
        return inputs, logits, calibrated(logits, artifact.task, artifact.temperatures)
    probabilities = _tensor(artifact, "output_1.pb")
    _check_golden(probabilities, scores, count, folder / "output_1.pb")
    return inputs, logits, probabilities


def _tensor(artifact: Artifact, name: str) -> NDArray[Any]:
    """One golden tensor, of the bytes that the manifest names."""
    return named_tensor(artifact.read(f"{GOLDEN}/{name}"), artifact.golden / name)


def input_form(artifact: Artifact) -> tuple[Any, tuple[int, ...]]:
    """Dtype and shape, without the batch, of what the graph takes first."""
    spec = artifact.image_spec
    if artifact.input_kind == "tensor":
        return np.float32, (3, spec.height, spec.width)
    return np.dtype(spec.dtype), (*((spec.slices,) if spec.slices else ()), *artifact.graph_size, spec.channels)


def _check_golden(values: NDArray[Any], form: tuple[Any, tuple[int, ...]], count: int, path: Path) -> None:
    """UserError where golden values have another dtype or shape than the manifest says, are none, or not finite."""
    dtype, shape = np.dtype(form[0]), (count, *form[1])
    if values.dtype != dtype or values.shape != shape or count == 0:
        what = "golden logits" if path.name == "output_0.pb" else "golden probabilities" if path.name == "output_1.pb" else "golden input"
        raise UserError(f"{path}: {what} {values.dtype} {values.shape}, expected {dtype} {('1 or more', *shape[1:])}; "
                        "export the artifact again")
    if not np.isfinite(values).all():
        raise UserError(f"{path}: golden values hold NaN or Inf; export the artifact again")


def verify(folder: Path, *, threads: int | None = None, device: str = "cpu", public_key: Path | None = None, image: Path | None = None,
           trace: Path | None = None, dicom_sr: Path | None = None, overwrite: bool = False) -> tuple[int, dict[str, Any]]:
    """Check an artifact on this machine: exit code (0, 1, 3) and facts; UserError where it cannot be checked (1, 2, 5).

    public_key: the PEM file of the key that must have signed it; nothing of the artifact is opened before that is known. image: a file to
    answer by the very session that passed, under `answer` in the facts; trace, dicom_sr, overwrite: as of `run_file`.
    """
    if image is not None:  # before anything is opened
        check_results(image, trace=trace, dicom_sr=dicom_sr, overwrite=overwrite)
    artifact = read_artifact(folder, public_key=public_key)
    for name in ("config.json", "preprocessor_config.json", "parity.json", "latency.json"):
        if name in artifact.manifest["files"]:
            check_beside(artifact.manifest["artifact"], name, artifact.read_json(name), str(folder))
    signature = "good" if artifact.signed_by else "not checked" if is_signed(folder) else "none"
    inputs, logits, probabilities = read_golden(artifact)
    session = CheckedSession(artifact, open_runtime(artifact, threads=threads, device=device))
    try:
        scores = session.run(inputs)
        facts = session.facts()
        comparison = compare(scores.logits, scores.probabilities, logits, probabilities, task=artifact.task,
                             temperatures=artifact.temperatures, thresholds=artifact.thresholds, tolerance=artifact.tolerance)
        # Probabilities follow from their logits by the manifest's temperatures: the golden ones, and those of this machine.
        tail = max(tail_difference(logits, probabilities, artifact.task, artifact.temperatures),
                   tail_difference(scores.logits, scores.probabilities, artifact.task, artifact.temperatures))
        allowed = 2 * TAIL[artifact.precision]  # twice: export has seen it on one machine only
        good = comparison.within(artifact.tolerance) and tail <= allowed
        answer = {}
        if image is not None and good:
            answered = session.run_file(image, trace=trace, dicom_sr=dicom_sr, overwrite=overwrite)
            answer = {"answer": [asdict(finding) for finding in findings_of(answered, artifact.thresholds)], "notes": list(answered.notes)}
    finally:
        session.close()
    report = {"artifact": str(folder), "files": len(artifact.manifest["files"]), "signature": signature,
              "signed_by": artifact.signed_by or None, **facts, "golden_images": len(logits), "difference": comparison.difference,
              "tolerance": artifact.tolerance, "flips": comparison.flips, "excused": comparison.excused,
              "calibration_difference": tail, "calibration_tolerance": allowed, **answer}
    return (DONE if good else PARITY), report

"""What an artifact carries for its device: golden vectors in ONNX's own layout, and the timing of its calls at export.

Owns: test_data_set_0 and latency.json. Does not own: replaying golden vectors (runtimes/verify.py), proof (parity.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distill.checkpoint import Checkpoint
from distill.progress import say
from export.answers import accepted, evenly, reference_logits
from export.config import ExportSettings
from runtimes.artifact import Artifact
from runtimes.errors import UserError
from runtimes.folder import write_atomic, write_json
from runtimes.images import ImageSet
from runtimes.latency import measure
from runtimes.scores import calibrated
from runtimes.session import Session

WARMUPS = 50


def write_golden(folder: Path, checkpoint: Checkpoint, artifact: Artifact, session: Session, images: ImageSet, rows: list[int],
                  count: int) -> Any:
    """Golden inputs, logits and probabilities as TensorProto files; returns the inputs.

    The answers are PyTorch's own in fp32; a lower precision is held to what it answered here, which parity has compared with PyTorch.
    """
    from onnx import numpy_helper

    taken = list(accepted(images.images, artifact, evenly(rows, count)))
    if not taken:
        raise UserError("none of the images chosen as golden vectors passes the input check; raise --golden-images")
    given = tuple(np.concatenate(parts) for parts in zip(*(one.batch for one in taken), strict=True))
    if artifact.precision == "fp32":
        logits = reference_logits(checkpoint.model, [one.inputs for one in taken])
        probabilities = calibrated(logits, artifact.task, artifact.temperatures)
    else:
        answered = session.run(given if len(given) > 1 else given[0])
        logits, probabilities = answered.logits, answered.probabilities
    tensors = {f"input_{place}.pb": (one, name) for place, (one, name) in enumerate(zip(given, artifact.input_names, strict=True))}
    tensors["output_0.pb"] = (logits, "logits")
    if artifact.input_kind == "image":
        tensors["output_1.pb"] = (probabilities, "probabilities")
    folder.mkdir()
    for name, (array, label) in tensors.items():
        write_atomic(folder / name, numpy_helper.from_array(array, label).SerializeToString(deterministic=True))
    return given


def not_timed(folder: Path, session: Session, reason: str) -> dict[str, float]:
    """A latency.json that says why it holds no figure."""
    facts = {**session.facts(), "not_measured": reason}
    write_json(folder / "latency.json", {"format": 1, "samples_ns": [], "warmup_ns": [], "facts": facts})
    return {}


def timed(folder: Path, session: Session, golden: Any, settings: ExportSettings, more: dict[str, Any]) -> dict[str, float]:
    """Time the artifact on its first golden image, write latency.json, print it; percentiles in milliseconds. more: further facts."""
    first = tuple(one[:1].copy() for one in golden)
    image = first if len(first) > 1 else first[0]
    facts = {**session.facts(), "batch": 1, "path": "array", **more}
    report = measure(lambda: session.run(image), warmups=WARMUPS, samples=settings.samples, facts=facts)
    write_json(folder / "latency.json", report.as_dict())
    shown = report.percentiles_ms()
    rest = "".join(f", {key.removesuffix('_ms')} {shown[key]:.2f}" for key in ("p90_ms", "p95_ms") if key in shown)
    say("latency", f"{shown['p50_ms']:.2f} ms p50{rest} (array to decision, batch 1, {settings.threads} thread(s), "
                   f"{report.facts['provider'].removesuffix('ExecutionProvider')}, {report.facts['cpu']})")
    return shown

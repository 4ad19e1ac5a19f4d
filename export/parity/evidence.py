"""What an artifact carries for its device: golden vectors in ONNX's own layout, and the timing of its calls at export.

Owns: test_data_set_0 and latency.json. Does not own: which inputs are golden (golden.py), replaying them (runtimes/verify.py), proof
(parity.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.networks.checkpoint import Checkpoint
from distill.progress import say
from export.parity.answers import reference_logits
from export.parity.golden import Golden
from runtimes.artifact.artifact import Artifact
from runtimes.files.folder import write_atomic, write_json
from runtimes.measure.latency import measure
from runtimes.scores import calibrated
from runtimes.session import Session

WARMUPS = 50


def write_golden(folder: Path, checkpoint: Checkpoint, artifact: Artifact, session: Session, golden: Golden) -> None:
    """Golden inputs, logits and probabilities as TensorProto files.

    The answers are PyTorch's own in fp32; a lower precision is held to what it answered here, which parity has compared with PyTorch.
    """
    from onnx import numpy_helper

    if artifact.precision == "fp32":
        logits = reference_logits(checkpoint.model, golden.inputs)
        probabilities = calibrated(logits, artifact.task, artifact.temperatures)
    else:
        answered = session.run(golden.batch if len(golden.batch) > 1 else golden.batch[0])
        logits, probabilities = answered.logits, answered.probabilities
    tensors = {f"input_{place}.pb": pair for place, pair in enumerate(zip(golden.batch, artifact.input_names, strict=True))}
    tensors["output_0.pb"] = (logits, "logits")
    if artifact.input_kind == "image":
        tensors["output_1.pb"] = (probabilities, "probabilities")
    folder.mkdir()
    for name, (array, label) in tensors.items():
        write_atomic(folder / name, numpy_helper.from_array(array, label).SerializeToString(deterministic=True))


def not_timed(folder: Path, session: Session) -> dict[str, float]:
    """A latency.json that says why it holds no figure; what the engine's library said may name places of this machine, and stays here."""
    reason = "the engine could not run on the machine that built it; rd-bench measures it on its device"
    facts = {**session.facts(), "not_measured": reason}
    write_json(folder / "latency.json", {"format": 1, "samples_ns": [], "warmup_ns": [], "facts": facts})
    return {}


def timed(folder: Path, session: Session, first: tuple[Any, ...], samples: int, threads: int, more: dict[str, Any]) -> dict[str, float]:
    """Time the artifact on one input, write latency.json, print it; percentiles in milliseconds. more: further facts."""
    image = first if len(first) > 1 else first[0]
    facts = {**session.facts(), "batch": 1, "path": "array", **more}
    report = measure(lambda: session.run(image), warmups=WARMUPS, samples=samples, facts=facts)
    write_json(folder / "latency.json", report.as_dict())
    shown = report.percentiles_ms()
    rest = "".join(f", {key.removesuffix('_ms')} {shown[key]:.2f}" for key in ("p90_ms", "p95_ms") if key in shown)
    say("latency", f"{shown['p50_ms']:.2f} ms p50{rest} (array to decision, batch 1, {threads} thread(s), "
                   f"{report.facts['provider'].removesuffix('ExecutionProvider')}, {report.facts['cpu']})")
    return shown

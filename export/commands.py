"""rd-export: student folder -> artifact folder, with proof and timing inside, or nothing at all.

Owns: the order of the work, what is written and printed. Does not own: the graph, the proof, the files' meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import Module

from distill.checkpoint import Checkpoint, load_checkpoint, preprocessor_config
from distill.deployed import reparameterised
from distill.progress import say, track
from export.card import artifact_card
from export.config import ExportSettings
from export.facts import MODEL, finished, graph_size, manifest_facts, metadata
from export.graph import DeployedGraph, TensorGraph, VolumeGraph, example_input
from export.hygiene import precision_share
from export.parity import device_image, graph_inputs, parity, reference_logits
from export.to_onnx import to_onnx
from runtimes.artifact import GOLDEN, INPUT_NAMES, MASK, Artifact, read_artifact
from runtimes.errors import DONE, MISSING, PARITY, USAGE, UserError
from runtimes.folder import check_out, new_folder, read_json, write_atomic, write_json, write_manifest
from runtimes.images import ImageSet
from runtimes.latency import measure
from runtimes.ort import load_runtime
from runtimes.scores import calibrated
from runtimes.session import Session, as_batch, open_session

WARMUPS = 50


def export(settings: ExportSettings, command: str = "", images_of: Callable[[Checkpoint], ImageSet] | None = None) -> int:
    """Export a student; returns 0, raises UserError (exit 3 where parity fails, 5 where a runtime is missing).

    images_of reads the images a student was made from; by default as its folder says, or from --data.
    """
    if (settings.target, settings.precision) != ("onnx", "fp32"):
        raise UserError(f"--target {settings.target} --precision {settings.precision} is not available in this version; "
                        "available: --target onnx --precision fp32", MISSING)
    out = settings.folder()
    if settings.resume and finished(out, settings):
        say("done", f"{out}/ was finished already; nothing to resume")
        return DONE
    check_out(out, overwrite=settings.overwrite)
    load_runtime()  # before the minutes of work, not after
    checkpoint = load_checkpoint(settings.student_dir, "student")
    say("student", f"{settings.student_dir}: {checkpoint.spec.arch}, {checkpoint.spec.task}, {len(checkpoint.spec.classes)} classes, "
                   f"{checkpoint.image_spec.height}x{checkpoint.image_spec.width} {checkpoint.image_spec.dtype}")
    images = images_of(checkpoint) if images_of is not None else _images(checkpoint, settings.data)
    if checkpoint.image_spec.volume is not None and (settings.input != "image" or settings.input_size):
        raise UserError("a student of volumes takes slices of its own size and a mask; leave --input tensor and --input-size out", USAGE)
    rows = parity_rows(images, settings.parity_images)
    with new_folder(out, overwrite=settings.overwrite) as folder:
        _write_model(folder, checkpoint, settings)
        facts = manifest_facts(checkpoint, settings, command)
        write_manifest(folder, "artifact", facts)  # so that the folder opens as on a device; written again as the last file
        artifact = read_artifact(folder)
        session = open_session(folder, threads=settings.threads, device=settings.device)
        try:
            proof = _prove(folder, checkpoint, artifact, session, images, rows, settings)
            golden = _write_golden(folder / GOLDEN, checkpoint, artifact, images, rows, settings.golden_images)
            timing = _time(folder, session, golden, settings)
        finally:
            session.close()
        metrics_file = settings.student_dir / "metrics.json"
        card = artifact_card(artifact, facts=facts["artifact"], parity=proof, latency=timing, latency_facts=read_json(
            folder / "latency.json")["facts"], metrics=read_json(metrics_file) if metrics_file.is_file() else {})
        write_atomic(folder / "README.md", card.encode())
        write_manifest(folder, "artifact", facts)
    print(f"{out}/  {', '.join(sorted(path.name for path in out.iterdir()))}")
    print(f"next: rd-verify {out}   (on the device)")
    return DONE


def parity_rows(images: ImageSet, most: int) -> list[int]:
    """Up to `most` validation images, evenly spaced."""
    rows = images.rows("val")
    if len(rows) == 0:
        raise UserError("the data has no validation images, so parity cannot be shown; name data that has some with --data")
    return [int(row) for row in rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]]


def _images(checkpoint: Checkpoint, data: str | None) -> ImageSet:
    from distill.intake import images_for

    try:
        images = images_for(checkpoint.manifest, data)
    except UserError as error:
        hint = "" if data else "; if the images have moved, name them with --data"
        raise UserError(f"the images this student was made from cannot be read again: {error}{hint}", error.exit_code) from None
    if images.task != checkpoint.spec.task or images.classes != checkpoint.spec.classes:
        raise UserError(f"these images are {images.task} with classes {', '.join(images.classes)}; the student decides "
                        f"{checkpoint.spec.task} between {', '.join(checkpoint.spec.classes)}")
    return images


def _write_model(folder: Path, checkpoint: Checkpoint, settings: ExportSettings) -> None:
    spec, size = checkpoint.image_spec, graph_size(checkpoint, settings)
    model = reparameterised(checkpoint.model)
    inputs, outputs = [INPUT_NAMES[settings.input]], ["logits", "probabilities"]
    graph: Module
    if settings.input == "tensor":
        graph, outputs = TensorGraph(model), ["logits"]
    elif spec.volume is not None:
        graph, inputs, outputs = VolumeGraph(model, spec, checkpoint.calibration), [*inputs, MASK], [*outputs, "attention"]
    else:
        graph = DeployedGraph(model, spec, checkpoint.calibration, size)
    data = to_onnx(graph, example_input(spec, settings.input, size), input_names=inputs, output_names=outputs, opset=settings.opset,
                   metadata=metadata(checkpoint, settings))
    write_atomic(folder / MODEL, data)
    write_atomic(folder / "config.json", (settings.student_dir / "config.json").read_bytes())
    write_json(folder / "preprocessor_config.json", preprocessor_config(spec))
    say("export", f"{MODEL} {len(data) / 1e6:.1f} MB, opset {settings.opset}, input {INPUT_NAMES[settings.input]} "
                  f"{spec.dtype if settings.input == 'image' else 'float32'} at {f'{spec.slices} slices of ' if spec.slices else ''}"
                  f"{size[0]}x{size[1]}, batch open")


def _prove(folder: Path, checkpoint: Checkpoint, artifact: Artifact, session: Session, images: ImageSet, rows: list[int],
           settings: ExportSettings) -> dict[str, Any]:
    with track("parity") as update:
        proof = parity(checkpoint.model, session, artifact, [images.images[row] for row in rows], images.labels[rows],
                       max_batch=settings.max_batch, precision_share=precision_share(artifact.model_path.read_bytes()),
                       progress=update)
    rounding = proof["rounding"]
    text = (f"{proof['images']} images, {proof['flips']} flips (rate below {100 * proof['flip_bound']:.1f} %), "
            f"logits within {_number(proof['max_logit_difference'])}, batches {', '.join(map(str, proof['batches']))}")
    if not proof["passed"]:
        raise UserError(f"parity failed: {text}; allowed {artifact.tolerance:.0e} relative, expected: {proof['rule']}. "
                        "No artifact was written", PARITY)
    say("parity", text)
    if rounding["max_logit_difference"] > 0:
        say("", f"8-bit rounding of training: {rounding['flips']} flips, logits within {rounding['max_logit_difference']:.1e}")
    if proof["refused_images"] or proof["images_resized_to_graph"]:
        say("", f"{proof['refused_images']} images refused by the input check, "
                f"{proof['images_resized_to_graph']} resized to the graph's size")
    write_json(folder / "parity.json", proof)
    return proof


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"


def _write_golden(folder: Path, checkpoint: Checkpoint, artifact: Artifact, images: ImageSet, rows: list[int], count: int) -> Any:
    """Golden inputs, logits and probabilities, PyTorch's own, as TensorProto files; returns the inputs."""
    from onnx import numpy_helper

    inputs: list[tuple[Any, ...]] = []
    seen = []
    for place in dict.fromkeys(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int).tolist()):
        item, raw, _ = device_image(images.images[rows[place]], artifact)
        try:
            batch = as_batch(item, artifact)
        except UserError:  # refused on the device too, and counted in parity.json
            continue
        inputs.append(batch if isinstance(batch, tuple) else (batch,))
        seen.append(graph_inputs(raw, artifact))
    if not inputs:
        raise UserError("none of the images chosen as golden vectors passes the input check; raise --golden-images")
    given = tuple(np.concatenate(parts) for parts in zip(*inputs, strict=True))
    logits = reference_logits(checkpoint.model, seen)
    tensors = {f"input_{place}.pb": (one, name) for place, (one, name) in enumerate(zip(given, artifact.input_names, strict=True))}
    tensors["output_0.pb"] = (logits, "logits")
    if artifact.input_kind == "image":
        tensors["output_1.pb"] = (calibrated(logits, artifact.task, artifact.temperatures), "probabilities")
    folder.mkdir()
    for name, (array, label) in tensors.items():
        write_atomic(folder / name, numpy_helper.from_array(array, label).SerializeToString(deterministic=True))
    return given


def _time(folder: Path, session: Session, golden: Any, settings: ExportSettings) -> dict[str, float]:
    first = tuple(one[:1].copy() for one in golden)
    image = first if len(first) > 1 else first[0]
    facts = {**session.facts(), "batch": 1, "path": "array"}
    report = measure(lambda: session.run(image), warmups=WARMUPS, samples=settings.samples, facts=facts)
    write_json(folder / "latency.json", report.as_dict())
    shown = report.percentiles_ms()
    rest = "".join(f", {key.removesuffix('_ms')} {shown[key]:.2f}" for key in ("p90_ms", "p95_ms") if key in shown)
    say("latency", f"{shown['p50_ms']:.2f} ms p50{rest} (array to decision, batch 1, {settings.threads} thread(s), "
                   f"{report.facts['provider'].removesuffix('ExecutionProvider')}, {report.facts['cpu']})")
    return shown

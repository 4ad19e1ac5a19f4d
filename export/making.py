"""The files of a model: one fp32 graph of a student as ONNX, and whatever it has become as what the target opens.

Owns: the fp32 graph, names of inputs and outputs, model.onnx or the IR on disk. Does not own: lowering its precision (lowering.py),
proof (parity.py), the order of a command (commands.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.nn import Module

from distill.checkpoint import Checkpoint
from distill.deployed import reparameterised
from distill.progress import say
from export.facts import MODEL, MODELS, Student, graph_size, metadata
from export.graph import DeployedGraph, TensorGraph, VolumeGraph, example_input
from export.options import Build, EngineOptions
from export.to_onnx import to_onnx
from runtimes.artifact import INPUT_NAMES, MASK, InputKind
from runtimes.folder import write_atomic


@dataclass(frozen=True)
class Made:
    """A graph that may ship: ONNX bytes, the student with the calibration of this precision, how it came about.

    ir: OpenVINO's own model where NNCF made the better int8; its ONNX is then fp32 and does not ship.
    """

    data: bytes
    student: Student
    record: dict[str, Any] = field(default_factory=dict)
    ir: Any = None


def names(checkpoint: Checkpoint, kind: InputKind) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs of the graph."""
    inputs, outputs = [INPUT_NAMES[kind]], ["logits", "probabilities"]
    if kind == "tensor":
        return inputs, ["logits"]
    return (inputs, outputs) if checkpoint.image_spec.volume is None else ([*inputs, MASK], [*outputs, "attention"])


def fp32_graph(student: Student, build: Build) -> bytes:
    """The ONNX bytes of a student in fp32, as they ship or as every other precision is made from."""
    checkpoint = student.checkpoint
    spec, size, model = checkpoint.image_spec, graph_size(checkpoint, build), reparameterised(checkpoint.model)
    inputs, outputs = names(checkpoint, build.input)
    graph: Module
    if build.input == "tensor":
        graph = TensorGraph(model)
    elif spec.volume is not None:
        graph = VolumeGraph(model, spec, checkpoint.calibration)
    else:
        graph = DeployedGraph(model, spec, checkpoint.calibration, size)
    return to_onnx(graph, example_input(spec, build.input, size), input_names=inputs, output_names=outputs, opset=build.opset,
                   metadata=metadata(student, build))


def write_model(folder: Path, made: Made, build: Build, options: EngineOptions) -> dict[str, Any]:
    """Write the files the target opens (model.onnx, the IR, an engine beside its ONNX); facts of an engine, for the manifest."""
    if build.target == "openvino":
        from export.to_openvino import IR, save_ir, to_ir

        facts = metadata(made.student, build)
        if made.ir is not None:
            save_ir(made.ir, folder / IR, facts)
        else:
            to_ir(made.data, folder / IR, facts)
        size = sum((folder / name).stat().st_size for name in (IR, IR.replace(".xml", ".bin")))
        say("export", f"{IR} and .bin {size / 1e6:.1f} MB, {build.precision}")
        return {}
    write_atomic(folder / MODEL, made.data)
    spec, size_ = made.student.checkpoint.image_spec, graph_size(made.student.checkpoint, build)
    say("export", f"{MODEL} {len(made.data) / 1e6:.1f} MB, opset {build.opset}, input {INPUT_NAMES[build.input]} "
                  f"{spec.dtype if build.input == 'image' else 'float32'} at {f'{spec.slices} slices of ' if spec.slices else ''}"
                  f"{size_[0]}x{size_[1]}, batch open")
    if build.target != "trt":
        return {}
    from export.to_tensorrt import RTX_EDGE, build_engine, build_on_device

    engine = (build_on_device(made.data, max_batch=options.max_batch) if options.on_device else
              build_engine(made.data, max_batch=options.max_batch, gpus=options.gpus or RTX_EDGE))
    write_atomic(folder / MODELS["trt"], engine.data)
    facts = {**engine.facts, "precision": build.precision}
    say("engine", f"{MODELS['trt']} {len(engine.data) / 1e6:.1f} MB for {', '.join(facts['gpus'])}, {facts['library']} "
                  f"{facts['version']}, batches {facts['batches'][0]} to {facts['batches'][2]}, {engine.seconds:.1f} s")
    return {"engine": facts}

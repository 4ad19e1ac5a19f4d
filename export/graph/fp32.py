"""The fp32 graph of a student as ONNX: what ships, or what every other precision and target is made from.

Owns: `fp32_graph`, names of inputs and outputs. Does not own: lowering its precision (lowering.py), what a target makes of it
(targets/), proof (parity.py), the order of a command (commands.py).
"""

from __future__ import annotations

from torch.nn import Module

from distill.networks.checkpoint import Checkpoint
from distill.networks.deployed import reparameterised
from export.facts import Student, graph_size, metadata
from export.graph.network import DeployedGraph, SolidGraph, TensorGraph, VolumeGraph, example_input
from export.graph.to_onnx import to_onnx
from export.options import Build
from runtimes.artifact.artifact import INPUT_NAMES, MASK, InputKind


def names(checkpoint: Checkpoint, kind: InputKind) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs of the graph."""
    inputs, outputs = [INPUT_NAMES[kind]], ["logits", "probabilities"]
    if kind == "tensor":
        return inputs, ["logits"]
    return (inputs, outputs) if not checkpoint.image_spec.masked else ([*inputs, MASK], [*outputs, "attention"])


def fp32_graph(student: Student, build: Build) -> bytes:
    """The ONNX bytes of a student in fp32, as they ship or as every other precision is made from."""
    checkpoint = student.checkpoint
    spec, size, model = checkpoint.image_spec, graph_size(checkpoint, build), reparameterised(checkpoint.model)
    inputs, outputs = names(checkpoint, build.input)
    graph: Module
    if build.input == "tensor":
        graph = TensorGraph(model)
    elif spec.volume is not None:
        graph = (VolumeGraph if spec.masked else SolidGraph)(model, spec, checkpoint.calibration)
    else:
        graph = DeployedGraph(model, spec, checkpoint.calibration, size)
    return to_onnx(graph, example_input(spec, build.input, size), input_names=inputs, output_names=outputs, opset=build.opset,
                   metadata=metadata(student, build))

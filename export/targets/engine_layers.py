"""What a TensorRT engine says about its own layers, and in which precision it computes the weights of the graph it came from.

Owns: reading the layers from the engine inspector's JSON (both layouts, of TensorRT 10 and of 11 and RTX) and from the list that
the builder logs, which needs no GPU; the share of weights per precision. Does not own: building (to_tensorrt.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from runtimes.backends.trt_library import LAYERS

PRECISIONS = ("fp32", "fp16", "int8")
# Words of both layouts, widest first: "Float", "Row major linear FP32 format", "Half", "... row major Int8 format".
_WORDS = (("fp32", ("float", "fp32")), ("fp16", ("half", "fp16")), ("int8", ("int8",)))
_LINE = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
                   r"Outputs: \[.*?\], TacticName:.*?Metadata: (?P<metadata>.*)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine: its kind, the precision it computes in, its weights (a count), the ONNX nodes it came from."""

    name: str
    kind: str
    precision: str
    weights: int
    nodes: tuple[str, ...]


def layers_from_json(text: str) -> list[Layer]:
    """Layers of the inspector's JSON; empty where the engine was built with names only, or the text is something else."""
    try:
        entries = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return []
    return [_layer_of(entry) for entry in entries if isinstance(entry, dict)]


def layers_from_log(text: str) -> list[Layer]:
    """Layers of the list that the builder logs when it is verbose; empty for any other message."""
    if not text.startswith(LAYERS):
        return []
    layers = []
    for match in map(_LINE.match, text.split("\n")):
        if match is not None:
            constants = re.findall(r"Dimensions: \[([\d,]*)\]", match["constants"])
            sizes = [prod(int(side) for side in dims.split(",") if side) for dims in constants]
            types = re.findall(r"Datatype: (\w+)", match["inputs"])
            layers.append(Layer(match["name"], match["kind"], _widest(types), max(sizes, default=0),
                                tuple(_NODE.findall(match["metadata"]))))
    return layers


def layers_by_precision(layers: Sequence[Layer]) -> dict[str, int]:
    """How many layers read fp32, fp16 and int8, and how many anything else (raw pixels, shapes)."""
    counts = dict.fromkeys((*PRECISIONS, "other"), 0)
    for layer in layers:
        counts[layer.precision] += 1
    return counts


def engine_share(layers: Sequence[Layer], weights: Mapping[str, int]) -> dict[str, float] | None:
    """Share of the weights of Conv, Gemm and MatMul that the engine computes in each precision; None if it does not name them all.

    weights counts the weights of each such node of the graph. Of several layers made from one node, that with most weights counts.
    """
    counts = dict.fromkeys(PRECISIONS, 0)
    for node, count in weights.items():
        parts = [layer for layer in layers if node in layer.nodes]
        if not parts:
            return None
        precision = max(parts, key=lambda layer: layer.weights).precision
        if precision not in counts:
            return None
        counts[precision] += count
    total = sum(counts.values())
    return {kind: round(count / total, 6) for kind, count in counts.items()} if total else None


def weights_of_nodes(data: bytes) -> dict[str, int]:
    """How many weights each Conv, Gemm and MatMul of an ONNX graph has, by node name; products of two activations are left out."""
    import onnx

    graph = onnx.load_from_string(data).graph
    sizes = {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
    behind = {node.output[0]: node.input[0] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    weights = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            for name in node.input[:2]:
                while name in behind:
                    name = behind[name]
                if name in sizes:
                    weights[node.name] = sizes[name]
    return weights


def _layer_of(entry: Mapping[str, Any]) -> Layer:
    inputs = [part for part in entry.get("Inputs", []) if isinstance(part, dict)]
    types = [str(part.get("Datatype", part.get("Format/Datatype", ""))) for part in inputs]
    weights = entry.get("Weights")
    stored = weights if isinstance(weights, dict) else {}
    precision = _widest(types)
    if precision == "other":  # TensorRT 10 may say "N/A due to dynamic shapes" of the inputs
        precision = _widest([str(stored.get("Type", ""))])
    sizes = [prod(part.get("Dimensions", [])) for part in entry.get("Constants", []) if isinstance(part, dict)]
    return Layer(str(entry.get("Name", "")), str(entry.get("LayerType", "")), precision,
                 max([*sizes, int(stored.get("Count", 0))]), tuple(_NODE.findall(str(entry.get("Metadata", "")))))


def _widest(types: Sequence[str]) -> str:
    """The widest precision among the types that a layer reads: a layer that reads one fp32 tensor computes in fp32."""
    words = [word.lower() for word in types]
    for precision, names in _WORDS:
        if any(re.search(rf"\b(?:{'|'.join(names)})", word) and "bfloat" not in word for word in words):
            return precision
    return "other"

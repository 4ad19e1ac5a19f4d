"""Which operators a device opens: those that rd-export may write and nothing else, in a graph whose memory and work are bounded.

Owns: OPERATORS of ONNX, LAYERS of OpenVINO's IR, `check_onnx` and `check_ir` on the very bytes a runtime is about to open. Does not own:
reading ONNX (onnx_graph.py), shapes (graph_cost.py). Loops, conditions, functions, custom operators and entities have no place here.
"""

from __future__ import annotations

import re
from math import prod
from xml.parsers import expat

from runtimes.errors import UserError
from runtimes.models.graph_cost import check_cost
from runtimes.models.onnx_graph import MOST_NODES, OnnxGraph, read_graph
from runtimes.models.ort_format import read_ort

DOMAINS = ("", "ai.onnx")
IMAGES = (1, 16)  # for how many images a graph's memory is looked at: it may grow as they do, not faster
# Operators of image classifiers that all three runtimes take in opset 18 to 20 (TensorRT 10's table is the narrowest). Every one has a
# rule for its shapes in graph_cost.py; an export with any other is refused.
OPERATORS = frozenset([
    "Abs", "Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Concat",
    "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "CumSum", "DequantizeLinear", "Div", "Einsum",
    "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "Gelu", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax",
    "LpNormalization", "MatMul", "Max", "MaxPool", "Min", "Mish", "Mul", "Neg", "Not", "PRelu", "Pad", "Pow",
    "QuantizeLinear", "Range", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "Relu", "Reshape", "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Softplus",
    "Softsign", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK", "Transpose", "Trilu",
    "Unsqueeze", "Where",
])


# What OpenVINO makes of them, and of its own int8; under a name of its own op sets.
LAYERS = frozenset([
    "Abs", "Add", "AvgPool", "BatchNormInference", "Broadcast", "Ceiling", "Clamp", "Concat", "Const", "Convert", "ConvertLike",
    "Convolution", "ConvolutionBackpropData", "Cos", "CumSum", "Divide", "Einsum", "Elu", "Equal", "Erf", "Exp", "FakeQuantize", "Floor",
    "Gather", "Gelu", "Greater", "GreaterEqual", "GroupConvolution", "GroupConvolutionBackpropData", "GroupNormalization", "HSwish",
    "HardSigmoid", "Identity", "Less", "LessEqual", "Log", "LogSoftmax", "LogicalNot", "MVN", "MatMul", "MaxPool", "Maximum", "Minimum",
    "Mish", "Multiply", "Negative", "NormalizeL2", "NotEqual", "PReLU", "Pad", "Parameter", "Power", "Range", "ReLU", "ReduceL1",
    "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Result", "Reverse",
    "ScatterElementsUpdate", "Select", "Selu", "ShapeOf", "Sigmoid", "Sign", "Sin", "Slice", "SoftMax", "SoftPlus", "SoftSign", "Split",
    "Sqrt", "Squeeze", "StridedSlice", "Subtract", "Swish", "Tanh", "Tile", "TopK", "Transpose", "Unsqueeze", "VariadicSplit"])
OPSET = re.compile(r"opset\d{1,2}")
MOST_DEPTH = 32  # elements within elements of an IR


def check_onnx(model: bytes) -> None:
    """Refuse, in one sentence, an ONNX file that holds anything rd-export does not write, or asks for memory or work without bound."""
    check_graph(read_graph(model))


def check_ort(model: bytes) -> None:
    """The same of an .ort file, ONNX Runtime's own format."""
    check_graph(read_ort(model)[0])


def check_graph(graph: OnnxGraph) -> None:
    """Refuse a graph of other operators than those that rd-export writes, or of unbounded memory or work."""
    if strangers := sorted(set(graph.opsets) - set(DOMAINS)):
        raise UserError(f"it needs operators of {strangers[0][:80]!r}, which no runtime here has")
    for node in graph.nodes:
        if node.domain not in DOMAINS or node.operator not in OPERATORS:
            raise UserError(f"operator {node.domain or 'ai.onnx'}::{node.operator} ({node.name[:80]}) is none that rd-export writes"[:300])
    if not graph.outputs or not graph.inputs:
        raise UserError("it has no inputs, or no outputs")
    for images in IMAGES:
        check_cost(graph, images)


def check_ir(xml: bytes, weights_bytes: int) -> None:
    """Refuse, in one sentence, an IR that is no plain XML of plain layers: loops, extensions, entities, constants beyond its weights."""
    if b"\0" in xml:  # another encoding, which two parsers may read in two ways
        raise UserError("it is no XML in UTF-8")
    reader = _IrReader(weights_bytes)
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = reader.opened, reader.closed
    parser.StartDoctypeDeclHandler = lambda *_: reader.refuse("a document type")  # and with it every entity
    parser.ProcessingInstructionHandler = lambda *_: reader.refuse("an instruction to a processor")
    parser.StartCdataSectionHandler = lambda: reader.refuse("a section of raw text")
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, ValueError) as error:
        raise UserError(f"it is not readable XML ({error})") from None
    if not reader.layers:
        raise UserError("it has no layers")


class _IrReader:
    """What stands in an IR: `net` of `layers`, `edges` and facts; a layer of another kind, or one that holds a net, is refused."""

    def __init__(self, weights_bytes: int) -> None:
        self.weights_bytes, self.path, self.layers, self.kind, self.name = weights_bytes, list[str](), 0, "", ""

    def refuse(self, what: str) -> None:
        raise UserError(f"it holds {what}, which rd-export never writes")

    def opened(self, tag: str, attributes: dict[str, str]) -> None:
        self.path.append(tag)
        if len(self.path) > MOST_DEPTH:
            raise UserError(f"elements more than {MOST_DEPTH} deep")
        if tag in ("body", "net", "then_body", "else_body") and len(self.path) > 1 and "rt_info" not in self.path:
            self.refuse(f"a graph within layer {self.name[:80]}")
        if self.path == ["net", "layers", "layer"]:
            self.layers += 1
            self.kind, self.name = attributes.get("type", ""), attributes.get("name", "")
            if self.layers > MOST_NODES:
                raise UserError(f"more than {MOST_NODES:,} layers, which no network of ours has")
            if self.kind not in LAYERS or not OPSET.fullmatch(attributes.get("version", "")):
                raise UserError(f"layer {attributes.get('version', '')[:40]}::{self.kind[:80]} ({self.name[:80]}) "
                                "is none that rd-export writes")
        elif tag == "layer" and "rt_info" not in self.path:
            self.refuse(f"a layer within {self.name[:80] or 'no layers'}")
        elif self.path == ["net", "layers", "layer", "data"] and self.kind == "Const":
            self.check_constant(attributes)

    def check_constant(self, attributes: dict[str, str]) -> None:
        """Whether a constant's values lie within the weights, and fit its shape."""
        try:
            offset, size = int(attributes["offset"]), int(attributes["size"])
            shape = [int(side) for side in attributes["shape"].split(",") if side.strip()]
            bits = int(re.sub(r"\D", "", attributes["element_type"].split("e")[0]) or 8)  # f16, i64, u8; boolean takes a byte
        except (KeyError, ValueError):
            raise UserError(f"constant {self.name[:80]} does not say where its values are") from None
        if min(offset, size, *shape, 0) < 0 or offset + size > self.weights_bytes:
            raise UserError(f"constant {self.name[:80]} reads bytes {offset:,} to {offset + size:,} of {self.weights_bytes:,}")
        if size * 8 < prod(shape) * bits:
            raise UserError(f"constant {self.name[:80]} of shape {shape} needs {prod(shape) * bits // 8:,} bytes, found {size:,}")

    def closed(self, tag: str) -> None:
        self.path.pop()
